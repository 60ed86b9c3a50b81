"""What profile_store needs of a store. One class may implement several of these.

Every write is idempotent and durable when it returns, and every read that starts afterwards sees it. All raise
UnavailableError when the store cannot be reached. Arguments have been checked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from profile_store.domain.contexts import ContextQuery, UserContext
from profile_store.domain.episodes import Episode, RecordQuery, Reward
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
from profile_store.domain.policies import Policy, PolicyKey, PolicyPosition, PolicyPut, PutPolicyOutcome
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


class PolicyStore(Protocol):
    """Keeps what agents have learned, and what they learn from."""

    async def put_policies(self, puts: Sequence[PolicyPut], *, now_ms: int) -> Sequence[PutPolicyOutcome]:
        """Write each policy whose stored version is the expected one; no policy is named twice.

        The new version is `next_version` of the expected one. Not idempotent, unlike all other writes: a repetition
        finds its own version. After an error any of them may have been written.
        """
        ...

    async def get_policies(self, keys: Sequence[PolicyKey]) -> Sequence[Policy | None]:
        """Give one answer for each key; None where there is no policy."""
        ...

    async def list_policies(
        self, tenant: str, agent_id: str, user_id: str | None, *, after: PolicyPosition | None, limit: int
    ) -> Sequence[Policy]:
        """Give the next policies, of one user by state, of all (None) in an order of the store's own."""
        ...

    async def append_episodes(self, episodes: Sequence[Episode]) -> Sequence[bool]:
        """Store episodes; tell which are new.

        Not new is one whose id the agent knows, or which occurred before its user's erasure. Of two replicas that are
        given the same one at the same moment both may find it new; it is stored once.
        """
        ...

    async def append_rewards(self, rewards: Sequence[Reward]) -> Sequence[bool]:
        """Store rewards, as episodes are."""
        ...

    async def list_episodes(self, query: RecordQuery) -> Sequence[Episode]:
        """Give the next episodes by time and id."""
        ...

    async def list_rewards(self, query: RecordQuery) -> Sequence[Reward]:
        """Give the next rewards by time and id."""
        ...

    async def forget_user(self, tenant: str, user_id: str, *, until_ms: int) -> None:
        """Delete a user's policies that were created, and episodes and rewards that occurred, up to a moment.

        None of the latter is let in again. A policy that was created before and put again afterwards goes too, since it
        was learned from what was before.
        """
        ...
