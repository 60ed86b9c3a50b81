"""vector_search over gRPC, as far as it is fed from here."""

from collections.abc import AsyncIterator, Sequence

import numpy as np

from gpu_worker.domain.ports import Embedding, Mark, Neighbours, VectorPage
from recommendation.common.v1 import common_pb2
from recommendation.vector_search.v1 import vector_search_pb2 as pb
from recommendation.vector_search.v1 import vector_search_pb2_grpc as pb_grpc
from servicekit.arrays import Keys, pack_floats, pack_keys, unpack_floats, unpack_keys
from servicekit.errors import ServiceError, error_from_code
from servicekit.rpc.client import RpcChannel

_MAX_UPSERTS = 1_000
_MAX_KEYS = 10_000
_TIMEOUT_S = 20.0
_ACTIVATION_TIMEOUT_S = 600.0  # builds and verifies a whole version
_EXPORT_TIMEOUT_S = 600.0


class GrpcVectorIndex:
    """See VectorIndex."""

    def __init__(self, channel: RpcChannel) -> None:
        self._channel = channel
        self._stub = pb_grpc.VectorSearchServiceStub(channel.channel)

    async def marks(self, tenant: str, keys: Keys) -> Sequence[Mark]:
        """See VectorIndex."""
        marks: list[Mark] = []
        for first in range(0, len(keys), _MAX_KEYS):
            request = pb.LookupEmbeddingsRequest(tenant=tenant, item_keys=pack_keys(keys[first : first + _MAX_KEYS]))
            answer = await self._channel.unary(
                self._stub.LookupEmbeddings, request, timeout_s=_TIMEOUT_S, idempotent=True
            )
            marks += [Mark(mark.model_id, mark.content_hash) for mark in answer.marks]
        return marks

    async def upsert(
        self, embeddings: Sequence[Embedding], *, neighbours: int
    ) -> Sequence[Neighbours | ServiceError | None]:
        """See VectorIndex."""
        outcomes: list[Neighbours | ServiceError | None] = []
        for first in range(0, len(embeddings), _MAX_UPSERTS):
            request = pb.UpsertItemsRequest(
                embeddings=map(embedding_message, embeddings[first : first + _MAX_UPSERTS]), neighbours=neighbours
            )
            answer = await self._channel.unary(self._stub.UpsertItems, request, timeout_s=_TIMEOUT_S, idempotent=True)
            outcomes += map(_outcome, answer.results)
        return outcomes

    async def delete(self, tenant: str, keys: Keys, times_ms: Keys) -> None:
        """See VectorIndex."""
        request = pb.DeleteItemsRequest(tenant=tenant, item_keys=pack_keys(keys), deleted_at_ms=pack_keys(times_ms))
        await self._channel.unary(self._stub.DeleteItems, request, timeout_s=_TIMEOUT_S, idempotent=True)

    async def export(self, tenant: str) -> AsyncIterator[VectorPage]:
        """See VectorIndex."""
        request = pb.ExportEmbeddingsRequest(tenant=tenant)
        async for page in self._channel.stream(self._stub.ExportEmbeddings, request, timeout_s=_EXPORT_TIMEOUT_S):
            keys = unpack_keys(page.item_keys, field="item_keys")
            yield VectorPage(keys, unpack_floats(page.vectors, field="vectors").reshape(len(keys), page.dimensions))

    async def activate(self, tenant: str, version: str) -> None:
        """See VectorIndex."""
        request = pb.ActivateVersionRequest(tenant=tenant, version=version)
        await self._channel.unary(self._stub.ActivateVersion, request, timeout_s=_ACTIVATION_TIMEOUT_S, idempotent=True)


def embedding_message(embedding: Embedding) -> pb.UpsertItemsRequest.Embedding:
    """Write an embedding."""
    return pb.UpsertItemsRequest.Embedding(
        item=common_pb2.Item.FromString(embedding.item.packed),
        vector=b"" if embedding.vector is None else pack_floats(embedding.vector),
        model_id=embedding.mark.model_id,
        content_hash=embedding.mark.content_hash,
    )


def _outcome(result: pb.UpsertItemsResponse.Result) -> Neighbours | ServiceError | None:
    if result.HasField("error"):
        return error_from_code(result.error.code, result.error.message, field=result.error.field)
    if result.superseded:
        return None
    keys = unpack_keys(result.neighbour_keys, field="neighbour_keys")
    return Neighbours(np.asarray(keys), unpack_floats(result.neighbour_scores, field="neighbour_scores"))
