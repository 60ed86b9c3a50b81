"""Counts that decay exponentially, kept so that adding one is O(1) and their order holds without rewriting.

Forward decay (Cormode, Shkapenyuk, Srivastava, Xu: "Forward Decay", ICDE 2009): an interaction of weight w at time t is
worth w * 2^(-(now - t) / h) now, for a half-life h. As every worth shrinks by the same factor while time passes, a sum
is stored as it was at a reference time of its own, the time of the item's latest interaction. A late interaction
is added with the worth that it had at the reference time, so the order of arrival does not matter; and the worth is at
most the weight, so nothing overflows. log2(sum) + reference / h orders items at any time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from servicekit.arrays import Floats, Keys
from servicekit.filters import Filter

_HOUR_MS = 3_600_000.0


class Window(IntEnum):
    """Over which past is counted; the value is the column of the sums."""

    HOUR = 0
    DAY = 1
    WEEK = 2
    MONTH = 3
    ALL = 4


WINDOWS = len(Window)
HALF_LIVES_MS = np.array([1.0, 24.0, 7 * 24.0, 30 * 24.0, np.inf]) * _HOUR_MS
"""float64[5], by window."""

Times = npt.NDArray[np.int64]
Sums = npt.NDArray[np.float64]

_RESIDUE = 1e-9
"""What is left of a sum after a subtraction and is a smaller part of it than this is rounding error, and becomes 0."""


@dataclass(frozen=True, slots=True)
class PopularityQuery:
    """What is most popular among a tenant's items of one type (None: all) that pass the filter."""

    tenant: str
    item_type: str | None
    window: Window
    limit: int
    filter: Filter


@dataclass(frozen=True, slots=True, eq=False)
class PopularityList:
    """The most popular items, best first; items without any positive weight are not among them.

    Args:
        keys: int64[n], item keys; of equally popular ones the smaller key comes first.
        scores: float32[n], the decayed sums as of now.
    """

    keys: Keys
    scores: Floats


@dataclass(frozen=True, slots=True, eq=False)
class DecayedSums:
    """The sums of some items.

    Args:
        reference_ms: int64[n], the time as of which each row of sums stands.
        sums: float64[n, 5], by window.
    """

    reference_ms: Times
    sums: Sums

    @classmethod
    def zeros(cls, count: int) -> "DecayedSums":
        """Give the sums of items without interactions."""
        return cls(np.zeros(count, dtype=np.int64), np.zeros((count, WINDOWS)))

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[float]]) -> "DecayedSums":
        """Read rows of a reference time and five sums."""
        table = np.array(rows, dtype=np.float64).reshape(-1, 1 + WINDOWS)
        return cls(table[:, 0].astype(np.int64), table[:, 1:])  # milliseconds are far below 2^53

    def add(self, rows: npt.NDArray[np.intp], times_ms: Times, weights: npt.NDArray[np.float64]) -> "DecayedSums":
        """Add interactions in any order of time.

        Args:
            rows: intp[m], which sums each belongs to; repeats are right.
            times_ms: int64[m], when it occurred.
            weights: float64[m], positive.
        """
        reference = self.reference_ms.copy()
        np.maximum.at(reference, rows, times_ms)
        sums = self.sums * _decay(reference - self.reference_ms)
        np.add.at(sums, rows, weights[:, None] * _decay(reference[rows] - times_ms))
        return DecayedSums(reference, sums)

    def subtract(self, rows: npt.NDArray[np.intp], times_ms: Times, weights: npt.NDArray[np.float64]) -> "DecayedSums":
        """Take away interactions that were added before."""
        share = np.zeros_like(self.sums)
        np.add.at(share, rows, weights[:, None] * _decay(self.reference_ms[rows] - times_ms))
        sums = self.sums - share
        sums[sums <= _RESIDUE * self.sums] = 0.0
        return DecayedSums(self.reference_ms, sums)

    def order(self) -> Sums:
        """Give float64[n, 5], larger for what is more popular at any time, -inf for what is not popular at all."""
        with np.errstate(divide="ignore"):
            return np.log2(self.sums) + self.reference_ms[:, None] / HALF_LIVES_MS

    def worth(self, window: Window, now_ms: int) -> npt.NDArray[np.float64]:
        """Give float64[n], the sums of one window as of now."""
        worth: npt.NDArray[np.float64] = np.exp2((self.reference_ms - now_ms) / HALF_LIVES_MS[window])
        return self.sums[:, window] * worth


class SumTable:
    """The decayed sums of a growing number of items, by item key."""

    def __init__(self) -> None:
        self._rows: dict[int, int] = {}
        self._sums = DecayedSums.zeros(64)

    def __len__(self) -> int:
        return len(self._rows)

    @classmethod
    def of(cls, keys: Keys, sums: DecayedSums) -> "SumTable":
        """Make one of what `all` gave."""
        table = cls()
        table._rows = {key: row for row, key in enumerate(keys.tolist())}
        table._sums = sums
        return table

    def all(self) -> tuple[Keys, DecayedSums]:
        """Give int64[n], the item keys, and their sums; to be read before the next change."""
        size = len(self._rows)
        keys = np.fromiter(self._rows, dtype=np.int64, count=size)
        return keys, DecayedSums(self._sums.reference_ms[:size], self._sums.sums[:size])

    def add(self, item_keys: Keys, times_ms: Times, weights: npt.NDArray[np.float64]) -> tuple[Keys, DecayedSums]:
        """Count interactions of positive weight, in any order; give the items that changed and their new sums."""
        keys, places = np.unique(item_keys, return_inverse=True)
        rows = self._rows_of(keys)
        return self._change(keys, rows, self._at(rows).add(places, times_ms, weights))

    def subtract(self, item_keys: Keys, times_ms: Times, weights: npt.NDArray[np.float64]) -> tuple[Keys, DecayedSums]:
        """Take back interactions that were counted; give the items that changed and their new sums."""
        keys, places = np.unique(item_keys, return_inverse=True)
        rows = self._rows_of(keys)
        return self._change(keys, rows, self._at(rows).subtract(places, times_ms, weights))

    def _at(self, rows: npt.NDArray[np.intp]) -> DecayedSums:
        return DecayedSums(self._sums.reference_ms[rows], self._sums.sums[rows])

    def _change(self, keys: Keys, rows: npt.NDArray[np.intp], changed: DecayedSums) -> tuple[Keys, DecayedSums]:
        self._sums.reference_ms[rows] = changed.reference_ms
        self._sums.sums[rows] = changed.sums
        return keys, changed

    def _rows_of(self, keys: Keys) -> npt.NDArray[np.intp]:
        rows = np.array([self._rows.setdefault(key, len(self._rows)) for key in keys.tolist()], dtype=np.intp)
        capacity = len(self._sums.reference_ms)
        if len(self._rows) > capacity:
            more = DecayedSums.zeros(max(len(self._rows), 2 * capacity) - capacity)
            self._sums = DecayedSums(
                np.concatenate((self._sums.reference_ms, more.reference_ms)),
                np.concatenate((self._sums.sums, more.sums)),
            )
        return rows


def _decay(ages_ms: Times) -> Sums:
    return np.exp2(-ages_ms[:, None] / HALF_LIVES_MS)
