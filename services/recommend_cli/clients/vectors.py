"""vector_search as the command sees it: what it holds, and how exact its dense search is."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from recommend_cli.clients.services import errors_told
from recommendation.vector_search.v1 import vector_search_pb2 as pb
from recommendation.vector_search.v1 import vector_search_pb2_grpc as rpc
from servicekit.rpc.client import RpcChannel

# These answer without being learned, so no model names them.
_ALWAYS: Final = ("content", "graph", "trending")
_CALL_S: Final = 10.0
_RECALL_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class IndexState:
    """The version that serves (empty before the first), the sources that can be asked alone, the stored vectors."""

    version: str
    sources: Sequence[str]
    embedded_items: int


@dataclass(frozen=True, slots=True)
class Recall:
    """How many of the exact nearest the dense search found, where a part of the items passes a filter."""

    selectivity: float
    recall: float
    p50_ms: float


class VectorIndex:
    """The vectors and tables of one tenant."""

    def __init__(self, channel: RpcChannel, tenant: str) -> None:
        self._channel = channel
        self._stub = rpc.VectorSearchServiceStub(channel.channel)
        self._tenant = tenant

    async def describe(self) -> IndexState:
        """Tell what is held now."""
        request = pb.DescribeVersionsRequest(tenant=self._tenant)
        with errors_told():
            answer = await self._channel.unary(self._stub.DescribeVersions, request, timeout_s=_CALL_S, idempotent=True)
        serving = json.loads(answer.serving_json) if answer.serving_json else {}
        return IndexState(
            version=next((version.version for version in answer.versions if version.active), ""),
            sources=tuple(dict.fromkeys([*serving.get("sources", {}), *_ALWAYS])),
            embedded_items=answer.embedded_items,
        )

    async def measure_recall(self, *, seed: int) -> Sequence[Recall]:
        """Compare the dense search with exact search, without a filter and with selective ones."""
        request = pb.MeasureRecallRequest(tenant=self._tenant, collection=pb.COLLECTION_CONTENT, seed=seed)
        with errors_told():
            answer = await self._channel.unary(self._stub.MeasureRecall, request, timeout_s=_RECALL_S)
        return [Recall(each.selectivity, each.recall, each.p50_ms) for each in answer.measurements]
