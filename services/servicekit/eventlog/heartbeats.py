"""Tells how far a region lags behind the one that it mirrors, by the heartbeats that come with the events."""

import asyncio
from contextlib import suppress

from servicekit import metrics
from servicekit.clock import Clock
from servicekit.errors import ServiceError
from servicekit.eventlog.port import EventLog
from servicekit.logs import get_logger

_POLL_S = 1.0
_PAUSE_S = 1.0
_BATCH = 1_000

_log = get_logger(__name__)


class Heartbeats:
    """Follows a topic of heartbeats, each of which carries when it was sent.

    The lag is worked out whenever the metric is read. So it grows while none comes, whether it is the other region, the
    link, the mirroring or this reader that stands still. No events come for as long: their own ages cannot tell that.

    Args:
        log: Where they arrive.
        topic: Their topic; it may come into being later.
        clock: Says how old they are.
    """

    def __init__(self, log: EventLog, topic: str, *, clock: Clock) -> None:
        self._log = log
        self._topic = topic
        self._clock = clock
        self._since_ms = clock.now_ms()
        self._newest_ms: int | None = None

    def lag_s(self) -> float:
        """Give the age of the newest heartbeat in seconds; before the first, for how long it has been waited for."""
        newest_ms = self._since_ms if self._newest_ms is None else self._newest_ms
        return max(0.0, (self._clock.now_ms() - newest_ms) / 1000)

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the metric until `stop` is set; a log that cannot be read is tried again while the lag grows."""
        metrics.REPLICATION_LAG.labels(self._topic).set_function(self.lag_s)
        told = ""
        try:
            while not stop.is_set():
                try:
                    await self._follow(stop)
                except ServiceError as error:
                    if error.message != told:
                        _log.warning("no heartbeats, trying again", topic=self._topic, error=error.message)
                    told = error.message
                    with suppress(TimeoutError):
                        await asyncio.wait_for(stop.wait(), _PAUSE_S)
        finally:
            metrics.REPLICATION_LAG.remove(self._topic)

    async def _follow(self, stop: asyncio.Event) -> None:
        end = await self._log.end_offsets((self._topic,))
        start = {where: max(0, offset - 1) for where, offset in end.items()}  # the newest tells how long it has been
        consumer = self._log.consumer((self._topic,), group=None, start=start)
        try:
            while not stop.is_set():
                for record in await consumer.poll(max_records=_BATCH, timeout_s=_POLL_S):
                    self._newest_ms = max(self._newest_ms or 0, record.timestamp_ms)
        finally:
            await consumer.close()
