"""How many users items have, remembered: a related list asks for thousands of items, and each look-up costs 10 µs."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import numpy as np

from graph_service.domain.graph import Keys

UNKNOWN: Final = -1

_MERGED_AT: Final = 1_024
"""So many that were read lately are looked up one by one, before they are sorted in among the others."""


class KnownDegrees:
    """Belongs to the event loop's thread.

    Args:
        capacity: The most items, some 100 bytes each while they are new and 20 later; beyond that it begins anew.
        max_age_s: After this time a degree is read again, whether or not it is known to have changed.
    """

    def __init__(self, capacity: int, max_age_s: float, *, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._capacity = capacity
        self._max_age_s = max_age_s
        self._monotonic_s = monotonic_s
        self._keys: Keys = np.zeros(0, dtype=np.int64)  # ascending
        self._users: Keys = np.zeros(0, dtype=np.int64)
        self._is_young = np.zeros(0, dtype=np.bool_)
        self._recent: dict[int, int] = {}
        self._turned_at_s = monotonic_s()
        self._readings: list[set[int]] = []

    def anew(self) -> "KnownDegrees":
        """Give an empty one of the same size."""
        return KnownDegrees(self._capacity, self._max_age_s, monotonic_s=self._monotonic_s)

    def known(self, keys: Keys) -> Keys:
        """Give int64[n], the degree of each item that is remembered, and UNKNOWN."""
        self._turn()
        degrees = np.full(len(keys), UNKNOWN, dtype=np.int64)
        if len(self._keys):
            places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            degrees = np.where(self._keys[places] == keys, self._users[places], UNKNOWN)
        if self._recent:
            for number in np.flatnonzero(degrees == UNKNOWN).tolist():
                degrees[number] = self._recent.get(int(keys[number]), UNKNOWN)
        return degrees

    @contextmanager
    def reading(self) -> Iterator[set[int]]:
        """Collect the items that change during the block, in which degrees are read."""
        changed: set[int] = set()
        self._readings.append(changed)
        try:
            yield changed
        finally:
            self._readings.remove(changed)

    def keep(self, read: Mapping[int, int], changed: set[int]) -> None:
        """Remember what was read, except what has changed meanwhile."""
        if len(self._keys) + len(self._recent) + len(read) > self._capacity:
            self.clear()
        self._recent.update((key, users) for key, users in read.items() if key not in changed)
        if len(self._recent) > max(_MERGED_AT, len(self._keys) // 8):
            self._merge()

    def forget(self, keys: Iterable[int]) -> None:
        """Read these items anew next time."""
        several = list(keys)
        for changed in self._readings:
            changed.update(several)
        for key in several:
            self._recent.pop(key, None)
        if several and len(self._keys):
            wanted = np.array(several, dtype=np.int64)
            places = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
            self._users[places[self._keys[places] == wanted]] = UNKNOWN

    def clear(self) -> None:
        """Read all items anew."""
        self.forget([*self._recent, *self._keys.tolist()])
        self._keep_only(np.zeros(len(self._keys), dtype=np.bool_))

    def _turn(self) -> None:
        """Drop what is older than half of the greatest age, and call the rest old."""
        if self._monotonic_s() - self._turned_at_s > self._max_age_s / 2:
            self._merge()
            self._keep_only(self._is_young)
            self._is_young[:] = False
            self._turned_at_s = self._monotonic_s()

    def _merge(self) -> None:
        self._keep_only(self._users != UNKNOWN)
        keys = np.concatenate([np.fromiter(self._recent, dtype=np.int64), self._keys])
        users = np.concatenate([np.fromiter(self._recent.values(), dtype=np.int64), self._users])
        is_young = np.concatenate([np.ones(len(self._recent), dtype=np.bool_), self._is_young])
        self._keys, first = np.unique(keys, return_index=True)  # of two the first, which is the later one
        self._users, self._is_young = users[first], is_young[first]
        self._recent = {}

    def _keep_only(self, kept: "np.ndarray[tuple[int], np.dtype[np.bool_]]") -> None:
        self._keys, self._users, self._is_young = self._keys[kept], self._users[kept], self._is_young[kept]
