"""Questions to the graph as the ways in put them, and the answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from graph_service.domain.graph import Floats, Keys
from graph_service.domain.ports import GraphPath
from graph_service.domain.related_lists import PathWeights
from servicekit.filters import Filter


@dataclass(frozen=True, slots=True)
class Expansion:
    """Asks for a user's candidates.

    Args:
        tenant: Whose items.
        history_keys: int64[n], last touched first.
        history_weights: float32[n], signed.
        exclude_keys: int64[m], besides the history.
        limit: How many at most.
        path_weights: None for the service's own.
        conditions: What the candidates must pass.
    """

    tenant: str
    history_keys: Keys
    history_weights: Floats
    exclude_keys: Keys
    limit: int
    path_weights: PathWeights | None = None
    conditions: Filter = ()


@dataclass(frozen=True, slots=True)
class RelatedQuery:
    """Asks for the items related to one."""

    tenant: str
    item_key: int
    limit: int
    path_weights: PathWeights | None = None


@dataclass(frozen=True, slots=True)
class RankedItems:
    """int64[n] keys, best first, and their float32[n] scores."""

    keys: Keys
    scores: Floats


@dataclass(frozen=True, slots=True)
class ExplanationQuery:
    """Asks for the paths from a history (int64[n], last touched first) to items (int64[m])."""

    tenant: str
    history_keys: Keys
    item_keys: Keys
    limit: int


Explanation = Sequence[GraphPath]
"""By the order of the items, largest share first."""
