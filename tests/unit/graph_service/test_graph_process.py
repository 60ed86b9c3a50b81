"""The service as a process: ready, killed, started again, told to stop, badly configured."""

import asyncio
import os
import random
import shutil
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from graph_service.adapters.memory import MemoryGraphStore
from graph_service.adapters.sqlite import SqliteGraphStore
from graph_service.bootstrap import member_name
from graph_service.domain.graph import Interaction
from graph_service.domain.ports import RelatednessRule
from graph_service.settings import GraphServiceSettings
from recommendation.common.v1 import common_pb2
from recommendation.events.v1 import events_pb2
from recommendation.graph_service.v1 import graph_service_pb2 as pb
from recommendation.graph_service.v1 import graph_service_pb2_grpc as pb_grpc
from servicekit.errors import ServiceError
from servicekit.eventlog.port import NewRecord
from servicekit.eventlog.sqlite import SqliteEventLog
from servicekit.eventlog.topics import CONTENT_CHANGED, USER_INTERACTIONS, default_specs, dlq
from servicekit.identity import item_key, user_key
from servicekit.rpc.client import RpcChannel
from servicekit.testing import eventually, free_port

AT_MS = 1_600_000_000_000
ITEMS = 60
STARTS_S = 60.0


class Service:
    """The process, and a channel to it that outlives it."""

    def __init__(self, folder: Path, channel: RpcChannel, port: int) -> None:
        self.stub = pb_grpc.GraphServiceStub(channel.channel)
        self.channel = channel
        self._environment = os.environ | {
            "DATA_DIR": str(folder),
            "GRPC_PORT": str(port),
            "METRICS_PORT": "0",
            "CONSUMER_MAX_BATCH": "200",
            "OMP_NUM_THREADS": "1",
        }
        self._process: Process | None = None

    async def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "graph_service", env=self._environment, stderr=DEVNULL
        )
        await eventually(self.is_ready, timeout_s=STARTS_S, interval_s=0.05)

    async def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    async def stop(self) -> int:
        """Ask it to stop and give its exit code."""
        assert self._process is not None
        self._process.terminate()
        code = await self._process.wait()
        self._process = None
        return code

    async def is_ready(self) -> bool:
        """Say whether it serves."""
        assert self._process is not None
        assert self._process.returncode is None, "it ended by itself"
        health = health_pb2_grpc.HealthStub(self.channel.channel)
        try:
            answer = await self.channel.unary(
                health.Check,  # type: ignore[attr-defined]  # the stubs lack it
                health_pb2.HealthCheckRequest(),
                timeout_s=1.0,
            )
        except ServiceError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def apply(self, interactions: Sequence[Interaction]) -> None:
        """Write interactions."""
        mutations = [
            pb.ApplyMutationsRequest.Mutation(
                interaction=pb.ApplyMutationsRequest.Interaction(
                    tenant="t",
                    user_id=f"u{each.user_key}",
                    item_key=each.item_key,
                    weight=each.weight,
                    occurred_at_ms=each.occurred_at_ms,
                )
            )
            for each in interactions
        ]
        request = pb.ApplyMutationsRequest(mutations=mutations)
        answer = await self.channel.unary(self.stub.ApplyMutations, request, timeout_s=5.0)
        assert not any(error.code for error in answer.errors)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Service]:
    port = free_port()
    async with RpcChannel(f"127.0.0.1:{port}", name="graph_service") as channel:
        service = Service(folder, channel, port)
        try:
            await service.start()
            yield service
        finally:
            await service.kill()


def interaction_event(user: int, item: int, at_ms: int) -> NewRecord:
    event = events_pb2.InteractionRecorded(
        event_id=f"{user}.{item}.{at_ms}",
        occurred_at_ms=at_ms,
        tenant="t",
        user_id=f"u{user}",
        item_type="film",
        item_id=str(item),
        interaction_type="view",
    )
    return NewRecord(USER_INTERACTIONS, f"t/u{user}", event.SerializeToString())


