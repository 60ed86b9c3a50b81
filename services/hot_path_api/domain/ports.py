"""What the gateway asks of the world outside; each port has an adapter and a twin in the tests of real servers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hot_path_api.domain.candidates import Candidates, SourceQuery
from hot_path_api.domain.events import Event, Interaction
from hot_path_api.domain.items import Item, ItemRef
from hot_path_api.domain.limits import Budget, Verdict
from hot_path_api.domain.popularity import Popularity, Window
from hot_path_api.domain.users import InteractionType, InteractionTypes, UserContext
from servicekit.arrays import Floats, Keys
from servicekit.errors import ServiceError
from servicekit.filters import Filter


@dataclass(frozen=True, slots=True)
class Written:
    """What became of an item that was written: newer states win, so it may not have been applied."""

    applied: bool
    created: bool


@dataclass(frozen=True, slots=True)
class Contribution:
    """What a history item gave to an item's score; through a source, or along a path of the graph."""

    item_key: int
    history_key: int
    share: float
    source: str
    meta_path: str = ""
    through: str = ""


@dataclass(frozen=True, slots=True)
class Similar:
    """Items similar to one: keys int64[N], scores float32[N], shares float32[F, N] of the sources named."""

    keys: Keys
    scores: Floats
    names: tuple[str, ...]
    shares: Floats


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer from a cache, and for how many seconds more it may be given."""

    value: bytes
    fresh_s: float


class Profiles(Protocol):
    """Users: what the pipeline must know of them before anything else."""

    async def user_contexts(
        self, users: Sequence[tuple[str, str]], *, timeout_s: float
    ) -> Sequence[UserContext | ServiceError]:
        """Read the past of each (tenant, user_id); nothing is known of an unknown one, which is no error."""
        ...


class Items(Protocol):
    """The catalogue."""

    async def get_items(self, keys: Sequence[int], *, timeout_s: float) -> Sequence[Item]:
        """Read items by key; those that do not exist are left out."""
        ...

    async def list_items(
        self, tenant: str, *, item_type: str, limit: int, cursor: str, timeout_s: float
    ) -> tuple[Sequence[Item], str]:
        """Read a page of the catalogue and the cursor of the next one, empty on the last."""
        ...

    async def put_items(self, items: Sequence[Item], *, timeout_s: float) -> Sequence[Written | ServiceError]:
        """Write items; one answer for each."""
        ...

    async def delete_items(
        self, tenant: str, refs: Sequence[ItemRef], *, occurred_at_ms: int, timeout_s: float
    ) -> Sequence[bool]:
        """Delete items; whether each was there."""
        ...


class Interactions(Protocol):
    """What users did."""

    async def append_interaction(self, interaction: Interaction, *, timeout_s: float) -> bool:
        """Store one interaction, together with what others send at the same time; False when its id was known."""
        ...

    async def append_interactions(
        self, interactions: Sequence[Interaction], *, timeout_s: float
    ) -> Sequence[bool | ServiceError]:
        """Store many; one answer for each."""
        ...

    async def list_interactions(
        self, tenant: str, user_id: str, *, limit: int, cursor: str, timeout_s: float
    ) -> tuple[Sequence[Interaction], str]:
        """Read a page of a user's interactions, newest first, and the cursor of the next, empty on the last."""
        ...

    async def interaction_types(self, tenant: str, *, timeout_s: float) -> InteractionTypes:
        """Read the tenant's interaction types, the built-in ones included."""
        ...

    async def put_interaction_types(self, tenant: str, types: Sequence[InteractionType], *, timeout_s: float) -> None:
        """Create or replace interaction types."""
        ...


class PopularityCounts(Protocol):
    """What is popular."""

    async def popularity(
        self, tenant: str, *, window: Window, conditions: Filter, limit: int, timeout_s: float
    ) -> Popularity:
        """Read the most popular items that pass."""
        ...


class VectorIndex(Protocol):
    """Retrieval by history, item and vector."""

    async def retrieve(
        self, queries: Sequence[SourceQuery], *, timeout_s: float
    ) -> Sequence[Candidates | ServiceError]:
        """Find each user's candidates."""
        ...

    async def similar(
        self,
        tenant: str,
        item_key: int,
        *,
        conditions: Filter,
        limit: int,
        weights: Mapping[str, float] | None,
        timeout_s: float,
    ) -> Similar:
        """Find items similar to one.

        Raises:
            NotFoundError: The index knows nothing of the item.
        """
        ...

    async def search(
        self, tenant: str, vector: Floats, *, conditions: Filter, limit: int, timeout_s: float
    ) -> tuple[Keys, Floats]:
        """Find the items whose texts are nearest to a vector, with their cosines."""
        ...

    async def explain(
        self, query: SourceQuery, item_keys: Keys, *, limit: int, timeout_s: float
    ) -> Sequence[Contribution]:
        """Say which history items made the scores of these items, largest share first for each."""
        ...

    async def serving_document(self, tenant: str, *, timeout_s: float) -> str:
        """Read what training left for serving with the active version, as JSON; empty without an active version."""
        ...


class Graph(Protocol):
    """The knowledge graph."""

    async def expand(self, queries: Sequence[SourceQuery], *, timeout_s: float) -> Sequence[Candidates | ServiceError]:
        """Find each user's candidates; `weights` are those of the meta-paths."""
        ...

    async def related(self, tenant: str, item_key: int, *, limit: int, timeout_s: float) -> tuple[Keys, Floats]:
        """Find the items related to one, with their scores; an unknown item has none."""
        ...

    async def explain(
        self, tenant: str, history_keys: Keys, item_keys: Keys, *, limit: int, timeout_s: float
    ) -> Sequence[Contribution]:
        """Find the paths from the history to these items, largest share first for each."""
        ...


class Encoder(Protocol):
    """Turns texts into vectors."""

    async def encode(self, text: str, *, timeout_s: float) -> Floats:
        """Give float32[D] of length 1, or all zero for a text without words."""
        ...


class EventSink(Protocol):
    """The event log, as the gateway writes to it."""

    async def append(self, event: Event) -> None:
        """Append one event, together with what others append at the same time; it is durable when this returns."""
        ...

    async def append_many(self, events: Sequence[Event]) -> None:
        """Append events, all or none; they are durable when this returns."""
        ...


class AnswerCache(Protocol):
    """Answers that are the same for everybody, kept for a moment; it may forget any of them at any time.

    Every call may raise a ServiceError: then there is no cache just now.
    """

    async def get(self, key: str) -> Kept | None:
        """Give what was kept under a key; None when there is nothing, or it is too old."""
        ...

    async def put(self, key: str, value: bytes, *, fresh_s: float) -> None:
        """Keep an answer for so many seconds."""
        ...


class RateLimiter(Protocol):
    """Token buckets."""

    async def take(self, budgets: Sequence[Budget]) -> Verdict:
        """Take a token from each of these budgets, or from none when one of them refuses.

        Raises:
            ServiceError: The buckets cannot be reached.
        """
        ...
