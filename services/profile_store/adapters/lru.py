"""A bounded memory of what was read last."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from servicekit import metrics

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Lru(Generic[K, V]):
    """Keeps the values used last, up to a total size.

    Args:
        name: Names it in metrics.
        capacity: The largest total size.
        size_of: What one value counts; without it each counts 1.
    """

    def __init__(self, name: str, capacity: int, size_of: Callable[[V], int] = lambda _: 1) -> None:
        self._values: OrderedDict[K, V] = OrderedDict()
        self._capacity = capacity
        self._size_of = size_of
        self._size = 0
        self._hits = metrics.CACHE_HITS.labels(name, "process")
        self._misses = metrics.CACHE_MISSES.labels(name, "process")

    def get(self, key: K) -> V | None:
        """Give the value, None when it is not here."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Keep a value, and let go of those unused longest when there is too much."""
        self.drop(key)
        self._values[key] = value
        self._size += self._size_of(value)
        while self._size > self._capacity:
            _, oldest = self._values.popitem(last=False)
            self._size -= self._size_of(oldest)

    def drop(self, key: K) -> None:
        """Let go of a value, if it is here."""
        value = self._values.pop(key, None)
        if value is not None:
            self._size -= self._size_of(value)

    def clear(self) -> None:
        """Let go of everything."""
        self._values.clear()
        self._size = 0

    def count(self, hits: int, misses: int) -> None:
        """Count look-ups for the metrics; once for a batch, since a counter costs more than a look-up."""
        self._hits.inc(hits)
        self._misses.inc(misses)
