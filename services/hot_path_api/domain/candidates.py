"""Candidates with their features, and what a source is asked for them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from servicekit.arrays import Floats, Ints, Keys
from servicekit.filters import Filter

Places = npt.NDArray[np.intp]
"""Places in arrays."""

CONTENT = "content"
CONTENT_SOURCES = (CONTENT, "nearest")
RETRIEVAL_SOURCES = ("cooccurrence", "transition", *CONTENT_SOURCES)
"""What vector_search retrieves by, in one call; a model may add more."""
GRAPH = "graph"
TRENDING = "trending"
FACTORS = "factors"
"""No source of candidates: a feature that ranks what the others retrieve."""


@dataclass(frozen=True, slots=True)
class SourceQuery:
    """What a source is asked for one user.

    Args:
        history_keys: int64[H], distinct item keys, last touched first; never answered.
        history_weights: float32[H], signed.
        history_ages_s: float32[H], seconds since each was touched.
        exclude_keys: int64[E], further keys that must not be answered.
        filter: What an item must be to be answered.
        limit: How many candidates at most.
        weights: Replaces the source's own weights of its parts by name; None keeps them.
    """

    tenant: str
    history_keys: Keys
    history_weights: Floats
    history_ages_s: Floats
    exclude_keys: Keys
    filter: Filter
    limit: int
    weights: Mapping[str, float] | None = None

    def liked(self) -> "SourceQuery":
        """Give the same of the part of the history that speaks for something."""
        positive = self.history_weights > 0.0
        if positive.all():
            return self
        return replace(
            self,
            history_keys=self.history_keys[positive],
            history_weights=self.history_weights[positive],
            history_ages_s=self.history_ages_s[positive],
        )


@dataclass(frozen=True, slots=True)
class Candidates:
    """Items with features.

    Args:
        keys: int64[N], distinct.
        names: F names of features.
        features: float32[F, N].
        because: int32[N], index into the history of the item that gave most, -1 where none did.
        shares: Which of the names are shares of sources, as opposed to columns of the model.
        model_version: The version that answered; empty when none did.
    """

    keys: Keys
    names: tuple[str, ...]
    features: Floats
    because: Ints
    shares: frozenset[str]
    model_version: str = ""

    def evidence(self) -> Floats:
        """Give float32[N]: all that the sources say for and against each candidate, added up."""
        total: Floats = share_rows(self.names, self.shares) @ self.features
        return total


NO_CANDIDATES = Candidates(
    keys=np.empty(0, np.int64),
    names=(),
    features=np.empty((0, 0), np.float32),
    because=np.empty(0, np.int32),
    shares=frozenset(),
)


@lru_cache(maxsize=100)
def share_rows(names: tuple[str, ...], shares: frozenset[str]) -> Floats:
    """Give float32[F]: 1 for the rows that are shares, 0 for the others."""
    return np.array([name in shares for name in names], np.float32)


@lru_cache(maxsize=100)
def share_places(names: tuple[str, ...], shares: frozenset[str]) -> tuple[tuple[str, ...], Places]:
    """Give the names of the rows that are shares, and intp[S], where they stand."""
    places = [place for place, name in enumerate(names) if name in shares]
    return tuple(names[place] for place in places), np.array(places, np.intp)
