"""profile_store over gRPC, as far as training reads it."""

from collections.abc import AsyncIterator, Sequence

from gpu_worker.convert import item_from_message
from gpu_worker.domain.items import Item
from gpu_worker.domain.ports import InteractionPage
from recommendation.profile_store.v1 import profile_store_pb2 as pb
from recommendation.profile_store.v1 import profile_store_pb2_grpc as pb_grpc
from servicekit.arrays import unpack_floats, unpack_keys
from servicekit.rpc.client import RpcChannel

_EXPORT_TIMEOUT_S = 600.0


class GrpcCatalogue:
    """See Catalogue."""

    def __init__(self, channel: RpcChannel) -> None:
        self._channel = channel
        self._stub = pb_grpc.ProfileStoreServiceStub(channel.channel)

    async def export_items(self, tenant: str) -> AsyncIterator[Sequence[Item]]:
        """See Catalogue."""
        request = pb.ExportItemsRequest(tenant=tenant)
        async for page in self._channel.stream(self._stub.ExportItems, request, timeout_s=_EXPORT_TIMEOUT_S):
            yield [item_from_message(item) for item in page.items]

    async def export_interactions(self, tenant: str) -> AsyncIterator[InteractionPage]:
        """See Catalogue."""
        request = pb.ExportInteractionsRequest(tenant=tenant)
        async for page in self._channel.stream(self._stub.ExportInteractions, request, timeout_s=_EXPORT_TIMEOUT_S):
            yield InteractionPage(
                unpack_keys(page.user_keys, field="user_keys"),
                unpack_keys(page.item_keys, field="item_keys"),
                unpack_floats(page.weights, field="weights"),
                unpack_keys(page.times_ms, field="times_ms"),
            )
