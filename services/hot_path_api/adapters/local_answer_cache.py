"""Answers kept in this process."""

import time
from collections import OrderedDict
from collections.abc import Callable

from hot_path_api.domain.ports import Kept


class LocalAnswerCache:
    """See AnswerCache.

    Args:
        max_bytes: How much is kept; what was used longest ago goes first.
        clock: Seconds that never go back.
    """

    def __init__(self, *, max_bytes: int = 32 << 20, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._bytes = 0
        self._kept: OrderedDict[str, tuple[float, bytes]] = OrderedDict()

    async def get(self, key: str) -> Kept | None:
        """See AnswerCache."""
        found = self._kept.get(key)
        if found is None:
            return None
        expires, value = found
        fresh_s = expires - self._clock()
        if fresh_s <= 0.0:
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return Kept(value, fresh_s)

    async def put(self, key: str, value: bytes, *, fresh_s: float) -> None:
        """See AnswerCache."""
        self._drop(key)
        self._kept[key] = (self._clock() + fresh_s, value)
        self._bytes += len(value)
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: str) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self._bytes -= len(found[1])