def item_event(item: int) -> NewRecord:
    state = common_pb2.Item(tenant="t", item_type="film", item_id=str(item), updated_at_ms=AT_MS)
    state.attributes["genres"].texts.values.append(f"genre {item % 7}")
    event = events_pb2.ContentChanged(event_id=f"i{item}", occurred_at_ms=AT_MS, put=state)
    return NewRecord(CONTENT_CHANGED, f"t/film/{item}", event.SerializeToString())


async def assert_holds(folder: Path, interactions: Sequence[Interaction]) -> None:
    """Compare the stopped service's file with a reference that saw the same."""
    reference = MemoryGraphStore()
    await reference.apply(interactions)
    store = SqliteGraphStore(folder / "graph_service" / "graph.sqlite")
    items = np.array(sorted({each.item_key for each in interactions}), dtype=np.int64)
    for mine, theirs in zip(
        await store.related(items, RelatednessRule()), await reference.related(items, RelatednessRule()), strict=True
    ):
        assert mine.users == theirs.users
        assert mine.keys.tolist() == theirs.keys.tolist()
        np.testing.assert_allclose(mine.scores[:, 2], theirs.scores[:, 2], rtol=1e-5)
    await store.close()


async def test_it_reads_the_log_before_it_is_ready_and_stops_when_told(tmp_path: Path) -> None:
    log = SqliteEventLog(tmp_path / "log")
    await log.ensure_topics(default_specs())
    events = [item_event(item) for item in range(ITEMS)]
    events += [interaction_event(user, item, AT_MS) for user in range(20) for item in range(ITEMS)]
    events.append(NewRecord(USER_INTERACTIONS, "t/broken", b"\xff"))
    await log.producer().append(events)
    async with running(tmp_path) as service:
        query = pb.RelatedItemsRequest.Query(tenant="t", item_key=item_key("t", "film", "0"), limit=400)
        answer = await service.channel.unary(
            service.stub.RelatedItems, pb.RelatedItemsRequest(queries=[query]), timeout_s=5.0
        )
        assert len(answer.results[0].item_keys) == 8 * (ITEMS - 1)
        assert sum((await log.end_offsets([dlq(USER_INTERACTIONS)])).values()) == 1
        assert await service.stop() == 0
    await log.close()


@pytest.mark.timeout(300)  # on a busy machine each start takes its time
async def test_killed_over_and_over_it_loses_nothing_and_does_nothing_twice(tmp_path: Path) -> None:
    rng = random.Random(3)
    log = SqliteEventLog(tmp_path / "log", sync="normal")
    await log.ensure_topics(default_specs())
    producer = log.producer()
    applied: list[Interaction] = []
    async with running(tmp_path) as service:
        for turn in range(2):
            pairs = [(rng.randrange(200), rng.randrange(ITEMS)) for _ in range(3_000)]
            at_ms = AT_MS + 10 * turn
            applied += [
                Interaction(user_key("t", f"u{user}"), item_key("t", "film", str(item)), 1.0, at_ms)
                for user, item in pairs
            ]
            await producer.append([interaction_event(user, item, at_ms) for user, item in pairs])
            await asyncio.sleep(rng.uniform(0.05, 0.4))
            await service.kill()
            await service.start()
        assert await service.stop() == 0
    await log.close()
    await assert_holds(tmp_path, applied)


