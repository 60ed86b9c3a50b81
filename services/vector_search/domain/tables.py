"""Item-item tables: for each history item the items it speaks for, with signed weights."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from servicekit.arrays import Floats, Ints
from servicekit.errors import FailedPreconditionError
from vector_search.domain.kernel import FAINT

ALL_HISTORY = 2**24
"""A history length that no history reaches and that float32 holds exactly."""


@dataclass(frozen=True, slots=True)
class SourceParameters:
    """How a source weighs the items of a history.

    The item at position p, 0 being the newest, that was touched s seconds before the newest counts for
    strength · scale · .5^(p / half_life_items) · (time_floor + (1 - time_floor) · .5^(s / half_life_s)),
    and for nothing once its position has halved it FAINT times.
    """

    scale: float = 1.0
    """Makes the shares of different sources comparable."""
    half_life_items: float | None = None
    """None: position does not matter."""
    ties_share_position: bool = False
    """Whether items touched at the same moment all stand at their mean position."""
    half_life_s: float | None = None
    """None: time does not matter."""
    time_floor: float = 0.0
    """What is left of an item's weight after a long time, 0 to 1."""
    max_history: int | None = None
    """How many of the newest items are looked at; None: all."""

    def pull(self, strength: float, index: int, shared_position: float, gap_s: float) -> float:
        """Give what one history item counts for, as the kernel computes it."""
        if self.max_history is not None and index >= self.max_history:
            return 0.0
        position = shared_position if self.ties_share_position else index
        halvings = position / self.half_life_items if self.half_life_items else 0.0
        if halvings > FAINT:
            return 0.0
        pull = strength * self.scale * 0.5**halvings
        if self.half_life_s:
            pull *= self.time_floor + (1.0 - self.time_floor) * 0.5 ** (gap_s / self.half_life_s)
        return float(pull)

    def as_row(self) -> list[float]:
        """Give the kernel's row of parameters."""
        return [
            self.scale,
            1.0 / self.half_life_items if self.half_life_items else 0.0,
            float(self.ties_share_position),
            self.time_floor if self.half_life_s else 1.0,
            1.0 / self.half_life_s if self.half_life_s else 0.0,
            float(ALL_HISTORY if self.max_history is None else self.max_history),
        ]


@dataclass(frozen=True, slots=True, eq=False)
class ItemTable:
    """Rows of neighbours, by item number; the arrays may be memory-mapped and are never written to."""

    indptr: npt.NDArray[np.int64]
    """[rows + 1]: where each row begins."""
    indices: Ints
    """[entries]: item numbers."""
    weights: Floats | npt.NDArray[np.float16]
    """[entries]: signed, finite."""

    @property
    def rows(self) -> int:
        """How many history items the table can speak of."""
        return len(self.indptr) - 1

    def row(self, number: int) -> tuple[Ints, Floats]:
        """Give the neighbours of an item and their weights; empty beyond the table."""
        if number >= self.rows:
            return NO_TABLE.indices, np.empty(0, np.float32)
        entries = slice(int(self.indptr[number]), int(self.indptr[number + 1]))
        return self.indices[entries], self.weights[entries].astype(np.float32)

    def as_row(self) -> list[int]:
        """Give the kernel's row of addresses; it holds while this table lives."""
        half = self.weights.dtype == np.float16
        return [self.indptr.ctypes.data, self.indices.ctypes.data, self.weights.ctypes.data, int(half), self.rows]

    def verify(self, name: str, items: int) -> None:
        """Check everything that the kernel relies on, since it checks nothing itself.

        Raises:
            FailedPreconditionError: The table is not one of `items` items.
        """
        if self.indptr.dtype != np.int64 or self.indices.dtype != np.int32:
            raise FailedPreconditionError(f"table {name}: indptr must be int64 and indices int32")
        if self.weights.dtype not in {np.dtype(np.float16), np.dtype(np.float32)}:
            raise FailedPreconditionError(f"table {name}: weights must be float16 or float32")
        if len(self.indptr) != items + 1 or len(self.indices) != len(self.weights):
            raise FailedPreconditionError(f"table {name}: the arrays do not fit each other or {items} items")
        if self.indptr[0] != 0 or self.indptr[-1] != len(self.indices) or (np.diff(self.indptr) < 0).any():
            raise FailedPreconditionError(f"table {name}: indptr does not ascend from 0 to the number of entries")
        if len(self.indices) and (self.indices.min() < 0 or self.indices.max() >= items):
            raise FailedPreconditionError(f"table {name}: it leads to items beyond {items}")
        if not np.isfinite(self.weights).all():
            raise FailedPreconditionError(f"table {name}: a weight is not finite")


NO_TABLE = ItemTable(np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))
