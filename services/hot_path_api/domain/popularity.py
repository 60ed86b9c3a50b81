"""Popularity lists."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from servicekit.arrays import Floats, Keys


class Window(StrEnum):
    """Over which past popularity is counted, as a half-life; ALL does not decay."""

    HOUR = "1h"
    DAY = "24h"
    WEEK = "7d"
    MONTH = "30d"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Popularity:
    """The most popular items, best first.

    Args:
        keys: int64[N], distinct.
        shares: float32[N], each count as a part of the greatest: from 1 down.
    """

    keys: Keys
    shares: Floats

    @classmethod
    def of_counts(cls, keys: Keys, counts: Floats) -> "Popularity":
        """Scale counts, which are given best first, to shares."""
        greatest = counts[0] if len(counts) and counts[0] > 0 else np.float32(1.0)
        return cls(keys, np.asarray(counts / greatest, np.float32))

    def followed_by(self, keys: Sequence[int]) -> "Popularity":
        """Put items behind that nobody has touched; those that are in the list already stay where they are."""
        others = np.setdiff1d(np.array(keys, np.int64), self.keys)
        return Popularity(
            np.concatenate([self.keys, others]), np.concatenate([self.shares, np.zeros(len(others), np.float32)])
        )
