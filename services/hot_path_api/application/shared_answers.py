"""Answers that are the same for everybody: made once, then given from this process or from a cache of all gateways."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import NamedTuple

from prometheus_client import Counter

from hot_path_api.application.catalogue_epoch import CatalogueEpoch
from hot_path_api.application.models import ServingModels
from hot_path_api.domain.ports import AnswerCache, Kept
from servicekit import metrics
from servicekit.errors import ServiceError

LOCAL, SHARED = "gateway", "redis"
_FORMAT = (
    1  # of the answers; another one when they are written differently, since gateways of two releases share a cache
)
_LOCAL_S = 1.0
# For so long after a switch of models some replica may still answer with the one before.
_SETTLED_S = 60.0


class Made(NamedTuple):
    """An answer, which model it is from, and whether it is good enough to be kept."""

    value: bytes
    model_version: str
    is_whole: bool


class SharedAnswers:
    """Two tiers of caches, and one who makes what many wait for.

    The name under which an answer is kept holds the tenant, the model that serves and the state of the catalogue, so
    neither a switch nor a deletion is answered with what was kept before it, once this gateway has heard of it.

    Args:
        local: The nearer tier; keeps answers for a second at most.
        shared: The tier of all gateways. When it cannot be reached, answers are made here.
        models: Knows which model serves.
        epoch: Knows the state of the catalogue.
        fresh_s: How old an answer may become, over both tiers.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        *,
        local: AnswerCache,
        shared: AnswerCache,
        models: ServingModels,
        epoch: CatalogueEpoch,
        fresh_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._local = local
        self._shared = shared
        self._models = models
        self._epoch = epoch
        self._fresh_s = fresh_s
        self._clock = clock
        self._since: dict[str, tuple[str, float]] = {}
        self._making: dict[str, asyncio.Task[bytes]] = {}
        self._counters: dict[tuple[str, str], tuple[Counter, Counter]] = {}

    async def get(
        self, cache: str, tenant: str, question: str, make: Callable[[], Awaitable[Made]]
    ) -> tuple[bytes, bool]:
        """Give the answer to a question, and whether it was kept; whatever making it raises is raised.

        Args:
            cache: What kind of answers these are, for the metrics.
            tenant: Whose answers.
            question: Everything else that the answer depends on.
            make: Makes it.
        """
        version = self._models.current(tenant).version
        named = "\n".join((str(_FORMAT), tenant, version, self._epoch.name, question))
        key = blake2b(named.encode(), digest_size=16).hexdigest()
        hits, misses = self._count(cache, LOCAL)
        kept = await self._local.get(key)
        if kept is not None:
            hits.inc()
            return kept.value, True
        misses.inc()
        making = self._making.get(key)
        if making is not None:
            return await asyncio.shield(making), True
        # A task of its own, so that a caller who leaves does not take the others' answer away.
        making = asyncio.create_task(self._find_or_make(cache, key, tenant, version, make))
        self._making[key] = making
        making.add_done_callback(lambda task: self._ended(key, task))
        answered = await asyncio.shield(making)
        return answered, False

    async def _find_or_make(
        self, cache: str, key: str, tenant: str, version: str, make: Callable[[], Awaitable[Made]]
    ) -> bytes:
        hits, misses = self._count(cache, SHARED)
        kept = await self._look_up(key)
        if kept is not None:
            hits.inc()
            await self._local.put(key, kept.value, fresh_s=min(kept.fresh_s, _LOCAL_S))
            return kept.value
        misses.inc()
        made = await make()
        if made.is_whole and made.model_version == version:
            fresh_s = self._fresh_for_s(tenant, version)
            await self._local.put(key, made.value, fresh_s=min(fresh_s, _LOCAL_S))
            try:
                await self._shared.put(key, made.value, fresh_s=fresh_s)
            except ServiceError as error:
                metrics.DEGRADED.labels(SHARED, error.code).inc()
        return made.value

    async def _look_up(self, key: str) -> Kept | None:
        try:
            return await self._shared.get(key)
        except ServiceError as error:
            metrics.DEGRADED.labels(SHARED, error.code).inc()
            return None

    def _fresh_for_s(self, tenant: str, version: str) -> float:
        known, since = self._since.get(tenant, (None, 0.0))
        if known != version:
            since = self._clock()
            self._since[tenant] = (version, since)
        return self._fresh_s if self._clock() - since >= _SETTLED_S else min(self._fresh_s, _LOCAL_S)

    def _count(self, cache: str, tier: str) -> tuple[Counter, Counter]:
        counters = self._counters.get((cache, tier))
        if counters is None:
            counters = metrics.CACHE_HITS.labels(cache, tier), metrics.CACHE_MISSES.labels(cache, tier)
            self._counters[cache, tier] = counters
        return counters

    def _ended(self, key: str, task: "asyncio.Task[bytes]") -> None:
        del self._making[key]
        if not task.cancelled():
            task.exception()  # looked at, since nobody may be waiting any more
