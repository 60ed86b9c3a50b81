"""vector_search over gRPC, as far as its content vectors are rebuilt from here."""

from collections.abc import Mapping, Sequence

import numpy as np

from gpu_worker.adapters.vector_search import embedding_message
from gpu_worker.domain.ports import Embedding, Mark
from gpu_worker.domain.rebuilding import Begun, Finished
from recommendation.vector_search.v1 import vector_search_pb2 as pb
from recommendation.vector_search.v1 import vector_search_pb2_grpc as pb_grpc
from servicekit.arrays import Floats, Keys, pack_keys, unpack_floats
from servicekit.errors import ServiceError, error_from_code
from servicekit.rpc.client import RpcChannel

_MAX_UPSERTS = 1_000
_MAX_MARKS = 10_000
_MAX_VECTORS = 1_000
_TIMEOUT_S = 60.0
_FINISH_TIMEOUT_S = 600.0  # verifies and, in an embedded index, copies all vectors


class GrpcRebuiltIndex:
    """See RebuiltIndex."""

    def __init__(self, channel: RpcChannel) -> None:
        self._channel = channel
        self._stub = pb_grpc.VectorSearchServiceStub(channel.channel)

    async def begin(self, tenant: str, model_id: str, dimensions: int) -> Begun:
        """See RebuiltIndex."""
        request = pb.BeginRebuildRequest(tenant=tenant, model_id=model_id, dimensions=dimensions)
        answer = await self._channel.unary(self._stub.BeginRebuild, request, timeout_s=_TIMEOUT_S, idempotent=True)
        return Begun(answer.collection, answer.serving_points)

    async def marks(self, tenant: str, keys: Keys, *, collection: str) -> Sequence[Mark]:
        """See RebuiltIndex."""
        found = await self._look_up(tenant, keys, collection=collection, with_vectors=False)
        return [mark for mark, _ in found]

    async def fill(self, embeddings: Sequence[Embedding], *, collection: str) -> Sequence[ServiceError | None]:
        """See RebuiltIndex."""
        outcomes: list[ServiceError | None] = []
        for first in range(0, len(embeddings), _MAX_UPSERTS):
            request = pb.UpsertItemsRequest(
                embeddings=map(embedding_message, embeddings[first : first + _MAX_UPSERTS]), collection=collection
            )
            answer = await self._channel.unary(self._stub.UpsertItems, request, timeout_s=_TIMEOUT_S, idempotent=True)
            outcomes += map(_error_of, answer.results)
        return outcomes

    async def delete(self, tenant: str, keys: Keys) -> None:
        """See RebuiltIndex."""
        for first in range(0, len(keys), _MAX_MARKS):
            request = pb.DeleteItemsRequest(tenant=tenant, item_keys=pack_keys(keys[first : first + _MAX_MARKS]))
            await self._channel.unary(self._stub.DeleteItems, request, timeout_s=_TIMEOUT_S, idempotent=True)

    async def finish(self, tenant: str, collection: str, *, least_vectors: int) -> Finished:
        """See RebuiltIndex."""
        request = pb.FinishRebuildRequest(tenant=tenant, collection=collection, least_points=least_vectors)
        answer = await self._channel.unary(self._stub.FinishRebuild, request, timeout_s=_FINISH_TIMEOUT_S)
        return Finished(answer.points, answer.previous_points, answer.recall_at_10)

    async def stored(self, tenant: str, keys: Keys) -> Sequence[tuple[Mark, Floats | None]]:
        """See RebuiltIndex."""
        return await self._look_up(tenant, keys, collection="", with_vectors=True)

    async def gaps(self) -> Mapping[str, int]:
        """See RebuiltIndex."""
        answer = await self._channel.unary(
            self._stub.FindGaps, pb.FindGapsRequest(), timeout_s=_TIMEOUT_S, idempotent=True
        )
        return {gap.tenant: gap.items for gap in answer.gaps}

    async def _look_up(
        self, tenant: str, keys: Keys, *, collection: str, with_vectors: bool
    ) -> list[tuple[Mark, Floats | None]]:
        found: list[tuple[Mark, Floats | None]] = []
        most = _MAX_VECTORS if with_vectors else _MAX_MARKS
        for first in range(0, len(keys), most):
            request = pb.LookupEmbeddingsRequest(
                tenant=tenant,
                item_keys=pack_keys(keys[first : first + most]),
                collection=collection,
                with_vectors=with_vectors,
            )
            answer = await self._channel.unary(
                self._stub.LookupEmbeddings, request, timeout_s=_TIMEOUT_S, idempotent=True
            )
            for mark in answer.marks:
                vector = np.asarray(unpack_floats(mark.vector, field="vector")) if mark.vector else None
                found.append((Mark(mark.model_id, mark.content_hash), vector))
        return found


def _error_of(result: pb.UpsertItemsResponse.Result) -> ServiceError | None:
    if not result.HasField("error"):
        return None
    return error_from_code(result.error.code, result.error.message, field=result.error.field)
