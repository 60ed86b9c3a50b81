"""Builds the graph again beside the one that serves, compares the two, and switches."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextvars import Context
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

import numpy as np

from graph_service.domain.graph import Mutation
from graph_service.domain.graph_cache import GraphCache
from graph_service.domain.ports import GraphCounts, GraphRebuild, GraphStore, RelatedItems, RelatednessRule
from graph_service.domain.sources import Catalogue, ChangeLog, Position
from servicekit.errors import FailedPreconditionError, ServiceError
from servicekit.logs import get_logger

FILLED_AT_ONCE: Final = 5_000
"""Changes written in one transaction."""

_SCORE_TOLERANCE: Final = 1e-4


class RebuildSource(IntEnum):
    """What the graph is built from."""

    PROFILE_STORE = 1
    LOG = 2


class RebuildPhase(IntEnum):
    """What a rebuild is doing."""

    CLEARING = 1
    ITEMS = 2
    INTERACTIONS = 3
    CATCHING_UP = 4
    COMPARING = 5
    SERVING = 6


@dataclass(frozen=True, slots=True)
class RebuildOrder:
    """What is asked for.

    Args:
        source: What the graph is built from.
        tenants: Whose items and interactions are exported, besides the tenants in the log.
        samples: Of so many items the related items in both graphs are compared.
        least_percent: With a smaller share of the items or relations of the old graph the new one does not serve.
    """

    source: RebuildSource
    tenants: Sequence[str]
    samples: int
    least_percent: int


@dataclass(frozen=True, slots=True)
class RebuildProgress:
    """How far a rebuild is.

    Args:
        phase: What is done.
        written: Changes written to the new graph so far.
        serving, rebuilt: What both graphs hold; known when they are compared.
        sampled, agreeing: Of so many items the related items were compared, of so many they are the same in both.
    """

    phase: RebuildPhase
    written: int = 0
    serving: GraphCounts | None = None
    rebuilt: GraphCounts | None = None
    sampled: int = 0
    agreeing: int = 0


class GraphRebuilder:
    """One rebuild at a time; what happens meanwhile is written to both graphs.

    Args:
        store: Whose graph is built again.
        cache: Emptied after the switch.
        catalogue, log: The sources.
        rule: The formula by which related items are compared.
    """

    def __init__(
        self, store: GraphStore, cache: GraphCache, catalogue: Catalogue, log: ChangeLog, *, rule: RelatednessRule
    ) -> None:
        self._store = store
        self._cache = cache
        self._catalogue = catalogue
        self._log = log
        self._rule = rule
        self._running = asyncio.Lock()

    async def rebuild(self, order: RebuildOrder) -> AsyncGenerator[RebuildProgress, None]:
        """Rebuild, telling how far it is; whoever stops listening abandons it.

        Raises:
            FailedPreconditionError: Another one runs in this process, or the new graph has too little.
            NotFoundError: Another replica began a rebuild meanwhile.
            UnavailableError: A source or the store cannot be reached.
        """
        if self._running.locked():
            raise FailedPreconditionError("a rebuild is under way: wait for its end")
        async with self._running:
            progress = RebuildProgress(RebuildPhase.CLEARING)
            yield progress
            # What is being applied in this moment is not yet in this position, and so it is read again from the log.
            position = await self._log.applied()
            rebuild = await self._store.begin_rebuild()
            try:
                async for phase, changes in self._sources(order, position):
                    for start in range(0, len(changes), FILLED_AT_ONCE):
                        part = changes[start : start + FILLED_AT_ONCE]
                        await rebuild.fill(part)
                        progress = replace(progress, phase=phase, written=progress.written + len(part))
                        yield progress
                progress = await self._compare(rebuild, order, progress)
                yield progress
                _check(progress, order.least_percent)
                await rebuild.finish()
            finally:
                # Also when the caller has gone or his time is over: the deadline stands in his context.
                ending = asyncio.get_running_loop().create_task(rebuild.abandon(), context=Context())
                await asyncio.shield(ending)
            self._cache.clear()
            yield replace(progress, phase=RebuildPhase.SERVING)

    async def _sources(
        self, order: RebuildOrder, position: Position
    ) -> AsyncIterator[tuple[RebuildPhase, Sequence[Mutation]]]:
        if order.source is RebuildSource.LOG:
            async for changes in self._log.since({}):
                yield RebuildPhase.CATCHING_UP, changes
            return
        # Deletions and erasures are in no export, and decide what an old record may still bring back.
        async for changes in self._log.described():
            yield RebuildPhase.ITEMS, changes
        tenants = sorted({*order.tenants, *await self._log.tenants()})
        for tenant in tenants:
            async for changes in self._catalogue.items(tenant):
                yield RebuildPhase.ITEMS, changes
        for tenant in tenants:
            async for changes in self._catalogue.interactions(tenant):
                yield RebuildPhase.INTERACTIONS, changes
        async for changes in self._log.since(position):
            yield RebuildPhase.CATCHING_UP, changes

    async def _compare(self, rebuild: GraphRebuild, order: RebuildOrder, progress: RebuildProgress) -> RebuildProgress:
        keys = await self._store.busiest_items(order.samples)
        mine, theirs = await self._store.related(keys, self._rule), await rebuild.related(keys, self._rule)
        return replace(
            progress,
            phase=RebuildPhase.COMPARING,
            serving=await self._store.counts(),
            rebuilt=await rebuild.counts(),
            sampled=len(keys),
            agreeing=sum(_agree(*pair) for pair in zip(mine, theirs, strict=True)),
        )


class RebuildWatch:
    """Notices that another replica has rebuilt the graph, and empties the cache."""

    def __init__(self, store: GraphStore, cache: GraphCache, *, interval_s: float) -> None:
        self._store = store
        self._cache = cache
        self._interval_s = interval_s
        self._log = get_logger(__name__)

    async def run(self) -> None:
        """Look again and again, for ever."""
        last = ""
        while True:
            try:
                serving = await self._store.serving()
            except ServiceError as error:
                self._log.warning("whether the graph was rebuilt is not known", error=error.message)
            else:
                if last and serving != last:
                    self._log.info("a rebuilt graph serves", graph=serving)
                    self._cache.clear()
                last = serving
            await asyncio.sleep(self._interval_s)


def _agree(one: RelatedItems, other: RelatedItems) -> bool:
    return bool(
        np.array_equal(one.keys, other.keys)
        and np.allclose(one.scores, other.scores, rtol=_SCORE_TOLERANCE)
        and one.users == other.users
    )


def _check(progress: RebuildProgress, least_percent: int) -> None:
    serving, rebuilt = progress.serving, progress.rebuilt
    if serving is None or rebuilt is None:
        return
    for name, had, has in (
        ("items", serving.items, rebuilt.items),
        ("relations", serving.relations, rebuilt.relations),
    ):
        if 100 * has < least_percent * had:
            raise FailedPreconditionError(
                f"the rebuilt graph has {has:,} {name}, the one that serves {had:,}: it serves on. A database holds "
                "the graph of one deployment: is another one's in it? If the difference is right, ask for a smaller "
                "least_percent",
                field="least_percent",
            )
