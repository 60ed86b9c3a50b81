"""How many users items have, remembered: a related list asks for thousands of items, and each look-up costs 10 µs."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from graph_service.domain.graph import Keys


class KnownDegrees:
    """Belongs to the event loop's thread.

    Args:
        capacity: The most items, some 100 bytes each; beyond that it begins anew.
        max_age_s: After this time a degree is read again, whether or not it is known to have changed.
    """

    def __init__(self, capacity: int, max_age_s: float, *, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._capacity = capacity
        self._max_age_s = max_age_s
        self._monotonic_s = monotonic_s
        # Two halves by age: the older one is dropped as a whole.
        self._young: dict[int, int] = {}
        self._old: dict[int, int] = {}
        self._turned_at_s = monotonic_s()
        self._readings: list[set[int]] = []

    def anew(self) -> "KnownDegrees":
        """Give an empty one of the same size."""
        return KnownDegrees(self._capacity, self._max_age_s, monotonic_s=self._monotonic_s)

    def known(self, keys: Keys) -> dict[int, int]:
        """Give the degrees of those items that are remembered."""
        if self._monotonic_s() - self._turned_at_s > self._max_age_s / 2:
            self._young, self._old = {}, self._young
            self._turned_at_s = self._monotonic_s()
        young, old = self._young, self._old
        return {key: users for key in keys.tolist() if (users := young.get(key) or old.get(key))}

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
        if len(self._young) + len(self._old) + len(read) > self._capacity:
            self._young, self._old = {}, {}
        self._young.update((key, users) for key, users in read.items() if key not in changed)

    def forget(self, keys: Iterable[int]) -> None:
        """Read these items anew next time."""
        for key in keys:
            self._young.pop(key, None)
            self._old.pop(key, None)
            for changed in self._readings:
                changed.add(key)

    def clear(self) -> None:
        """Read all items anew."""
        self.forget([*self._young, *self._old])
