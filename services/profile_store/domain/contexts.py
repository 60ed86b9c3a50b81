"""What the recommendation pipeline needs to know of one user, computed from the user's interactions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from profile_store.domain.interactions import InteractionType
from servicekit.arrays import Floats, Keys

MAX_HISTORY = 10_000
"""The longest history a context gives, and how many seen items it is exact for."""
MAX_ROWS = 20_000
"""A context is computed from the user's newest interactions, at most this many; older ones still count as stored."""


@dataclass(frozen=True, slots=True)
class ContextQuery:
    """Whose context, and how many history items at most (1 to MAX_HISTORY)."""

    tenant: str
    user_id: str
    history_limit: int


@dataclass(frozen=True, slots=True, eq=False)
class UserContext:
    """A user's history, last touched first, and what else counts as seen.

    Args:
        history_keys: int64[n], distinct item keys.
        history_weights: float32[n], the signed weights.
        history_times_ms: int64[n], Unix milliseconds of each item's last interaction.
        seen_keys: int64[m], seen items that are not in the history above.
        interaction_count: How many interactions of the user are stored.
    """

    history_keys: Keys
    history_weights: Floats
    history_times_ms: Keys
    seen_keys: Keys
    interaction_count: int


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """All that any context of one user can show; immutable, so that it can be cached and sliced.

    Args:
        keys: int64[n], distinct item keys, last touched first; ties by the order of arrival, last first.
        weights: float32[n], for each item and type the last interaction's weight, summed over the types.
        times_ms: int64[n], the time of the item's last interaction.
        seen: bool[n], whether any of the item's interactions counts as seen.
        interaction_count: How many interactions of the user are stored.
    """

    keys: Keys
    weights: Floats
    times_ms: Keys
    seen: npt.NDArray[np.bool_]
    interaction_count: int

    @property
    def nbytes(self) -> int:
        """About how much memory it takes: the arrays, and the fixed cost of five objects."""
        return self.keys.nbytes + self.weights.nbytes + self.times_ms.nbytes + self.seen.nbytes + 640

    def context(self, limit: int) -> UserContext:
        """Cut off what is beyond the newest `limit` items; views, no copies."""
        if limit >= len(self.keys):
            return UserContext(self.keys, self.weights, self.times_ms, _NO_KEYS, self.interaction_count)
        further = self.keys[limit:][self.seen[limit:]]
        return UserContext(
            self.keys[:limit], self.weights[:limit], self.times_ms[:limit], further, self.interaction_count
        )


_NO_KEYS: Keys = np.empty(0, dtype=np.int64)
_NO_WEIGHTS: Floats = np.empty(0, dtype=np.float32)
_NO_FLAGS: npt.NDArray[np.bool_] = np.empty(0, dtype=np.bool_)


def build_history(
    newest_first: Iterable[tuple[int, int, float | None, int]],
    kinds: Mapping[int, InteractionType],
    *,
    interaction_count: int,
) -> History:
    """Compute a user's history.

    Args:
        newest_first: Item key, type number, value and time of the newest MAX_ROWS interactions, by time and then by
            arrival, last first.
        kinds: The types by number.
        interaction_count: How many interactions of the user are stored.
    """
    weights: dict[int, float] = {}  # a dict keeps the order in which the items come, which is the history's
    times: list[int] = []
    seen: set[int] = set()
    counted: set[tuple[int, int]] = set()
    for item_key, number, value, time_ms in newest_first:
        pair = (item_key, number)
        if pair in counted:
            continue
        counted.add(pair)
        kind = kinds[number]
        weight = kind.weight if kind.centre is None else kind.weigh(value)
        if item_key in weights:
            weights[item_key] += weight
        else:
            weights[item_key] = weight
            times.append(time_ms)
        if kind.counts_as_seen:
            seen.add(item_key)
    size = len(weights)
    keys = np.fromiter(weights.keys(), dtype=np.int64, count=size)
    history = History(
        keys,
        np.fromiter(weights.values(), dtype=np.float32, count=size),
        np.array(times, dtype=np.int64),
        np.fromiter((key in seen for key in weights), dtype=np.bool_, count=size),
        interaction_count,
    )
    return history if size <= MAX_HISTORY else _cut(history)


def build_history_from_columns(
    item_keys: Keys,
    type_numbers: Keys,
    weights: npt.NDArray[np.float64],
    times_ms: Keys,
    counts_as_seen: npt.NDArray[np.bool_],
    *,
    interaction_count: int,
) -> History:
    """Compute a user's history from columns of one length, last touched first; the same as build_history.

    Args:
        item_keys: int64[n].
        type_numbers: int64[n], small numbers from 0.
        weights: float64[n], what each interaction weighs.
        times_ms: int64[n].
        counts_as_seen: bool[n], whether its type does.
        interaction_count: How many interactions of the user are stored.
    """
    if not len(item_keys):
        return History(_NO_KEYS, _NO_WEIGHTS, _NO_KEYS, _NO_FLAGS, interaction_count)
    keys, first, items = np.unique(item_keys, return_index=True, return_inverse=True)
    types = int(type_numbers.max()) + 1
    _, counted = np.unique(items * types + type_numbers, return_index=True)
    sums = np.bincount(items[counted], weights=weights[counted], minlength=len(keys))
    seen = np.zeros(len(keys), dtype=np.bool_)
    seen[items[counts_as_seen]] = True
    order = np.argsort(first)
    history = History(
        keys[order], sums[order].astype(np.float32), times_ms[first[order]], seen[order], interaction_count
    )
    return history if len(keys) <= MAX_HISTORY else _cut(history)


def _cut(history: History) -> History:
    """Keep the newest MAX_HISTORY items and, beyond them, the seen ones up to MAX_HISTORY seen ones in all."""
    kept = history.seen & (np.cumsum(history.seen) <= MAX_HISTORY)
    kept[:MAX_HISTORY] = True
    return History(
        history.keys[kept],
        history.weights[kept],
        history.times_ms[kept],
        history.seen[kept],
        history.interaction_count,
    )
