"""Rebuilds as the command sees them: of content vectors by gpu_worker, of the graph by graph_service."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from recommend_cli.clients.services import errors_told
from recommend_cli.errors import CommandError
from recommendation.gpu_worker.v1 import gpu_worker_pb2
from recommendation.gpu_worker.v1.gpu_worker_pb2_grpc import GpuWorkerServiceStub
from recommendation.graph_service.v1 import graph_service_pb2
from recommendation.graph_service.v1.graph_service_pb2_grpc import GraphServiceStub
from servicekit.rpc.client import RpcChannel

_CALL_S: Final = 10.0
_REBUILD_S: Final = 24 * 3600.0
_POLL_S: Final = 0.2
_PHASES: Final[Mapping[int, str]] = {
    graph_service_pb2.REBUILD_PHASE_CLEARING: "making room",
    graph_service_pb2.REBUILD_PHASE_ITEMS: "items",
    graph_service_pb2.REBUILD_PHASE_INTERACTIONS: "interactions",
    graph_service_pb2.REBUILD_PHASE_CATCHING_UP: "what the log tells",
    graph_service_pb2.REBUILD_PHASE_COMPARING: "comparing",
    graph_service_pb2.REBUILD_PHASE_SERVING: "serving",
}

OnProgress = Callable[[str, float], None]
"""Takes what is being done and the share done."""


class Source(Enum):
    """From what to rebuild."""

    PROFILE_STORE = "profile-store"
    LOG = "log"


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild came to.

    Args:
        counts: By what is counted, how many there should be and how many there are.
        sampled: How many were compared one by one.
        differing: How many of these differ.
        notes: What else is worth telling, by name.
    """

    counts: Mapping[str, tuple[int, int]]
    sampled: int
    differing: int
    notes: Mapping[str, str]

    @property
    def agrees(self) -> bool:
        """Whether both tell the same story."""
        return not self.differing and all(expected == found for expected, found in self.counts.values())


async def rebuild_vectors(channel: RpcChannel, tenant: str, source: Source, *, on_progress: OnProgress) -> Rebuilt:
    """Make a tenant's content vectors anew and wait for the end.

    Raises:
        CommandError: It cannot start, or fails; the old vectors serve.
    """
    stub = GpuWorkerServiceStub(channel.channel)
    from_log = source is Source.LOG
    request = gpu_worker_pb2.StartRebuildRequest(
        tenant=tenant,
        source=gpu_worker_pb2.REBUILD_SOURCE_LOG if from_log else gpu_worker_pb2.REBUILD_SOURCE_PROFILE_STORE,
    )
    with errors_told():
        started = await channel.unary(stub.StartRebuild, request, timeout_s=_CALL_S)
        asking = gpu_worker_pb2.GetRebuildRequest(rebuild_id=started.rebuild_id)
        while True:
            state = await channel.unary(stub.GetRebuild, asking, timeout_s=_CALL_S, idempotent=True)
            on_progress(state.stage, state.progress)
            if state.state != gpu_worker_pb2.REBUILD_STATE_RUNNING:
                break
            await asyncio.sleep(_POLL_S)
    if state.state != gpu_worker_pb2.REBUILD_STATE_SUCCEEDED:
        raise CommandError(f"The rebuild failed, and the old vectors serve: {state.message}")
    return Rebuilt(
        counts={"vectors": (state.items, state.vectors)},
        sampled=state.sampled,
        differing=state.differing,
        notes={
            "vectors before": f"{state.previous_vectors:,}",
            "texts embedded anew": f"{state.encoded:,}",
            "recall@10 of the search": f"{state.recall_at_10:.3f}",
        },
    )


async def rebuild_graph(channel: RpcChannel, tenant: str, source: Source, *, on_progress: OnProgress) -> Rebuilt:
    """Build the graph again and wait for the end.

    Raises:
        CommandError: It cannot start, or fails; the old graph serves.
    """
    stub = GraphServiceStub(channel.channel)
    from_log = source is Source.LOG
    request = graph_service_pb2.RebuildGraphRequest(
        source=(graph_service_pb2.REBUILD_SOURCE_LOG if from_log else graph_service_pb2.REBUILD_SOURCE_PROFILE_STORE),
        tenants=[tenant],
    )
    with errors_told():
        held = await channel.unary(
            stub.DescribeGraph, graph_service_pb2.DescribeGraphRequest(), timeout_s=_CALL_S, idempotent=True
        )
        expected = max(1, held.counts.items + held.counts.relations)
        last = graph_service_pb2.RebuildGraphResponse()
        async for last in channel.stream(stub.RebuildGraph, request, timeout_s=_REBUILD_S):
            on_progress(_PHASES.get(last.phase, ""), min(1.0, last.written / expected))
    if last.phase != graph_service_pb2.REBUILD_PHASE_SERVING:
        raise CommandError("The rebuild ended too early, and the old graph serves")
    before, after = last.serving, last.rebuilt
    return Rebuilt(
        counts={
            "items": (before.items, after.items),
            "users": (before.users, after.users),
            "relations": (before.relations, after.relations),
            "links": (before.links, after.links),
        },
        sampled=last.sampled,
        differing=last.sampled - last.agreeing,
        notes={"changes written": f"{last.written:,}"},
    )
