"""profile_store over gRPC: user contexts and items in micro-batches, writes, popularity."""

from collections.abc import Sequence

from hot_path_api.adapters.convert import (
    error_from_proto,
    filter_to_proto,
    item_from_proto,
    item_to_proto,
    ref_to_proto,
    same_length,
)
from hot_path_api.domain.events import Interaction
from hot_path_api.domain.items import Item, ItemRef
from hot_path_api.domain.popularity import Popularity, Window
from hot_path_api.domain.ports import Written
from hot_path_api.domain.users import InteractionType, InteractionTypes, UserContext
from recommendation.profile_store.v1 import profile_store_pb2 as pb
from recommendation.profile_store.v1 import profile_store_pb2_grpc as rpc
from servicekit.arrays import pack_keys, unpack_floats, unpack_keys
from servicekit.batching import MicroBatcher
from servicekit.errors import InternalError, ServiceError
from servicekit.filters import Filter
from servicekit.rpc.client import RpcChannel

_WINDOWS = {
    Window.HOUR: pb.POPULARITY_WINDOW_HOUR,
    Window.DAY: pb.POPULARITY_WINDOW_DAY,
    Window.WEEK: pb.POPULARITY_WINDOW_WEEK,
    Window.MONTH: pb.POPULARITY_WINDOW_MONTH,
    Window.ALL: pb.POPULARITY_WINDOW_ALL,
}
_READ_S = 0.5
_WRITE_S = 2.0


class ProfileStoreClient:
    """Profiles, Items, Interactions and PopularityCounts of profile_store.

    Args:
        rpc_channel: The connection.
        history_limit: How many history items are read of a user.
    """

    def __init__(self, rpc_channel: RpcChannel, *, history_limit: int) -> None:
        self._rpc = rpc_channel
        self._stub = rpc.ProfileStoreServiceStub(rpc_channel.channel)
        self._history_limit = history_limit
        self._items: MicroBatcher[tuple[int, ...], Sequence[Item]] = MicroBatcher(
            self._read_items, name="profile_store.items", max_batch=64
        )
        self._appends: MicroBatcher[Interaction, bool] = MicroBatcher(
            self._append_batch, name="profile_store.interactions", max_batch=1_000, max_queue=10_000
        )

    async def close(self) -> None:
        """Finish what was taken; the channel belongs to whoever made it."""
        for batcher in (self._items, self._appends):
            await batcher.close()

    async def user_contexts(
        self, users: Sequence[tuple[str, str]], *, timeout_s: float
    ) -> Sequence[UserContext | ServiceError]:
        """Read the past of each (tenant, user_id)."""
        query, limit = pb.GetUserContextsRequest.Query, self._history_limit
        request = pb.GetUserContextsRequest(
            queries=[query(tenant=tenant, user_id=user_id, history_limit=limit) for tenant, user_id in users]
        )
        response = await self._rpc.unary(self._stub.GetUserContexts, request, timeout_s=timeout_s, idempotent=True)
        same_length("profile_store", users, response.contexts)
        return [_context_from_proto(context) for context in response.contexts]

    async def get_items(self, keys: Sequence[int], *, timeout_s: float) -> Sequence[Item]:
        """Read items by key."""
        return await self._items.submit(tuple(keys), timeout_s=timeout_s)

    async def list_items(
        self, tenant: str, *, item_type: str, limit: int, cursor: str, timeout_s: float
    ) -> tuple[Sequence[Item], str]:
        """Read a page of the catalogue."""
        request = pb.ListItemsRequest(tenant=tenant, item_type=item_type, limit=limit, cursor=cursor)
        response = await self._rpc.unary(self._stub.ListItems, request, timeout_s=timeout_s, idempotent=True)
        return [item_from_proto(item) for item in response.items], response.next_cursor

    async def put_items(self, items: Sequence[Item], *, timeout_s: float) -> Sequence[Written | ServiceError]:
        """Write items."""
        request = pb.PutItemsRequest(items=[item_to_proto(item) for item in items])
        response = await self._rpc.unary(self._stub.PutItems, request, timeout_s=timeout_s, idempotent=True)
        same_length("profile_store", items, response.results)
        return [
            error_from_proto(result.error) if result.HasField("error") else Written(result.applied, result.created)
            for result in response.results
        ]

    async def delete_items(
        self, tenant: str, refs: Sequence[ItemRef], *, occurred_at_ms: int, timeout_s: float
    ) -> Sequence[bool]:
        """Delete items."""
        request = pb.DeleteItemsRequest(
            items=[ref_to_proto(tenant, ref) for ref in refs], occurred_at_ms=occurred_at_ms
        )
        # Not retried: a second try would find nothing to delete and say so.
        response = await self._rpc.unary(self._stub.DeleteItems, request, timeout_s=timeout_s)
        same_length("profile_store", refs, response.deleted)
        return list(response.deleted)

    async def append_interaction(self, interaction: Interaction, *, timeout_s: float) -> bool:
        """Store one interaction."""
        return await self._appends.submit(interaction, timeout_s=timeout_s)

    async def append_interactions(
        self, interactions: Sequence[Interaction], *, timeout_s: float
    ) -> Sequence[bool | ServiceError]:
        """Store many interactions."""
        request = pb.AppendInteractionsRequest(interactions=[_interaction_to_proto(each) for each in interactions])
        response = await self._rpc.unary(self._stub.AppendInteractions, request, timeout_s=timeout_s, idempotent=True)
        same_length("profile_store", interactions, response.results)
        return [
            error_from_proto(result.error) if result.HasField("error") else result.applied
            for result in response.results
        ]

    async def list_interactions(
        self, tenant: str, user_id: str, *, limit: int, cursor: str, timeout_s: float
    ) -> tuple[Sequence[Interaction], str]:
        """Read a page of a user's interactions."""
        request = pb.ListInteractionsRequest(tenant=tenant, user_id=user_id, limit=limit, cursor=cursor)
        response = await self._rpc.unary(self._stub.ListInteractions, request, timeout_s=timeout_s, idempotent=True)
        return [_interaction_from_proto(each) for each in response.interactions], response.next_cursor

    async def interaction_types(self, tenant: str, *, timeout_s: float) -> InteractionTypes:
        """Read the tenant's interaction types."""
        request = pb.ListInteractionTypesRequest(tenant=tenant)
        response = await self._rpc.unary(self._stub.ListInteractionTypes, request, timeout_s=timeout_s, idempotent=True)
        return {
            each.name: InteractionType(
                name=each.name,
                weight=each.weight,
                centre=each.centre if each.HasField("centre") else None,
                counts_as_seen=each.counts_as_seen,
            )
            for each in response.types
        }

    async def put_interaction_types(self, tenant: str, types: Sequence[InteractionType], *, timeout_s: float) -> None:
        """Create or replace interaction types."""
        request = pb.PutInteractionTypesRequest(
            tenant=tenant,
            types=[
                pb.InteractionType(
                    name=each.name, weight=each.weight, centre=each.centre, counts_as_seen=each.counts_as_seen
                )
                for each in types
            ],
        )
        await self._rpc.unary(self._stub.PutInteractionTypes, request, timeout_s=timeout_s, idempotent=True)

    async def popularity(
        self, tenant: str, *, window: Window, conditions: Filter, limit: int, timeout_s: float
    ) -> Popularity:
        """Read the most popular items."""
        request = pb.GetPopularityRequest(
            queries=[
                pb.GetPopularityRequest.Query(
                    tenant=tenant, window=_WINDOWS[window], limit=limit, filter=filter_to_proto(conditions)
                )
            ]
        )
        response = await self._rpc.unary(self._stub.GetPopularity, request, timeout_s=timeout_s, idempotent=True)
        same_length("profile_store", request.queries, response.results)
        (result,) = response.results
        if result.HasField("error"):
            raise error_from_proto(result.error)
        return Popularity.of_counts(
            unpack_keys(result.item_keys, field="item_keys"), unpack_floats(result.scores, field="scores")
        )

    async def _read_items(self, asked: list[tuple[int, ...]]) -> Sequence[Sequence[Item]]:
        keys = list(dict.fromkeys(key for keys in asked for key in keys))
        request = pb.GetItemsRequest(item_keys=pack_keys(keys))
        response = await self._rpc.unary(self._stub.GetItems, request, timeout_s=_READ_S, idempotent=True)
        found = {item.key: item for item in map(item_from_proto, response.items)}
        return [[found[key] for key in keys if key in found] for keys in asked]

    async def _append_batch(self, interactions: list[Interaction]) -> Sequence[bool | ServiceError]:
        return await self.append_interactions(interactions, timeout_s=_WRITE_S)


