"""Users, items, interactions and popularity; an RPC and a topic are two ways in to the same use cases."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from profile_store.application.batches import for_each
from profile_store.domain.checks import check_at_most, check_count, check_id, check_not_future, limit_or_default
from profile_store.domain.contexts import MAX_HISTORY, ContextQuery, UserContext
from profile_store.domain.cursors import history_cursor, history_position, item_cursor, item_position
from profile_store.domain.interactions import (
    Interaction,
    InteractionColumns,
    InteractionType,
    UserCount,
    check_interaction,
    check_interaction_type,
    check_user,
)
from profile_store.domain.items import (
    MAX_ITEM_TYPE,
    MAX_TENANT,
    Item,
    ItemRef,
    check_item,
    check_item_ref,
    size_bound,
)
from profile_store.domain.popularity import PopularityList, PopularityQuery
from profile_store.domain.ports import (
    InteractionStore,
    InteractionTypeStore,
    ItemStore,
    PolicyStore,
    PopularityStore,
    PutOutcome,
)
from servicekit.clock import Clock
from servicekit.errors import InvalidArgumentError
from servicekit.filters import validate_filter

MAX_BATCH = 10_000
MAX_CONTEXTS = 256
MAX_TYPES = 100
MAX_POPULARITY_QUERIES = 64
DEFAULT_HISTORY = 1_000
DEFAULT_PAGE = 100
MAX_PAGE = 1_000
DEFAULT_POPULARITY = 100
MAX_POPULARITY = 10_000
DEFAULT_EXPORT_PAGE = 1_000
MAX_EXPORT_PAGE = 10_000
DEFAULT_EXPORT_ROWS = 50_000
MAX_EXPORT_ROWS = 200_000
_PAGE_BYTES = 32 * 1024 * 1024
"""A page of items ends when it may be larger than this, so that it stays a message that gRPC carries."""


class ProfileService:
    """What profile_store can do.

    Batches are answered per element. An element that could not even be read comes in as the error that says so, and
    goes out as that.
    """

    def __init__(
        self,
        *,
        items: ItemStore,
        interactions: InteractionStore,
        types: InteractionTypeStore,
        popularity: PopularityStore,
        policies: PolicyStore,
        clock: Clock,
    ) -> None:
        self._items = items
        self._interactions = interactions
        self._types = types
        self._popularity = popularity
        self._policies = policies
        self._clock = clock

    # --- users

    async def user_contexts(self, queries: Sequence[ContextQuery]) -> Sequence[UserContext | InvalidArgumentError]:
        """Give each user's context; a limit of 0 is DEFAULT_HISTORY."""
        check_at_most(len(queries), "queries", MAX_CONTEXTS)
        return await for_each(queries, _checked_context_query, self._interactions.user_contexts)

    async def append(self, interactions: Sequence[Interaction]) -> Sequence[bool | InvalidArgumentError]:
        """Store interactions; tell which are new."""
        check_count(len(interactions), "interactions", MAX_BATCH)
        now_ms = self._clock.now_ms()
        kinds = {
            tenant: await self._types.interaction_types(tenant)
            for tenant in {interaction.tenant for interaction in interactions}
        }

        def checked(interaction: Interaction) -> Interaction:
            check_interaction(interaction, kinds[interaction.tenant].get(interaction.interaction_type), now_ms=now_ms)
            return interaction

        return await for_each(interactions, checked, self._interactions.append)

    async def list_interactions(
        self, tenant: str, user_id: str, *, limit: int, cursor: str
    ) -> tuple[Sequence[Interaction], str]:
        """Give a page of a history, newest first, and the cursor of the next, empty on the last."""
        check_user(tenant, user_id)
        limit = limit_or_default(limit, "limit", default=DEFAULT_PAGE, most=MAX_PAGE)
        stored = await self._interactions.list_interactions(
            tenant, user_id, newest_first=True, after=history_position(cursor), limit=limit + 1
        )
        following = history_cursor(stored[limit - 1].position) if len(stored) > limit else ""
        return [each.interaction for each in stored[:limit]], following

    async def export_user(self, tenant: str, user_id: str) -> AsyncIterator[Sequence[Interaction]]:
        """Give all of a user's interactions in pages, oldest first."""
        check_user(tenant, user_id)
        after = None
        while stored := await self._interactions.list_interactions(
            tenant, user_id, newest_first=False, after=after, limit=MAX_PAGE
        ):
            yield [each.interaction for each in stored]
            after = stored[-1].position

    async def erase_user(self, tenant: str, user_id: str, *, until_ms: int) -> int:
        """Delete all that is kept of a user up to a moment, what comes later included; count the interactions."""
        check_user(tenant, user_id)
        check_not_future(until_ms, "occurred_at_ms", self._clock.now_ms())
        await self._policies.forget_user(tenant, user_id, until_ms=until_ms)
        return await self._interactions.erase_user(tenant, user_id, until_ms=until_ms)

    async def export_interactions(self, tenant: str, *, page_size: int) -> AsyncIterator[InteractionColumns]:
        """Give all of a tenant's interactions in pages of columns."""
        check_id(tenant, "tenant", MAX_TENANT)
        limit = limit_or_default(page_size, "page_size", default=DEFAULT_EXPORT_ROWS, most=MAX_EXPORT_ROWS)
        page = await self._interactions.export_interactions(tenant, after=None, limit=limit)
        while len(page.item_keys):
            yield page
            if page.end is None:
                return
            page = await self._interactions.export_interactions(tenant, after=page.end, limit=limit)

    async def export_users(self, tenant: str, *, page_size: int) -> AsyncIterator[Sequence[UserCount]]:
        """Give all of a tenant's users in pages."""
        check_id(tenant, "tenant", MAX_TENANT)
        limit = limit_or_default(page_size, "page_size", default=DEFAULT_EXPORT_PAGE, most=MAX_EXPORT_PAGE)
        after = ""
        while users := await self._interactions.list_users(tenant, after=after, limit=limit):
            yield users
            after = users[-1].user_id

    # --- items

    async def put_items(
        self, items: Sequence[Item | InvalidArgumentError]
    ) -> Sequence[PutOutcome | InvalidArgumentError]:
        """Create or replace items, the last writer wins."""
        check_count(len(items), "items", MAX_BATCH)
        now_ms = self._clock.now_ms()

        def checked(item: Item) -> Item:
            check_item(item, now_ms=now_ms)
            return item

        return await for_each(items, checked, self._items.put_items)

    async def delete_items(self, refs: Sequence[ItemRef], *, occurred_at_ms: int) -> Sequence[bool]:
        """Delete items as of a moment; tell which were there."""
        check_count(len(refs), "items", MAX_BATCH)
        check_not_future(occurred_at_ms, "occurred_at_ms", self._clock.now_ms())
        for place, ref in enumerate(refs):
            check_item_ref(ref, path=f"items[{place}].")
        return await self._items.delete_items(refs, occurred_at_ms=occurred_at_ms)

    async def get_items(self, keys: Sequence[int]) -> Sequence[Item]:
        """Give the items that exist, in the order asked."""
        check_at_most(len(keys), "item_keys", MAX_BATCH)
        return await self._items.get_items(keys)

    async def list_items(self, tenant: str, item_type: str, *, limit: int, cursor: str) -> tuple[Sequence[Item], str]:
        """Give a page of the catalogue and the cursor of the next, empty on the last."""
        check_id(tenant, "tenant", MAX_TENANT)
        if item_type:
            check_id(item_type, "item_type", MAX_ITEM_TYPE)
        limit = limit_or_default(limit, "limit", default=DEFAULT_PAGE, most=MAX_PAGE)
        items = await self._items.list_items(tenant, item_type or None, after=item_position(cursor), limit=limit + 1)
        page = _carried(items[:limit])
        following = item_cursor(page[-1].item_type, page[-1].item_id) if len(page) < len(items) else ""
        return page, following

    async def export_items(self, tenant: str, *, page_size: int) -> AsyncIterator[Sequence[Item]]:
        """Give the whole catalogue in pages."""
        check_id(tenant, "tenant", MAX_TENANT)
        limit = limit_or_default(page_size, "page_size", default=DEFAULT_EXPORT_PAGE, most=MAX_EXPORT_PAGE)
        after = None
        while items := await self._items.list_items(tenant, None, after=after, limit=limit):
            page = _carried(items)
            yield page
            after = page[-1].item_type, page[-1].item_id

    # --- interaction types

    async def put_interaction_types(self, tenant: str, kinds: Sequence[InteractionType]) -> None:
        """Create or replace interaction types, all or none."""
        check_id(tenant, "tenant", MAX_TENANT)
        check_count(len(kinds), "types", MAX_TYPES)
        for place, kind in enumerate(kinds):
            check_interaction_type(kind, path=f"types[{place}].")
        await self._types.put_interaction_types(tenant, kinds)

    async def interaction_types(self, tenant: str) -> Sequence[InteractionType]:
        """Give a tenant's types by name."""
        check_id(tenant, "tenant", MAX_TENANT)
        kinds = await self._types.interaction_types(tenant)
        return [kinds[name] for name in sorted(kinds)]

    # --- popularity

    async def most_popular(
        self, queries: Sequence[PopularityQuery | InvalidArgumentError]
    ) -> Sequence[PopularityList | InvalidArgumentError]:
        """Give a list for each question; a limit of 0 is DEFAULT_POPULARITY."""
        check_count(len(queries), "queries", MAX_POPULARITY_QUERIES)
        now_ms = self._clock.now_ms()

        async def answer(checked: Sequence[PopularityQuery]) -> Sequence[PopularityList]:
            return [await self._popularity.most_popular(query, now_ms=now_ms) for query in checked]

        return await for_each(queries, _checked_popularity_query, answer)


def _checked_context_query(query: ContextQuery) -> ContextQuery:
    check_user(query.tenant, query.user_id)
    if 1 <= query.history_limit <= MAX_HISTORY:
        return query
    limit = limit_or_default(query.history_limit, "history_limit", default=DEFAULT_HISTORY, most=MAX_HISTORY)
    return replace(query, history_limit=limit)


def _checked_popularity_query(query: PopularityQuery) -> PopularityQuery:
    check_id(query.tenant, "tenant", MAX_TENANT)
    if query.item_type is not None:
        check_id(query.item_type, "item_type", MAX_ITEM_TYPE)
    validate_filter(query.filter)
    limit = limit_or_default(query.limit, "limit", default=DEFAULT_POPULARITY, most=MAX_POPULARITY)
    return replace(query, limit=limit)


def _carried(items: Sequence[Item]) -> Sequence[Item]:
    """Give the first of the items that fit into a message, at least one."""
    size = 0
    for place, item in enumerate(items):
        size += size_bound(item)
        if place and size > _PAGE_BYTES:
            return items[:place]
    return items
