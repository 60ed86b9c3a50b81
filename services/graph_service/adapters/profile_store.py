"""profile_store over gRPC, as far as a rebuild reads it."""

from collections.abc import AsyncIterator, Sequence
from typing import Final

from graph_service.convert.changes import MutationReader
from graph_service.domain.graph import Interaction, Mutation
from recommendation.profile_store.v1 import profile_store_pb2 as pb
from recommendation.profile_store.v1 import profile_store_pb2_grpc as pb_grpc
from servicekit.arrays import unpack_floats, unpack_keys
from servicekit.rpc.client import RpcChannel

_EXPORT_TIMEOUT_S: Final = 3_600.0
_PAGE_INTERACTIONS: Final = 5_000


class GrpcCatalogue:
    """See Catalogue.

    Args:
        channel: To profile_store; closed by its owner.
        reader: Reads items.
    """

    def __init__(self, channel: RpcChannel, reader: MutationReader) -> None:
        self._channel = channel
        self._stub = pb_grpc.ProfileStoreServiceStub(channel.channel)
        self._reader = reader

    async def items(self, tenant: str) -> AsyncIterator[Sequence[Mutation]]:
        """See Catalogue."""
        request = pb.ExportItemsRequest(tenant=tenant)
        async for page in self._channel.stream(self._stub.ExportItems, request, timeout_s=_EXPORT_TIMEOUT_S):
            yield [self._reader.item(item, item.updated_at_ms) for item in page.items]

    async def interactions(self, tenant: str) -> AsyncIterator[Sequence[Mutation]]:
        """See Catalogue."""
        request = pb.ExportInteractionsRequest(tenant=tenant, page_size=_PAGE_INTERACTIONS)
        async for page in self._channel.stream(self._stub.ExportInteractions, request, timeout_s=_EXPORT_TIMEOUT_S):
            columns = (
                unpack_keys(page.user_keys, field="user_keys").tolist(),
                unpack_keys(page.item_keys, field="item_keys").tolist(),
                unpack_floats(page.weights, field="weights").tolist(),
                unpack_keys(page.times_ms, field="times_ms").tolist(),
            )
            yield [Interaction(*row) for row in zip(*columns, strict=True)]
