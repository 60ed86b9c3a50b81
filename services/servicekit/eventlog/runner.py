"""The life of a consumer: poll, handle, put aside what failed, commit; again until told to stop."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from servicekit import metrics
from servicekit.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
)
from servicekit.eventlog.ages import RecordAges
from servicekit.eventlog.letters import bare, dead_letter
from servicekit.eventlog.port import EventConsumer, EventProducer, NewRecord, Record, StaleOwnerError, TopicPartition
from servicekit.logs import get_logger

TRANSIENT = (UnavailableError, DeadlineExceededError, ResourceExhaustedError)
"""What says that the same call may succeed later."""

_POLL_S = 1.0
_LAG_INTERVAL_S = 1.0
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 5.0
_SEAT_INTERVAL_S = 1.0  # much less than a log waits for a member that does not poll
_SEAT_POLL_S = 0.2

T = TypeVar("T")

_log = get_logger(__name__)


class _StoppedError(Exception):
    """The run shall end while something waits for its next try."""


@dataclass(frozen=True, slots=True)
class RecordFailure:
    """A record that can never be applied, and why."""

    record: Record
    error: Exception


Handle = Callable[[Sequence[Record]], Awaitable[Sequence[RecordFailure]]]


class ConsumerRunner:
    """Drives one consumer; every record is handled at least once, in order within its partition.

    `handle` gets the records of a batch, applies those it can and returns the others. It may see a record again after
    a crash or a rebalance. What it raises decides what happens:

    * UnavailableError, DeadlineExceededError, ResourceExhaustedError: the same batch again, after a growing pause,
      for as long as it takes. Nothing else is read meanwhile; the member keeps its partitions, paused.
    * Anything else: the records one by one; the one that raises again is put aside.

    What is put aside goes to the topic's dead letters, with the error and its origin in the headers. Offsets are
    committed after that.

    When too many records fail in a row, the consumer stands still: as many as the limit says are put aside, nothing
    more is read, and the process goes on with all else. The next run begins behind what was put aside.

    Args:
        consumer: Whom to poll; its life belongs to the caller.
        handle: Applies records.
        producer: Takes the dead letters; their topics must exist.
        name: Names the consumer in logs and dead letters.
        max_batch: The most records handled at once.
        max_failures_in_a_row: One more and the consumer stands still, before that one is put aside or committed.
        linger_s: How long to wait for a batch to fill once it has a record.
        hold_s: How long to hold a batch back before it is handled, so that a producer who also writes through to
            where the effects go is done first and can tell its caller what was new.
    """

    def __init__(
        self,
        consumer: EventConsumer,
        handle: Handle,
        producer: EventProducer,
        *,
        name: str,
        max_batch: int = 500,
        max_failures_in_a_row: int = 100,
        linger_s: float = 0.0,
        hold_s: float = 0.0,
    ) -> None:
        self._consumer = consumer
        self._handle = handle
        self._producer = producer
        self._name = name
        self._max_batch = max_batch
        self._max_failures = max_failures_in_a_row
        self._linger_s = linger_s
        self._hold_s = hold_s
        self._failures_in_a_row = 0
        self._lag_due = 0.0
        self._ages = RecordAges()
        self._measured: frozenset[TopicPartition] = frozenset()
        self._held: set[TopicPartition] = set()  # paused here
        self._ahead: list[Record] = []  # what came while everything was paused, from partitions gained just then

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; a batch begun is finished, unless it waits for something to come back."""
        with suppress(_StoppedError):
            while not stop.is_set():
                records = await self._persist(lambda: _unless(stop, self._gather()), stop)
                if records:
                    await self._hold(stop)
                    failures = await self._keeping_seat(self._handle_batch(records, stop))
                    done = self._judge(records, failures)
                    finished = {_place(record) for record in done}
                    aside = [failure for failure in failures if _place(failure.record) in finished]
                    await self._keeping_seat(self._put_aside(aside, stop))
                    await self._commit(done, stop)
                    if len(done) < len(records):
                        await self._stand_still(failures[-1].error, stop)
                self._ages.tell(records)
                await self._measure_lag()

    async def _gather(self) -> Sequence[Record]:
        if self._ahead:
            ahead, self._ahead = self._ahead[: self._max_batch], self._ahead[self._max_batch :]
            return ahead
        records = list(await self._consumer.poll(max_records=self._max_batch, timeout_s=_POLL_S))
        deadline = time.monotonic() + self._linger_s
        while records and len(records) < self._max_batch and (left := deadline - time.monotonic()) > 0:
            try:
                records += await self._consumer.poll(max_records=self._max_batch - len(records), timeout_s=left)
            except TRANSIENT:
                break  # the next poll tells; what is here must not be lost
        return records

    async def _hold(self, stop: asyncio.Event) -> None:
        if self._hold_s:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._hold_s)

    async def _handle_batch(self, records: Sequence[Record], stop: asyncio.Event) -> list[RecordFailure]:
        try:
            return list(await self._persist(lambda: self._handle(records), stop))
        except _StoppedError:
            raise
        except Exception as error:  # noqa: BLE001 - one record must not hold up all others, whatever it broke
            if len(records) == 1:
                return [RecordFailure(records[0], error)]
            _log.warning("batch failed, trying its records one by one", consumer=self._name, error=repr(error))
            return [failure for record in records for failure in await self._handle_batch([record], stop)]

    def _judge(self, records: Sequence[Record], failures: Sequence[RecordFailure]) -> Sequence[Record]:
        """Count failures in a row; give the records to be done with, only those before the limit when it is passed."""
        failed = {_place(failure.record) for failure in failures}
        if not failed:
            self._failures_in_a_row = 0
        for number, record in enumerate(records if failed else ()):
            self._failures_in_a_row = self._failures_in_a_row + 1 if _place(record) in failed else 0
            if self._failures_in_a_row > self._max_failures:
                records = records[:number]
                break
        for topic, count in Counter(record.topic for record in records).items():
            metrics.CONSUMED.labels(topic).inc(count)
        return records

    async def _stand_still(self, last: Exception, stop: asyncio.Event) -> None:
        """Read nothing more until `stop` is set. The partitions are kept: who got them would stop as well."""
        topics = sorted({where.topic for where in self._consumer.position()})
        _log.error(
            "the consumer stopped, since too many records failed in a row: look at `recommend dlq list`, then restart"
            " to go on with the next ones, or raise CONSUMER_MAX_FAILURES_IN_A_ROW",
            consumer=self._name,
            topics=topics,
            limit=self._max_failures,
            last_error=repr(last),
        )
        for topic in topics:
            metrics.CONSUMER_STOPPED.labels(self._name, topic).set(1)
        while not stop.is_set():
            await self._show_up()
            self._ahead.clear()  # committed by nobody, so the next run reads it
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _SEAT_INTERVAL_S)

    async def _keeping_seat(self, work: Awaitable[T]) -> T:
        """Do the work; while it takes long, go on polling with everything paused, so that the group waits for it."""
        done = asyncio.Event()
        seat = asyncio.create_task(self._keep_seat(done))
        try:
            return await work
        finally:
            done.set()
            await seat  # not cancelled: what a poll has read by then would be lost
            self._consumer.resume(self._held)
            self._held.clear()

    async def _keep_seat(self, done: asyncio.Event) -> None:
        while not done.is_set():
            try:
                await asyncio.wait_for(done.wait(), _SEAT_INTERVAL_S)
            except TimeoutError:
                await self._show_up()

    async def _show_up(self) -> None:
        """Poll without taking what is there already; trouble is left to the next poll that somebody waits for."""
        owned = self._consumer.position().keys()
        self._held |= owned
        self._consumer.pause(owned)
        with suppress(ServiceError):
            self._ahead.extend(await self._consumer.poll(max_records=self._max_batch, timeout_s=_SEAT_POLL_S))
            await self._measure_lag()

    async def _put_aside(self, failures: Sequence[RecordFailure], stop: asyncio.Event) -> None:
        if not failures:
            return
        for failure in failures:
            _log.error(
                "record put aside",
                consumer=self._name,
                topic=failure.record.topic,
                partition=failure.record.partition,
                offset=failure.record.offset,
                error=repr(failure.error),
                exc_info=None if isinstance(failure.error, ServiceError) else failure.error,
            )
            metrics.DEAD_LETTERS.labels(failure.record.topic).inc()
        letters = [dead_letter(failure.record, failure.error, self._name) for failure in failures]
        try:
            await self._persist(lambda: self._producer.append(letters), stop)
        except InvalidArgumentError:
            for letter in letters:
                await self._put_one_aside(letter, stop)

    async def _put_one_aside(self, letter: NewRecord, stop: asyncio.Event) -> None:
        """Append a letter, without its record when the log does not take it: a record must never stop its consumer."""
        try:
            await self._persist(lambda: self._producer.append([letter]), stop)
        except InvalidArgumentError as error:
            _log.warning(
                "dead letter refused, keeping only where it came from", consumer=self._name, error=error.message
            )
            await self._persist(lambda: self._producer.append([bare(letter)]), stop)

    async def _commit(self, records: Sequence[Record], stop: asyncio.Event) -> None:
        reached = {(record.topic, record.partition): record.offset + 1 for record in records}
        offsets = {TopicPartition(*where): offset for where, offset in reached.items()}
        try:
            await self._persist(lambda: self._consumer.commit(offsets), stop)
        except StaleOwnerError as error:
            _log.warning("partitions moved away, their new owner handles these records again", error=error.message)

    async def _measure_lag(self) -> None:
        if time.monotonic() < self._lag_due:
            return
        self._lag_due = time.monotonic() + _LAG_INTERVAL_S
        with suppress(*TRANSIENT):  # the next poll meets the same trouble and reports it
            self._tell_lag(await self._consumer.lag())

    def _tell_lag(self, lags: Mapping[TopicPartition, int]) -> None:
        by_topic: Counter[str] = Counter({where.topic: 0 for where in self._measured})
        for where in self._measured - lags.keys():  # another member tells it from now on
            metrics.CONSUMER_PARTITION_LAG.remove(where.topic, str(where.partition))
        for where, lag in lags.items():
            by_topic[where.topic] += lag
            metrics.CONSUMER_PARTITION_LAG.labels(where.topic, str(where.partition)).set(lag)
        for topic, lag in by_topic.items():
            metrics.CONSUMER_LAG.labels(topic).set(lag)
        self._measured = frozenset(lags)

    async def _persist(self, work: Callable[[], Awaitable[T]], stop: asyncio.Event) -> T:
        """Try again and again while the trouble is transient."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await work()
            except TRANSIENT as error:
                _log.warning("trying again", consumer=self._name, in_s=pause_s, error=repr(error))
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause_s)
                raise _StoppedError
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


async def _unless(stop: asyncio.Event, work: Coroutine[None, None, T]) -> T:
    """Do the work, and give it up when `stop` is set first."""
    task = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _StoppedError
        return task.result()
    finally:
        for each in (task, stopped):
            each.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)


def _place(record: Record) -> tuple[str, int, int]:
    return record.topic, record.partition, record.offset
