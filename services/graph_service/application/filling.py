"""Fills the cache of related lists from the store: what somebody waits for first, what is merely old in between."""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable
from itertools import islice

import numpy as np

from graph_service.domain.graph_cache import GraphCache
from graph_service.domain.ports import GraphStore, RelatednessRule
from servicekit import metrics
from servicekit.deadline import remaining_s
from servicekit.errors import DeadlineExceededError, ServiceError
from servicekit.logs import get_logger

MARGIN_S = 0.005
"""Kept back from every wait, to compose an answer from what is there."""

MAX_BATCH = 1_024
"""Lists computed by one read of those that somebody waits for: what they share is read once."""

MAX_RENEWED = 64
"""Lists computed by one read in the background: some 50 ms of one core."""

REST_SHARE = 4.0
"""After each read in the background this many times its duration is left to those who answer."""


class ListFiller:
    """Computes lists in two loops, which somebody has to run: `answer_waiting` and `renew`.

    Args:
        timeout_s: How long at most those wait who want an answer.
    """

    def __init__(
        self,
        store: GraphStore,
        cache: GraphCache,
        rule: RelatednessRule,
        *,
        timeout_s: float = 0.05,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._cache = cache
        self._rule = rule
        self._timeout_s = timeout_s
        self._monotonic_s = monotonic_s
        self._awaited: dict[int, asyncio.Future[None]] = {}
        self._someone_waits = asyncio.Event()
        self._old: dict[int, None] = {}
        self._something_is_old = asyncio.Event()
        self._hits = metrics.CACHE_HITS.labels("related_items", "memory")
        self._misses = metrics.CACHE_MISSES.labels("related_items", "memory")
        self._log = get_logger(__name__)

    async def provide(self, keys: Collection[int]) -> dict[int, ServiceError]:
        """See to it that items have lists for the answer in hand; give the reason for each that has none in time."""
        missing = self._cache.missing(keys)
        self._hits.inc(len(keys) - len(missing))
        late: dict[int, ServiceError] = {}
        if missing:
            self._misses.inc(len(missing))
            late = await self.ensure(missing, min(self._timeout_s, remaining_s() - MARGIN_S))
        self.renew_if_due(keys)
        return late

    async def ensure(self, keys: Iterable[int], timeout_s: float) -> dict[int, ServiceError]:
        """Wait until the items have lists, and give the reason for each that has none in time.

        Those that came too late are finished all the same, for the next who asks.
        """
        missing = self._cache.missing(keys)
        if not missing:
            return {}
        loop = asyncio.get_running_loop()
        futures = {
            key: self._awaited.get(key) or self._awaited.setdefault(key, loop.create_future()) for key in missing
        }
        self._someone_waits.set()
        if timeout_s > 0:
            await asyncio.wait(futures.values(), timeout=timeout_s)
        return {key: error for key, future in futures.items() if (error := _failure(future)) is not None}

    def renew_if_due(self, keys: Iterable[int]) -> None:
        """Have those of these lists that have become old computed again when there is time."""
        self._old.update(dict.fromkeys(self._cache.due(keys, self._monotonic_s())))
        if self._old:
            self._something_is_old.set()

    async def answer_waiting(self) -> None:
        """Compute what somebody waits for, for ever; all that is asked for meanwhile is the next batch."""
        while True:
            await self._someone_waits.wait()
            self._someone_waits.clear()
            while waiting := dict(islice(self._awaited.items(), MAX_BATCH)):
                failure = await self._try_to_fill(list(waiting))
                for key, future in waiting.items():
                    del self._awaited[key]
                    if failure is None:
                        future.set_result(None)
                    else:
                        future.set_exception(failure)
                        future.exception()  # nobody may be left to ask for it

    async def renew(self) -> None:
        """Compute again what has become old, for ever, in a share of the time."""
        while True:
            await self._something_is_old.wait()
            self._something_is_old.clear()
            while keys := list(islice(self._old, MAX_RENEWED)):
                started_s = self._monotonic_s()
                await self._try_to_fill(keys)
                for key in keys:
                    del self._old[key]
                await asyncio.sleep(REST_SHARE * (self._monotonic_s() - started_s))

    async def _try_to_fill(self, keys: list[int]) -> ServiceError | None:
        try:
            await self._fill(keys)
        except ServiceError as error:
            self._log.warning("related items cannot be computed", items=len(keys), error=error.message)
            return error
        return None

    async def _fill(self, keys: list[int]) -> None:
        with self._cache.watch() as watch:
            found = await self._store.related(np.array(keys, dtype=np.int64), self._rule)
            unknown = self._cache.unknown_items(found)
            facts = await self._store.facts(np.array(unknown, dtype=np.int64)) if unknown else {}
            self._cache.put(keys, found, facts, watch, self._monotonic_s())


def _failure(future: "asyncio.Future[None]") -> ServiceError | None:
    if not future.done():
        return DeadlineExceededError("the related items could not be read in time")
    error = future.exception()
    if error is not None and not isinstance(error, ServiceError):
        raise error
    return error
