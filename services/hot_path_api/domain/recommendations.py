"""What a caller asks the pipeline for, and what it answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from hot_path_api.domain.items import Item
from hot_path_api.domain.popularity import Window
from hot_path_api.domain.users import SessionEvent
from servicekit.filters import Filter

MAX_LIMIT = 100
MAX_DEPTH = 1_000
"""How far down the pages of one list go: what a source answers at most."""


class Algorithm(StrEnum):
    """A group of sources with the weights that training gave them."""

    HYBRID = "hybrid"
    COLLABORATIVE = "collaborative"
    CONTENT_BASED = "content_based"
    GRAPH = "graph"


@dataclass(slots=True)
class RecommendationQuery:
    """A request for a list; not changed after it was made, and not frozen because that would cost time on each one.

    Args:
        user_id: Empty for an anonymous visitor.
        session: What the visitor did, in the order it happened.
        offset: How much of the list was shown before.
        exclude: Item keys that must not be in it.
        diversity: 0 orders by score alone, 1 by difference from what stands above alone.
        caps: For an attribute, how many items that share a value of it may be in the list.
        weights: Replaces the learned weights altogether; only sources named here are asked.
        window: Over which past popularity is counted; None takes the model's.
        explain: Add every contribution to the reasons.
    """

    request_id: str
    tenant: str
    user_id: str = ""
    session: Sequence[SessionEvent] = ()
    limit: int = 10
    offset: int = 0
    filter: Filter = ()
    exclude: Sequence[int] = ()
    diversity: float = 0.0
    caps: Mapping[str, int] = field(default_factory=dict)
    algorithm: Algorithm = Algorithm.HYBRID
    weights: Mapping[str, float] | None = None
    window: Window | None = None
    explain: bool = False
    surface: str = ""

    @property
    def is_personal(self) -> bool:
        """Tell whether the answer is for one visitor only."""
        return bool(self.user_id or self.session)


class ReasonCode(StrEnum):
    """Why an item is in the list."""

    BECAUSE_YOU_INTERACTED = "because_you_interacted"  # evidence: the history item that gave most of the score
    RELATED_THROUGH = "related_through"  # evidence: a history item and what connects it with this one
    TRENDING = "trending"  # many people took to it lately
    SIMILAR_TO = "similar_to"  # it resembles the item asked about
    MATCHES_QUERY = "matches_query"  # its text resembles the words asked for
    FALLBACK = "fallback"  # it fills the list: from the static list of the model, or from the catalogue


@dataclass(slots=True)
class Reason:
    """A code with its evidence.

    Args:
        item: The history item that it speaks of.
        source: The source that says so.
        share: How much of the score it gave.
        meta_path: For RELATED_THROUGH: which path.
        through: For RELATED_THROUGH: the middle node's name.
    """

    code: ReasonCode
    item: Item | None = None
    source: str = ""
    share: float | None = None
    meta_path: str = ""
    through: str = ""


@dataclass(slots=True)
class RecommendedItem:
    """One item of a list."""

    item: Item
    score: float
    sources: Mapping[str, float]
    reasons: Sequence[Reason] = ()
    propensity: float = 1.0


@dataclass(slots=True)
class RecommendationList:
    """The answer.

    Args:
        cold_start: Nothing was known of this visitor.
        degraded: What could not be asked, by name; empty when the answer is as good as it gets.
        strategy: What filled the list: the algorithm's name, "weights", "trending" or "fallback".
        has_more: There are items after these.
    """

    request_id: str
    model_version: str
    items: Sequence[RecommendedItem]
    cold_start: bool = False
    degraded: Sequence[str] = ()
    strategy: str = Algorithm.HYBRID.value
    variant: str = "default"
    has_more: bool = False
