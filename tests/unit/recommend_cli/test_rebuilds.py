import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from recommend_cli.clients.rebuilds import Rebuilt, Source, rebuild_graph, rebuild_vectors
from recommend_cli.commands import rebuild as rebuild_module
from recommend_cli.errors import CommandError
from recommend_cli.stack.folder import RunFolder, ServiceState, StackState
from recommend_cli.stack.leftovers import created_at
from recommendation.gpu_worker.v1 import gpu_worker_pb2
from recommendation.gpu_worker.v1.gpu_worker_pb2_grpc import (
    GpuWorkerServiceServicer,
    add_GpuWorkerServiceServicer_to_server,
)
from recommendation.graph_service.v1 import graph_service_pb2
from recommendation.graph_service.v1.graph_service_pb2_grpc import (
    GraphServiceServicer,
    add_GraphServiceServicer_to_server,
)
from servicekit.testing import served


@dataclass
class FakeGpuWorker(GpuWorkerServiceServicer):
    """Answers the states one after the other."""

    states: list[gpu_worker_pb2.GetRebuildResponse]
    asked: list[Any] = field(default_factory=list)

    async def StartRebuild(self, request: Any, _: object) -> gpu_worker_pb2.StartRebuildResponse:  # noqa: N802 - the proto's name
        self.asked.append(request)
        return gpu_worker_pb2.StartRebuildResponse(rebuild_id="r1")

    async def GetRebuild(self, request: Any, _: object) -> gpu_worker_pb2.GetRebuildResponse:  # noqa: N802 - the proto's name
        assert request.rebuild_id == "r1"
        return self.states.pop(0)


@dataclass
class FakeGraphService(GraphServiceServicer):
    """Streams these answers."""

    answers: list[graph_service_pb2.RebuildGraphResponse]
    asked: list[Any] = field(default_factory=list)

    async def DescribeGraph(self, request: Any, _: object) -> graph_service_pb2.DescribeGraphResponse:  # noqa: ARG002, N802 - the proto's name
        counts = graph_service_pb2.GraphCounts(items=10, relations=30)
        return graph_service_pb2.DescribeGraphResponse(counts=counts)

    async def RebuildGraph(  # noqa: N802 - the proto's name
        self, request: Any, _: object
    ) -> AsyncIterator[graph_service_pb2.RebuildGraphResponse]:
        self.asked.append(request)
        for answer in self.answers:
            yield answer


def _worker(*states: gpu_worker_pb2.GetRebuildResponse) -> FakeGpuWorker:
    return FakeGpuWorker(list(states))  # type: ignore[abstract]  # the other calls are not made


def _graph(*answers: graph_service_pb2.RebuildGraphResponse) -> FakeGraphService:
    return FakeGraphService(list(answers))  # type: ignore[abstract]  # the other calls are not made


def _state(state: int, **more: Any) -> gpu_worker_pb2.GetRebuildResponse:
    return gpu_worker_pb2.GetRebuildResponse(state=state, **more)  # type: ignore[arg-type]  # enums are integers


async def test_vectors_are_rebuilt_to_the_end_and_compared() -> None:
    worker = _worker(
        _state(gpu_worker_pb2.REBUILD_STATE_RUNNING, stage="embedding", progress=0.5),
        _state(gpu_worker_pb2.REBUILD_STATE_SUCCEEDED, progress=1.0, items=7, vectors=7, sampled=5, encoded=2),
    )
    seen: list[tuple[str, float]] = []
    async with served(lambda server: add_GpuWorkerServiceServicer_to_server(worker, server)) as (_, channel):
        rebuilt = await rebuild_vectors(
            channel, "shop", Source.LOG, on_progress=lambda stage, share: seen.append((stage, share))
        )
    assert rebuilt.agrees
    assert rebuilt.counts == {"vectors": (7, 7)}
    assert seen == [("embedding", 0.5), ("", 1.0)]
    (request,) = worker.asked
    assert (request.tenant, request.source) == ("shop", gpu_worker_pb2.REBUILD_SOURCE_LOG)


