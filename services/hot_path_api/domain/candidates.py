"""Candidates with their features, and how the answers of several sources become one pool."""

from collections.abc import Mapping, Sequence
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


def pool_of(parts: Sequence[Candidates], *, enough: int) -> Candidates:
    """Make one pool of the sources' answers: all of them, unless the first source found enough by itself."""
    if not parts or len(parts[0].keys) < enough:
        return merge(parts)
    pool = parts[0]
    for part in parts[1:]:
        pool = join(pool, part)
    return pool


def join(pool: Candidates, other: Candidates) -> Candidates:
    """Add to a pool what another source says of the candidates in it, and none of that source's own.

    It is the cheaper way, and the right one for a pool that is large enough: the blend was fitted on what retrieval
    finds, and the model's columns are not known of others.
    """
    if not len(other.keys):
        return pool
    order = other.keys.argsort()
    keys = other.keys[order]
    places = keys.searchsorted(pool.keys)
    places[places == len(keys)] = 0
    found = keys.take(places) == pool.keys
    own = len(pool.names)
    features = np.empty((own + len(other.names), len(pool.keys)), np.float32)
    features[:own] = pool.features
    np.multiply(other.features.take(order.take(places), axis=1), found, out=features[own:])
    return Candidates(
        keys=pool.keys,
        names=pool.names + other.names,
        features=features,
        because=pool.because,
        shares=pool.shares | other.shares,
        model_version=pool.model_version,
    )


def merge(parts: Sequence[Candidates]) -> Candidates:
    """Make one pool of the answers of several sources; each source names features of its own.

    A candidate that a source did not name has a share of 0 from it. Any other feature that it lacks (a column of the
    model, such as its popularity) is unknown and taken as the mean of those that have it. With one part only, that
    part is returned as it is; otherwise the pool is sorted by key.

    Args:
        parts: The answers; where two give a reason for the same candidate, the earlier one's stands.
    """
    parts = [part for part in parts if len(part.keys)]
    if not parts:
        return NO_CANDIDATES
    if len(parts) == 1:
        return parts[0]
    keys = np.concatenate([part.keys for part in parts])
    order = keys.argsort(kind="stable")
    keys = keys[order]
    is_first = np.empty(len(keys), np.bool_)
    is_first[0] = True
    np.not_equal(keys[1:], keys[:-1], out=is_first[1:])
    places = np.empty(len(keys), np.intp)
    places[order] = is_first.cumsum() - 1
    keys = keys[is_first]

    names = tuple(name for part in parts for name in part.names)
    features = np.zeros((len(names), len(keys)), np.float32)
    because = np.full(len(keys), -1, np.int32)
    row, end = len(names), len(places)
    for part in reversed(parts):
        row, begin = row - len(part.names), end - len(part.keys)
        mine, end = places[begin:end], begin
        if len(mine) < len(keys):
            for offset, name in enumerate(part.names):
                if name not in part.shares:
                    features[row + offset] = part.features[offset].mean()
        features[row : row + len(part.names), mine] = part.features
        because[mine] = np.where(part.because >= 0, part.because, because[mine])
    return Candidates(
        keys=keys,
        names=names,
        features=features,
        because=because,
        shares=frozenset[str]().union(*(part.shares for part in parts)),
        model_version=next((part.model_version for part in parts if part.model_version), ""),
    )
