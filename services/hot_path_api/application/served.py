"""The side effect of every list: an event that says what was shown, written after the answer has left."""

import asyncio
from collections import deque

from hot_path_api.domain.events import ListServed
from hot_path_api.domain.ports import EventSink
from servicekit import metrics
from servicekit.errors import ServiceError
from servicekit.logs import get_logger

_NAME = "recommendations.served"


class ServedLists:
    """Collects events and appends them in batches; never makes an answer wait, and counts what it has to drop.

    Args:
        sink: The event log.
        capacity: How many may wait; one more is dropped.
        every_s: How often what waits is written.
        batch: The most events of one append.
    """

    def __init__(self, sink: EventSink, *, capacity: int = 20_000, every_s: float = 0.25, batch: int = 1_000) -> None:
        self._sink = sink
        self._capacity = capacity
        self._every_s = every_s
        self._batch = batch
        self._waiting: deque[ListServed] = deque()
        self._log = get_logger(__name__)

    def record(self, event: ListServed) -> None:
        """Take an event to be written soon."""
        if len(self._waiting) >= self._capacity:
            metrics.BATCH_DROPPED.labels(_NAME, "queue_full").inc()
            return
        self._waiting.append(event)

    async def run(self, stop: asyncio.Event) -> None:
        """Write what waits again and again; after the stop, once more."""
        stopping = asyncio.create_task(stop.wait())
        while not stopping.done():
            await asyncio.wait((stopping,), timeout=self._every_s)
            await self._write()

    async def _write(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
            try:
                await self._sink.append_many(batch)
            except ServiceError as error:
                # They are for training and evaluation only, so a loss is counted and not made good.
                metrics.BATCH_DROPPED.labels(_NAME, error.code).inc(len(batch))
                self._log.warning("served lists were not logged", lists=len(batch), error=error.message)
                return
