"""What profile_store needs of a store. One class may implement several of these.

Every write is idempotent and durable when it returns, and every read that starts afterwards sees it. All raise
UnavailableError when the store cannot be reached. Arguments have been checked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from profile_store.domain.contexts import ContextQuery, UserContext
from profile_store.domain.interactions import (
    ExportPosition,
    Interaction,
    InteractionColumns,
    InteractionType,
    Position,
    StoredInteraction,
    UserCount,
)
from profile_store.domain.items import Item, ItemRef
from profile_store.domain.popularity import PopularityList, PopularityQuery


@dataclass(frozen=True, slots=True)
class PutOutcome:
    """What became of an item that was put: whether its state is now the stored one, and whether it is new."""

    applied: bool
    created: bool


class ItemStore(Protocol):
    """Keeps items; the last writer by `updated_at_ms` wins, see `items.is_superseded`."""

    async def put_items(self, items: Sequence[Item]) -> Sequence[PutOutcome]:
        """Create or replace items, one after the other."""
        ...

    async def delete_items(self, refs: Sequence[ItemRef], *, occurred_at_ms: int) -> Sequence[bool]:
        """Delete items and remember when, so that an older state does not come back; tell which were there."""
        ...

    async def get_items(self, keys: Sequence[int]) -> Sequence[Item]:
        """Give the items that exist, in the order asked."""
        ...

    async def list_items(
        self, tenant: str, item_type: str | None, *, after: tuple[str, str] | None, limit: int
    ) -> Sequence[Item]:
        """Give the next items by (item_type, item_id)."""
        ...


class InteractionStore(Protocol):
    """Keeps what users did."""

    async def append(self, interactions: Sequence[Interaction]) -> Sequence[bool]:
        """Store interactions in order of arrival and count their popularity.

        Returns:
            Whether each is new: False when its event_id is known to the tenant, or when it occurred before its user's
            erasure. Of two replicas that are given the same event at the same moment both may find it new; it is
            stored and counted once.
        """
        ...

    async def user_contexts(self, queries: Sequence[ContextQuery]) -> Sequence[UserContext]:
        """Give one context for each query; an unknown user's is empty."""
        ...

    async def list_interactions(
        self, tenant: str, user_id: str, *, newest_first: bool, after: Position | None, limit: int
    ) -> Sequence[StoredInteraction]:
        """Give the user's next interactions by time and arrival, after a position in that direction."""
        ...

    async def export_interactions(self, tenant: str, *, after: ExportPosition | None, limit: int) -> InteractionColumns:
        """Give the tenant's next interactions by user key, time and arrival, weighed by the types of now."""
        ...

    async def list_users(self, tenant: str, *, after: str, limit: int) -> Sequence[UserCount]:
        """Give the next users that have interactions, in an order of the store's own, after one of them.

        The empty id stands before all. Users may come in between while others go; who stays is given once.
        """
        ...

    async def erase_user(self, tenant: str, user_id: str, *, until_ms: int) -> int:
        """Delete the user's interactions that occurred up to a moment and let none of them in again; count them."""
        ...


class InteractionTypeStore(Protocol):
    """Keeps each tenant's interaction types."""

    async def put_interaction_types(self, tenant: str, kinds: Sequence[InteractionType]) -> None:
        """Create or replace types; everything that is read afterwards is weighed by them."""
        ...

    async def interaction_types(self, tenant: str) -> Mapping[str, InteractionType]:
        """Give a tenant's types by name, the built-in ones included."""
        ...


class PopularityStore(Protocol):
    """Knows what is popular."""

    async def most_popular(self, query: PopularityQuery, *, now_ms: int) -> PopularityList:
        """Give the most popular items that exist, are not hidden, are available now and pass the filter."""
        ...
