"""Composes users' candidates from the related lists of their histories: one call of the kernel for a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from graph_service.domain.graph import Floats, Ints, Keys
from graph_service.domain.item_table import ItemTable, Mask
from graph_service.domain.kernel import Found, Scratch, Wishes, compose
from graph_service.domain.relatedness import Doubles, Indices

Packed = npt.NDArray[np.int64]
"""Entries of a list, each a position and a score: int32 and float32 beside each other, so that one copy moves both."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a user may be shown: int64[n] keys, best first, float32[n] scores, int32[n] places in the history."""

    keys: Keys
    scores: Floats
    because: Ints


@dataclass(frozen=True, slots=True)
class Wish:
    """What is composed for one user.

    Args:
        lists: The related lists of some of the history's items.
        weights: float64[n], what each list is multiplied by.
        places: int32[n], the place of each in the history.
        exclude: int64[m], what must not be among the candidates.
        limit: How many at most.
    """

    lists: Sequence[Packed]
    weights: Doubles
    places: Ints
    exclude: Keys
    limit: int


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
        self._scratch = _scratch(0)

    def compose(self, wishes: Sequence[Wish], *, shown: Mask) -> list[Candidates]:
        """Add up each user's lists, each times its weight, and keep the best of what is positive and may be shown."""
        if not wishes:
            return []
        keys = self._table.keys
        if len(self._scratch.sums) < len(keys):
            self._scratch = _scratch(len(keys))
        found = _room(len(wishes), max(wish.limit for wish in wishes))
        compose(_as_arrays(wishes), keys, shown, self._scratch, found)
        return [
            Candidates(
                keys.take(found.positions[user, :count]), found.scores[user, :count], found.because[user, :count]
            )
            for user, count in enumerate(found.counts.tolist())
        ]


def _as_arrays(wishes: Sequence[Wish]) -> Wishes:
    """Lay the wishes out; a list that several users need is there once."""
    numbers: dict[int, int] = {}
    distinct: list[Packed] = []
    lists: list[int] = []
    for wish in wishes:
        for each in wish.lists:
            number = numbers.setdefault(id(each), len(distinct))
            if number == len(distinct):
                distinct.append(each)
            lists.append(number)
    entries = np.concatenate(distinct) if distinct else np.zeros(0, np.int64)
    pairs = entries.reshape(-1, 1)
    return Wishes(
        positions=pairs.view(np.int32),
        scores=pairs.view(np.float32),
        list_starts=_starts([len(each) for each in distinct]),
        starts=_starts([len(wish.lists) for wish in wishes]),
        lists=np.array(lists, np.int32),
        weights=np.concatenate([wish.weights for wish in wishes]),
        places=np.concatenate([wish.places for wish in wishes]),
        exclude_starts=_starts([len(wish.exclude) for wish in wishes]),
        exclude=np.concatenate([wish.exclude for wish in wishes]),
        limits=np.array([wish.limit for wish in wishes]),
    )


def _starts(lengths: Sequence[int]) -> npt.NDArray[np.int64]:
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def _scratch(positions: int) -> Scratch:
    return Scratch(
        sums=np.zeros(positions),
        touched=np.zeros(positions, np.uint8),
        slots=np.zeros(positions, np.int32),
        marked=np.zeros(positions + 1, np.int32),  # the loop writes one place behind the last
    )


def _room(users: int, most: int) -> Found:
    return Found(
        positions=np.empty((users, most), np.int32),
        scores=np.empty((users, most), np.float32),
        because=np.empty((users, most), np.int32),
        counts=np.zeros(users, np.int64),
    )


def best(keys: Keys, scores: Floats, limit: int) -> Indices:
    """Give the indices of the `limit` largest scores, best first, ties by key."""
    if len(scores) <= limit:
        order: Indices = np.lexsort((keys, -scores))
        return order
    threshold = np.partition(scores, len(scores) - limit)[len(scores) - limit]
    (top,) = (scores >= threshold).nonzero()
    ordered: Indices = top[np.lexsort((keys[top], -scores[top]))[:limit]]
    return ordered
