"""Popularity lists, kept for a second: they change slowly, and everybody asks for the same ones."""

import asyncio
import time
from collections import OrderedDict

from hot_path_api.application.stock import Stock
from hot_path_api.domain.popularity import Popularity, Window
from hot_path_api.domain.ports import PopularityCounts
from servicekit import metrics
from servicekit.errors import DeadlineExceededError
from servicekit.filters import Filter
from servicekit.tasks import look_at_failure

_CACHE = "popularity"
_TIER = "gateway"
_FRESH_S = 1.0
_CAPACITY = 1_000
# With fewer popular items than this, others that pass stand behind them.
_SHORT = 100

_Question = tuple[str, Window, Filter]


class PopularityLists:
    """Answers from what it kept, asks once for many who wait, and gives an old list when no new one can be had.

    Args:
        counts: Where lists come from.
        stock: Items that follow when few were ever touched, with a share of 0.
        length: How many items a list has at most.
        timeout_s: How long one read may take.
    """

    def __init__(self, counts: PopularityCounts, stock: Stock, *, length: int, timeout_s: float) -> None:
        self._counts = counts
        self._stock = stock
        self._length = length
        self._timeout_s = timeout_s
        self._kept: OrderedDict[_Question, tuple[float, Popularity]] = OrderedDict()
        self._fallback: dict[str, Popularity] = {}
        self._loading: dict[_Question, asyncio.Task[Popularity]] = {}
        self._hits = metrics.CACHE_HITS.labels(_CACHE, _TIER)
        self._misses = metrics.CACHE_MISSES.labels(_CACHE, _TIER)

    def peek(self, tenant: str, window: Window, conditions: Filter) -> Popularity | None:
        """Give the list if a fresh one is at hand."""
        kept = self._kept.get((tenant, window, conditions))
        if kept is None or kept[0] < time.monotonic():
            return None
        self._hits.inc()
        return kept[1]

    async def get(
        self, tenant: str, window: Window, conditions: Filter, *, timeout_s: float
    ) -> tuple[Popularity, bool]:
        """Give the list, and whether it is a fresh one.

        Raises:
            ServiceError: It could not be read, and there is no old one.
        """
        fresh = self.peek(tenant, window, conditions)
        if fresh is not None:
            return fresh, True
        self._misses.inc()
        question = (tenant, window, conditions)
        task = self._loading.get(question)
        if task is None:
            task = self._loading[question] = asyncio.get_running_loop().create_task(self._load(question))
            task.add_done_callback(look_at_failure)
        done, _ = await asyncio.wait((task,), timeout=timeout_s)
        if done and task.exception() is None:
            return task.result(), True
        kept = self._kept.get(question)
        old = kept[1] if kept is not None else self._fallback.get(tenant)
        if old is not None:
            return old, False
        if done:
            raise task.exception() or DeadlineExceededError("popularity was not read")
        raise DeadlineExceededError("popularity was not read in time")

    def fall_back_on(self, tenant: str, popularity: Popularity) -> None:
        """Give this list where another one cannot be read; what must not be in a list is left out by who makes it."""
        self._fallback[tenant] = popularity

    async def _load(self, question: _Question) -> Popularity:
        tenant, window, conditions = question
        try:
            popularity = await self._counts.popularity(
                tenant, window=window, conditions=conditions, limit=self._length, timeout_s=self._timeout_s
            )
            if len(popularity.keys) < _SHORT:
                popularity = popularity.followed_by(await self._stock.that_pass(tenant, conditions))
        finally:
            del self._loading[question]
        self._kept[question] = (time.monotonic() + _FRESH_S, popularity)
        self._kept.move_to_end(question)
        if len(self._kept) > _CAPACITY:
            self._kept.popitem(last=False)
        return popularity
