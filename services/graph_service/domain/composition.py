"""Composes a user's candidates from the related lists of the history: a few passes over short arrays.

With about twenty lists of 150 entries the arrays have 3,000 elements, so what counts is the number of numpy calls and
that nothing is as long as the catalogue: sums are made over the entries themselves, each item represented by one of
its entries.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graph_service.domain.graph import Floats, Ints, Keys
from graph_service.domain.item_table import ItemTable, Mask, Positions
from graph_service.domain.relatedness import Doubles, Indices

Packed = npt.NDArray[np.int64]
"""Entries of a list, each a position and a score: int32 and float32 beside each other, so that one copy moves both."""

_SLOTS = 1 << 16
_FEW = 8


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a user may be shown: int64[n] keys, best first, float32[n] scores, int32[n] indices into the history."""

    keys: Keys
    scores: Floats
    because: Ints


@dataclass(frozen=True, slots=True)
class Sums:
    """The summed scores of the n items that may be shown, and the E entries that they come from.

    Args:
        keys: int64[n].
        positions: intp[n].
        scores: float32[n].
        entry: intp[n], the entry that represents each item.
        represented_by: intp[E], for each entry the one that represents its item.
        shares: float64[E], what each entry adds.
        ends: int64[H], where the entries of each list end.
    """

    keys: Keys
    positions: Positions
    scores: Floats
    entry: Indices
    represented_by: Indices
    shares: Doubles
    ends: npt.NDArray[np.int64]


def pack(positions: npt.NDArray[np.int32], scores: Floats) -> Packed:
    """Put positions and scores side by side."""
    packed = np.empty((len(positions), 2), dtype=np.int32)
    packed[:, 0] = positions
    packed[:, 1] = scores.view(np.int32)
    return packed.view(np.int64).reshape(-1)


class Composer:
    """Does the arithmetic, with work space that it keeps; one thread at a time."""

    def __init__(self, table: ItemTable) -> None:
        self._table = table
        self._numbers = np.arange(4096)
        self._slot_of_entry = np.full(4096, -1)
        self._entry_of_position = np.zeros(0, dtype=np.intp)
        self._excluded = np.full(_SLOTS, -1, dtype=np.int64)

    def add_up(self, lists: Sequence[Packed], weights: Doubles, *, shown: Mask, exclude: Keys) -> Sums:
        """Add up the lists, each times its weight, and keep what is positive, may be shown and is not excluded."""
        entries = np.concatenate(lists)
        self._fit(len(entries))
        lengths = np.array([len(each) for each in lists])
        positions = entries.view(np.int32)[::2].astype(np.intp)
        shares = weights.repeat(lengths)
        shares *= entries.view(np.float32)[1::2]
        numbers = self._numbers[: len(entries)]
        self._entry_of_position[positions] = numbers
        represented_by = self._entry_of_position[positions]
        sums = np.bincount(represented_by, shares, len(entries))
        (entry,) = ((represented_by == numbers) & (sums > 0) & shown[positions]).nonzero()
        keys = self._table.keys[positions[entry]]
        if len(exclude):
            kept = ~self._is_among(keys, exclude)
            entry, keys = entry[kept], keys[kept]
        return Sums(
            keys, positions[entry], sums[entry].astype(np.float32), entry, represented_by, shares, lengths.cumsum()
        )

    def choose(self, sums: Sums, chosen: Indices) -> Candidates:
        """Give the items at these indices, in this order, each with the list that added most to it."""
        entry = sums.entry[chosen]
        self._slot_of_entry[entry] = self._numbers[: len(chosen)]
        slot = self._slot_of_entry[sums.represented_by]
        self._slot_of_entry[entry] = -1
        (entries,) = (slot >= 0).nonzero()
        shares = np.zeros((len(chosen), len(sums.ends)))
        shares[slot[entries], sums.ends.searchsorted(entries, side="right")] = sums.shares[entries]
        return Candidates(sums.keys[chosen], sums.scores[chosen], shares.argmax(axis=1).astype(np.int32))

    def _is_among(self, keys: Keys, others: Keys) -> Mask:
        """Say which keys are among the others, by a hash table with one place a slot, for keys are hashes already."""
        slots = others & (_SLOTS - 1)
        self._excluded[slots] = others
        found: Mask = self._excluded[keys & (_SLOTS - 1)] == keys
        pushed_out = others[self._excluded[slots] != others]
        self._excluded[slots] = -1
        if len(pushed_out) > _FEW:
            found |= np.isin(keys, pushed_out)
        else:
            for key in pushed_out.tolist():
                found |= keys == key
        return found

    def _fit(self, entries: int) -> None:
        if len(self._numbers) < entries:
            self._numbers = np.arange(2 * entries)
            self._slot_of_entry = np.full(2 * entries, -1)
        if len(self._entry_of_position) < len(self._table.keys):
            self._entry_of_position = np.zeros(len(self._table.keys), dtype=np.intp)


def best(keys: Keys, scores: Floats, limit: int) -> Indices:
    """Give the indices of the `limit` largest scores, best first, ties by key."""
    if len(scores) <= limit:
        order: Indices = np.lexsort((keys, -scores))
        return order
    threshold = np.partition(scores, len(scores) - limit)[len(scores) - limit]
    (top,) = (scores >= threshold).nonzero()
    ordered: Indices = top[np.lexsort((keys[top], -scores[top]))[:limit]]
    return ordered
