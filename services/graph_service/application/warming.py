"""Keeps the lists of the most touched items in the cache, so that the first to ask need not wait."""

import asyncio

from graph_service.application.filling import MAX_BATCH, ListFiller
from graph_service.domain.graph_cache import GraphCache
from graph_service.domain.ports import GraphStore
from servicekit.errors import ServiceError
from servicekit.logs import get_logger

QUIET_S = 1.0
"""While a load goes on, lists would be computed in vain; a pause this long says that it is over."""

PATIENCE_S = 30.0
"""When there is never a pause, warm up all the same after this time."""

BATCH_TIMEOUT_S = 60.0
"""Only a store that hangs takes this long for one batch."""


class Warmer:
    """Runs beside everything else.

    Args:
        limit: How many items.
    """

    def __init__(self, store: GraphStore, cache: GraphCache, filler: ListFiller, *, limit: int) -> None:
        self._store = store
        self._cache = cache
        self._filler = filler
        self._limit = limit
        self._log = get_logger(__name__)

    async def run(self) -> None:
        """Warm up at the start and whenever the graph has changed and come to rest, for ever."""
        warmed_at = -1
        loop = asyncio.get_running_loop()
        latest_s = loop.time()
        while True:
            before = self._cache.changes
            await asyncio.sleep(QUIET_S)
            is_quiet = before == self._cache.changes
            if self._cache.changes != warmed_at and (is_quiet or loop.time() - latest_s > PATIENCE_S):
                warmed_at = self._cache.changes
                await self._warm_softly()
                latest_s = loop.time()

    async def _warm_softly(self) -> None:
        try:
            await self.warm()
        except ServiceError as error:
            # Requests fill what they need by themselves.
            self._log.warning("the cache cannot be warmed", error=error.message)

    async def warm_at_once(self, patience_s: float) -> None:
        """Compute what is missing as fast as it goes, before anybody is served, for at most `patience_s`."""
        try:
            async with asyncio.timeout(patience_s):
                await self.warm(rest_share=0.0)
        except TimeoutError:
            self._log.info("ready before the cache is warm", waited_s=patience_s)
        except ServiceError as error:
            self._log.warning("the cache cannot be warmed", error=error.message)

    async def warm(self, *, rest_share: float = 1.0) -> None:
        """Compute the lists that are missing, resting in between for a share of the time, and have old ones renewed."""
        busiest = (await self._store.busiest_items(self._limit)).tolist()
        missing = self._cache.missing(busiest)
        loop = asyncio.get_running_loop()
        for start in range(0, len(missing), MAX_BATCH):
            started_s = loop.time()
            await self._filler.ensure(missing[start : start + MAX_BATCH], BATCH_TIMEOUT_S)
            await asyncio.sleep(rest_share * (loop.time() - started_s))
        self._filler.renew_if_due(busiest)