@pytest.mark.parametrize(
    "story", [{"items": 7, "vectors": 6}, {"items": 7, "vectors": 7, "sampled": 5, "differing": 1}]
)
async def test_vectors_that_differ_are_another_story(story: dict[str, int]) -> None:
    worker = _worker(_state(gpu_worker_pb2.REBUILD_STATE_SUCCEEDED, **story))
    async with served(lambda server: add_GpuWorkerServiceServicer_to_server(worker, server)) as (_, channel):
        rebuilt = await rebuild_vectors(channel, "shop", Source.PROFILE_STORE, on_progress=lambda *_: None)
    assert not rebuilt.agrees


async def test_a_rebuild_that_fails_says_why() -> None:
    worker = _worker(_state(gpu_worker_pb2.REBUILD_STATE_FAILED, message="profile_store is away"))
    async with served(lambda server: add_GpuWorkerServiceServicer_to_server(worker, server)) as (_, channel):
        with pytest.raises(CommandError, match="the old vectors serve: profile_store is away"):
            await rebuild_vectors(channel, "shop", Source.PROFILE_STORE, on_progress=lambda *_: None)


def _counts(relations: int) -> graph_service_pb2.GraphCounts:
    return graph_service_pb2.GraphCounts(items=10, users=4, relations=relations, links=20)


@pytest.mark.parametrize(
    ("relations", "agreeing", "agrees"), [(30, 10, True), (29, 10, False), (30, 9, False)], ids=str
)
async def test_the_graph_is_rebuilt_and_compared(relations: int, agreeing: int, *, agrees: bool) -> None:
    service = _graph(
            graph_service_pb2.RebuildGraphResponse(phase=graph_service_pb2.REBUILD_PHASE_ITEMS, written=10),
            graph_service_pb2.RebuildGraphResponse(
                phase=graph_service_pb2.REBUILD_PHASE_SERVING, written=40, serving=_counts(30),
                rebuilt=_counts(relations), sampled=10, agreeing=agreeing,
            ),
        )  # fmt: skip
    seen: list[tuple[str, float]] = []
    async with served(lambda server: add_GraphServiceServicer_to_server(service, server)) as (_, channel):
        rebuilt = await rebuild_graph(
            channel, "shop", Source.PROFILE_STORE, on_progress=lambda stage, share: seen.append((stage, share))
        )
    assert rebuilt.agrees is agrees
    assert rebuilt.counts["relations"] == (30, relations)
    assert seen == [("items", 0.25), ("serving", 1.0)]
    assert list(service.asked[0].tenants) == ["shop"]


async def test_a_graph_that_never_served_is_told() -> None:
    service = _graph(
        graph_service_pb2.RebuildGraphResponse(phase=graph_service_pb2.REBUILD_PHASE_COMPARING, written=40)
    )
    async with served(lambda server: add_GraphServiceServicer_to_server(service, server)) as (_, channel):
        with pytest.raises(CommandError, match="the old graph serves"):
            await rebuild_graph(channel, "shop", Source.PROFILE_STORE, on_progress=lambda *_: None)


@pytest.mark.parametrize("agrees", [True, False])
def test_the_command_ends_with_an_error_when_the_stories_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *, agrees: bool
) -> None:
    async def rebuilt(*_: Any, **__: Any) -> Rebuilt:
        return Rebuilt({"items": (10, 10 if agrees else 9)}, 5, 0, {"changes written": "40"})

    monkeypatch.setattr(rebuild_module, "rebuild_graph", rebuilt)
    folder = RunFolder(tmp_path)
    service = ServiceState("graph_service", 1, 1.0, "127.0.0.1:1", "grpc", 0)
    with folder.locked():
        folder.write_state(
            StackState(
                os.getpid(), created_at(os.getpid()), "ready", ("http://h:1",), auth=True,
                services={"graph_service": service},
            )
        )  # fmt: skip
        if agrees:
            rebuild_module.rebuild_graph_command(tmp_path)
        else:
            with pytest.raises(CommandError, match="not tell the same story"):
                rebuild_module.rebuild_graph_command(tmp_path)
    assert "alike of 5 compared" in capsys.readouterr().out
