"""How many users items have, remembered: a related list asks for thousands of items, and each look-up costs 10 µs."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from graph_service.domain.graph import Keys


class KnownDegrees:
    """Belongs to the event loop's thread.

    Args:
        capacity: The most items, some 100 bytes each; beyond that it begins anew.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._users_of: dict[int, int] = {}
        self._readings: list[set[int]] = []

    def unknown(self, keys: Keys) -> Keys:
        """Give those of distinct items that have to be read."""
        known = self._users_of
        return np.array([key for key in keys.tolist() if key not in known], dtype=np.int64)

    def of(self, keys: Keys, read: Mapping[int, int]) -> Keys:
        """Give each item's degree: what is remembered, or was just read, or 0."""
        known = self._users_of
        return np.array([known.get(key) or read.get(key, 0) for key in keys.tolist()], dtype=np.int64)

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
        if len(self._users_of) + len(read) > self._capacity:
            self._users_of.clear()
        self._users_of.update((key, users) for key, users in read.items() if key not in changed)

    def forget(self, keys: Iterable[int] | None = None) -> None:
        """Read these items anew next time, or all."""
        if keys is None:
            keys = list(self._users_of)
        for key in keys:
            self._users_of.pop(key, None)
            for changed in self._readings:
                changed.add(key)