async def test_what_was_acknowledged_survives(tmp_path: Path) -> None:
    rng = random.Random(4)
    written: list[Interaction] = []
    async with running(tmp_path) as service:

        async def write() -> None:
            while True:
                batch = [Interaction(rng.randrange(50), rng.randrange(1, ITEMS), 1.0, AT_MS) for _ in range(20)]
                await service.apply(batch)
                written.extend(batch)

        writing = asyncio.create_task(write())
        await eventually(lambda: len(written) > 500)
        await service.kill()
        with pytest.raises(ServiceError):
            await writing
    known = [
        Interaction(user_key("t", f"u{each.user_key}"), each.item_key, each.weight, each.occurred_at_ms)
        for each in written
    ]
    store = SqliteGraphStore(tmp_path / "graph_service" / "graph.sqlite")
    applied = await store.apply(known)
    assert applied.new_edges == {}, "all of it was there"
    await store.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GRAPH_STORE_URL", "http://there"),
        ("NEO4J_POOL_SIZE", "0"),
        ("GRPC_PORT", "-1"),
        ("USER_DAMPING", "nan"),
        ("INTERACTION_WEIGHTS", '{"view": "much"}'),
    ],
)
async def test_a_bad_setting_ends_it_at_once_in_one_line(tmp_path: Path, name: str, value: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "graph_service", env=os.environ | {"DATA_DIR": str(tmp_path), name: value}, stderr=PIPE
    )
    _, told = await process.communicate()
    assert process.returncode == 2
    assert told.decode().startswith(name)
    assert len(told.splitlines()) == 1
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - nothing was made


async def test_the_embedded_store_needs_no_driver() -> None:
    asked = "import sys, graph_service.__main__; sys.exit('neo4j' in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", asked)
    assert await process.wait() == 0


async def test_the_embedded_store_needs_no_migration(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "graph_service.migrate", env=os.environ | {"DATA_DIR": str(tmp_path)}, stdout=PIPE
    )
    told, _ = await process.communicate()
    assert process.returncode == 0
    assert "migrates itself" in told.decode()


@pytest.mark.parametrize("url", ["bolt://:x", "bolt://there?what=ever"])
async def test_an_address_that_cannot_be_is_told_in_one_line(tmp_path: Path, url: str) -> None:
    environment = os.environ | {"DATA_DIR": str(tmp_path), "GRAPH_STORE_URL": url, "METRICS_PORT": "0"}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "graph_service", env=environment, stderr=PIPE)
    _, told = await process.communicate()
    assert process.returncode == 2
    (line,) = told.decode().splitlines()
    assert line.startswith("GRAPH_STORE_URL")


def test_a_replica_has_a_name_of_its_own() -> None:
    assert member_name(GraphServiceSettings()) == "graph_service"
    shared = GraphServiceSettings(graph_store_url="bolt://there")
    assert member_name(shared) == f"graph_service-{socket.gethostname()}"
    assert member_name(shared.model_copy(update={"consumer_member": "me"})) == "me"


async def test_what_a_killed_rebuild_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "graph.sqlite"
    store = SqliteGraphStore(path)
    await store.apply([Interaction(1, 2, 1.0, AT_MS)])
    rebuild = await store.begin_rebuild()
    await rebuild.fill([Interaction(1, 3, 1.0, AT_MS)])
    left = tmp_path / "left"
    left.mkdir()
    for name in os.listdir(tmp_path):  # noqa: PTH208 - as they lie there when the process is killed now
        if name.startswith("graph"):
            shutil.copy(tmp_path / name, left)
    assert len(list(left.glob("graph-2.sqlite*"))) > 1
    await store.close()
    again = SqliteGraphStore(left / "graph.sqlite")
    assert not list(left.glob("graph-2.sqlite*"))
    assert (await again.busiest_items(9)).tolist() == [2]
    await again.close()


async def test_the_rebuilt_graph_serves_after_a_restart(tmp_path: Path) -> None:
    store = SqliteGraphStore(tmp_path / "graph.sqlite")
    rebuild = await store.begin_rebuild()
    await rebuild.fill([Interaction(1, 3, 1.0, AT_MS)])
    await rebuild.finish()
    await store.close()
    again = SqliteGraphStore(tmp_path / "graph.sqlite")
    assert (await again.busiest_items(9)).tolist() == [3]
    assert not (tmp_path / "graph.sqlite").exists()
    await again.close()
