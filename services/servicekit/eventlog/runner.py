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
    InternalError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
)
from servicekit.eventlog.ages import RecordAges
from servicekit.eventlog.dead_letters import (
    ATTEMPTS_HEADER,
    CONSUMER_HEADER,
    ERROR_CLASS_HEADER,
    ERROR_CODE_HEADER,
    ERROR_HEADER,
    ORIGIN_OFFSET_HEADER,
    ORIGIN_PARTITION_HEADER,
    ORIGIN_TIMESTAMP_HEADER,
    ORIGIN_TOPIC_HEADER,
)
from servicekit.eventlog.port import EventConsumer, EventProducer, NewRecord, Record, StaleOwnerError, TopicPartition
from servicekit.eventlog.topics import dlq
from servicekit.logs import get_logger

TRANSIENT = (UnavailableError, DeadlineExceededError, ResourceExhaustedError)
"""What says that the same call may succeed later."""

_POLL_S = 1.0
_LAG_INTERVAL_S = 1.0
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 5.0
_ERROR_TEXT_LENGTH = 2_000

T = TypeVar("T")

_log = get_logger(__name__)


class TooManyFailuresError(InternalError):
    """So many records failed one after the other that the handler or its data must be looked at."""


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
      for as long as it takes. Nothing else is read meanwhile.
    * Anything else: the records one by one; the one that raises again is put aside.

    What is put aside goes to the topic's dead letters, with the error and its origin in the headers. Offsets are
    committed after that.

    Args:
        consumer: Whom to poll; its life belongs to the caller.
        handle: Applies records.
        producer: Takes the dead letters; their topics must exist.
        name: Names the consumer in logs and dead letters.
        max_batch: The most records handled at once.
        max_failures_in_a_row: One more ends the run, before its batch is put aside or committed.
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

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set; a batch begun is finished, unless it waits for something to come back.

        Raises:
            TooManyFailuresError: Too many records failed in a row.
        """
        with suppress(_StoppedError):
            while not stop.is_set():
                records = await self._persist(lambda: _unless(stop, self._gather()), stop)
                if records:
                    await self._hold(stop)
                    failures = await self._handle_batch(records, stop)
                    self._judge(records, failures)
                    await self._put_aside(failures, stop)
                    await self._commit(records, stop)
                self._ages.tell(records)
                await self._measure_lag()

    async def _gather(self) -> Sequence[Record]:
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

    def _judge(self, records: Sequence[Record], failures: Sequence[RecordFailure]) -> None:
        failed = {_place(failure.record) for failure in failures}
        if not failed:
            self._failures_in_a_row = 0
        for record in records if failed else ():
            self._failures_in_a_row = self._failures_in_a_row + 1 if _place(record) in failed else 0
            if self._failures_in_a_row > self._max_failures:
                last = failures[-1].error
                raise TooManyFailuresError(
                    f"{self._name}: {self._failures_in_a_row} records failed in a row, the last with {last!r};"
                    " the consumer stops before it puts more aside"
                ) from last
        for topic, count in Counter(record.topic for record in records).items():
            metrics.CONSUMED.labels(topic).inc(count)

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
        letters = [_dead_letter(failure, self._name) for failure in failures]
        await self._persist(lambda: self._producer.append(letters), stop)

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


def _attempts(record: Record) -> int:
    """Tell how often the record was put aside before; a stranger's header counts for nothing."""
    said = record.headers.get(ATTEMPTS_HEADER, b"0")
    return int(said) if said.isdigit() else 0


def _dead_letter(failure: RecordFailure, consumer: str) -> NewRecord:
    record = failure.record
    code = failure.error.code if isinstance(failure.error, ServiceError) else InternalError.code
    headers = {
        **record.headers,
        ERROR_HEADER: (str(failure.error) or repr(failure.error))[:_ERROR_TEXT_LENGTH].encode(),
        ERROR_CODE_HEADER: code.encode(),
        ERROR_CLASS_HEADER: type(failure.error).__qualname__.encode(),
        ATTEMPTS_HEADER: str(_attempts(record) + 1).encode(),
        CONSUMER_HEADER: consumer.encode(),
        ORIGIN_TOPIC_HEADER: record.topic.encode(),
        ORIGIN_PARTITION_HEADER: str(record.partition).encode(),
        ORIGIN_OFFSET_HEADER: str(record.offset).encode(),
        ORIGIN_TIMESTAMP_HEADER: str(record.timestamp_ms).encode(),
    }
    return NewRecord(dlq(record.topic), record.key, record.value, headers)
