"""A store in memory: the reference of what the ports mean, computed anew from the events at every read."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np

from profile_store.adapters.memory_policies import MemoryPolicyStore
from profile_store.domain.contexts import MAX_ROWS, ContextQuery, UserContext, build_history
from profile_store.domain.interactions import (
    BUILT_IN_TYPES,
    ExportPosition,
    Interaction,
    InteractionColumns,
    InteractionType,
    Position,
    StoredInteraction,
    UserCount,
)
from profile_store.domain.items import Item, ItemRef, is_superseded
from profile_store.domain.popularity import HALF_LIVES_MS, PopularityList, PopularityQuery
from profile_store.domain.ports import PutOutcome
from servicekit.arrays import Floats, Keys
from servicekit.filters import matches
from servicekit.identity import item_key, user_key


@dataclass(slots=True)
class _Tenant:
    kinds: dict[str, InteractionType] = field(default_factory=lambda: dict(BUILT_IN_TYPES))
    users: dict[str, list[StoredInteraction]] = field(default_factory=lambda: defaultdict(list))
    erased_until_ms: dict[str, int] = field(default_factory=dict)
    event_ids: set[str] = field(default_factory=set)


class MemoryProfileStore:
    """Implements every port of profile_store, PolicyStore as `policies`; nothing outlives the process."""

    def __init__(self) -> None:
        self.policies = MemoryPolicyStore()
        self._tenants: defaultdict[str, _Tenant] = defaultdict(_Tenant)
        self._items: dict[int, Item] = {}
        self._deleted_at_ms: dict[int, int] = {}
        self._arrivals = 0

    async def put_items(self, items: Sequence[Item]) -> Sequence[PutOutcome]:
        """See ItemStore."""
        return [self._put(item) for item in items]

    async def delete_items(self, refs: Sequence[ItemRef], *, occurred_at_ms: int) -> Sequence[bool]:
        """See ItemStore."""
        return [self._delete(ref.key, occurred_at_ms) for ref in refs]

    async def get_items(self, keys: Sequence[int]) -> Sequence[Item]:
        """See ItemStore."""
        return [self._items[key] for key in keys if key in self._items]

    async def list_items(
        self, tenant: str, item_type: str | None, *, after: tuple[str, str] | None, limit: int
    ) -> Sequence[Item]:
        """See ItemStore."""
        items = sorted(
            (item for item in self._items.values() if item.tenant == tenant and item_type in {None, item.item_type}),
            key=attrgetter("item_type", "item_id"),
        )
        return [item for item in items if after is None or (item.item_type, item.item_id) > after][:limit]

    async def append(self, interactions: Sequence[Interaction]) -> Sequence[bool]:
        """See InteractionStore."""
        return [self._append(interaction) for interaction in interactions]

    async def user_contexts(self, queries: Sequence[ContextQuery]) -> Sequence[UserContext]:
        """See InteractionStore."""
        return [self._context(query) for query in queries]

    async def list_interactions(
        self, tenant: str, user_id: str, *, newest_first: bool, after: Position | None, limit: int
    ) -> Sequence[StoredInteraction]:
        """See InteractionStore."""
        stored = self._history(tenant, user_id, newest_first=newest_first)
        if after is not None:
            stored = [each for each in stored if (each.position < after if newest_first else each.position > after)]
        return stored[:limit]

    async def export_interactions(self, tenant: str, *, after: ExportPosition | None, limit: int) -> InteractionColumns:
        """See InteractionStore."""
        placed = sorted(
            (
                (
                    ExportPosition(user_key(tenant, user_id), each.interaction.occurred_at_ms, each.arrival),
                    each.interaction,
                )
                for user_id, stored in self._tenants[tenant].users.items()
                for each in stored
            ),
            key=lambda pair: pair[0],
        )
        page = [pair for pair in placed if after is None or pair[0] > after][:limit]
        kinds = self._tenants[tenant].kinds
        return InteractionColumns(
            _keys(place.user_key for place, _ in page),
            _keys(_item_key(each) for _, each in page),
            _floats(kinds[each.interaction_type].weigh(each.value) for _, each in page),
            _keys(each.occurred_at_ms for _, each in page),
            page[-1][0] if len(page) == limit else None,
        )

    async def list_users(self, tenant: str, *, after: str, limit: int) -> Sequence[UserCount]:
        """See InteractionStore."""
        users = sorted((user_id, len(stored)) for user_id, stored in self._tenants[tenant].users.items() if stored)
        return [UserCount(*user) for user in users if user[0] > after][:limit]

    async def erase_user(self, tenant: str, user_id: str, *, until_ms: int) -> int:
        """See InteractionStore."""
        known = self._tenants[tenant]
        known.erased_until_ms[user_id] = max(until_ms, known.erased_until_ms.get(user_id, until_ms))
        stored = known.users.pop(user_id, [])
        known.users[user_id] = [each for each in stored if each.interaction.occurred_at_ms > until_ms]
        known.event_ids.difference_update(
            each.interaction.event_id for each in stored if each.interaction.occurred_at_ms <= until_ms
        )
        return len(stored) - len(known.users[user_id])

    async def put_interaction_types(self, tenant: str, kinds: Sequence[InteractionType]) -> None:
        """See InteractionTypeStore."""
        self._tenants[tenant].kinds.update({kind.name: kind for kind in kinds})

    async def interaction_types(self, tenant: str) -> Mapping[str, InteractionType]:
        """See InteractionTypeStore."""
        return self._tenants[tenant].kinds

    async def most_popular(self, query: PopularityQuery, *, now_ms: int) -> PopularityList:
        """See PopularityStore."""
        known = self._tenants[query.tenant]
        worth: defaultdict[int, float] = defaultdict(float)
        for stored in known.users.values():
            for each in stored:
                did = each.interaction
                weight = known.kinds[did.interaction_type].weigh(did.value)
                age_ms = now_ms - did.occurred_at_ms
                worth[_item_key(did)] += max(0.0, weight) * float(np.exp2(-age_ms / HALF_LIVES_MS[query.window]))
        best = sorted(
            (-score, key) for key, score in worth.items() if score > 0.0 and self._may_be_listed(key, query, now_ms)
        )[: query.limit]
        return PopularityList(_keys(key for _, key in best), _floats(-score for score, _ in best))

    def _put(self, item: Item) -> PutOutcome:
        key = item.ref.key
        stored = self._items.get(key)
        stored_at_ms = self._deleted_at_ms.get(key, 0) if stored is None else stored.updated_at_ms
        if is_superseded(stored_at_ms, item.updated_at_ms):
            return PutOutcome(applied=False, created=False)
        self._items[key] = item
        return PutOutcome(applied=True, created=stored is None)

    def _delete(self, key: int, occurred_at_ms: int) -> bool:
        stored = self._items.get(key)
        if stored is not None and is_superseded(stored.updated_at_ms, occurred_at_ms):
            return False
        self._deleted_at_ms[key] = max(occurred_at_ms, self._deleted_at_ms.get(key, occurred_at_ms))
        return self._items.pop(key, None) is not None

    def _append(self, interaction: Interaction) -> bool:
        known = self._tenants[interaction.tenant]
        erased_until_ms = known.erased_until_ms.get(interaction.user_id, 0)
        if interaction.event_id in known.event_ids or interaction.occurred_at_ms <= erased_until_ms:
            return False
        known.event_ids.add(interaction.event_id)
        self._arrivals += 1
        known.users[interaction.user_id].append(StoredInteraction(interaction, self._arrivals))
        return True

    def _history(self, tenant: str, user_id: str, *, newest_first: bool) -> list[StoredInteraction]:
        stored = self._tenants[tenant].users.get(user_id, [])
        return sorted(stored, key=attrgetter("position"), reverse=newest_first)

    def _context(self, query: ContextQuery) -> UserContext:
        kinds = self._tenants[query.tenant].kinds
        numbers = {name: number for number, name in enumerate(kinds)}
        stored = self._history(query.tenant, query.user_id, newest_first=True)
        newest = (each.interaction for each in stored[:MAX_ROWS])
        return build_history(
            ((_item_key(did), numbers[did.interaction_type], did.value, did.occurred_at_ms) for did in newest),
            {numbers[name]: kind for name, kind in kinds.items()},
            interaction_count=len(stored),
        ).context(query.history_limit)

    def _may_be_listed(self, key: int, query: PopularityQuery, now_ms: int) -> bool:
        item = self._items.get(key)
        return (
            item is not None
            and not item.hidden
            and (item.available_from_ms is None or item.available_from_ms <= now_ms)
            and (item.available_until_ms is None or now_ms < item.available_until_ms)
            and query.item_type in {None, item.item_type}
            and matches(query.filter, item.attribute)
        )


def _item_key(interaction: Interaction) -> int:
    return item_key(interaction.tenant, interaction.item_type, interaction.item_id)


def _keys(numbers: Iterable[int]) -> Keys:
    return np.fromiter(numbers, dtype=np.int64)


def _floats(numbers: Iterable[float]) -> Floats:
    return np.fromiter(numbers, dtype=np.float32)