def _context_from_proto(context: pb.GetUserContextsResponse.UserContext) -> UserContext | ServiceError:
    if context.HasField("error"):
        return error_from_proto(context.error)
    try:
        return UserContext(
            history_keys=unpack_keys(context.history_keys, field="history_keys"),
            history_weights=unpack_floats(context.history_weights, field="history_weights"),
            history_times_ms=unpack_keys(context.history_times_ms, field="history_times_ms"),
            seen_keys=unpack_keys(context.seen_keys, field="seen_keys"),
        )
    except ServiceError as error:
        return InternalError(f"profile_store sent a context that cannot be read: {error.message}")


def _interaction_to_proto(interaction: Interaction) -> pb.Interaction:
    return pb.Interaction(
        event_id=interaction.event_id,
        tenant=interaction.tenant,
        user_id=interaction.user_id,
        item_type=interaction.item.item_type,
        item_id=interaction.item.item_id,
        interaction_type=interaction.interaction_type,
        value=interaction.value,
        occurred_at_ms=interaction.occurred_at_ms,
    )


def _interaction_from_proto(message: pb.Interaction) -> Interaction:
    return Interaction(
        event_id=message.event_id,
        tenant=message.tenant,
        user_id=message.user_id,
        item=ItemRef(message.item_type, message.item_id),
        interaction_type=message.interaction_type,
        value=message.value if message.HasField("value") else None,
        occurred_at_ms=message.occurred_at_ms,
    )
