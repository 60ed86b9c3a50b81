"""Appends records to Kafka: idempotent, acknowledged by all copies, bounded in what is under way."""

import asyncio
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final

from kafka import KafkaProducer
from kafka import errors as driver
from kafka.partitioner.default import murmur2
from kafka.producer.future import RecordMetadata

from servicekit.clock import Clock
from servicekit.deadline import remaining_s
from servicekit.errors import FailedPreconditionError, InvalidArgumentError, ServiceError, UnavailableError
from servicekit.eventlog.kafka.client import connecting
from servicekit.eventlog.kafka.errors import error_from_kafka
from servicekit.eventlog.kafka.options import KafkaOptions
from servicekit.eventlog.kafka.thread import CALL_S, DriverThread
from servicekit.eventlog.kafka.topics import MAX_BATCH_BYTES, KafkaTopics
from servicekit.eventlog.port import MAX_VALUE_BYTES, NewRecord, TopicPartition
from servicekit.logs import get_logger

DELIVERY_S: Final = 20.0
"""How long the driver tries to deliver a record; a broker that crashed is back by then."""

_REQUEST_MS = 5_000
_BATCH_BYTES = 256 << 10
_UNDER_WAY_BYTES = 64 << 20
_RECORD_OVERHEAD = 100

_log = get_logger(__name__)

Places = list[tuple[TopicPartition, int]]


class Room:
    """Bounds the bytes under way; whoever finds no room waits in line."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, count: int) -> None:
        """Wait until there is room, and take it; what is larger than everything waits until nothing is taken."""
        if not self._line and self._fits(count):
            self._taken += count
            return
        turn = asyncio.get_running_loop().create_future()
        entry = (count, turn)
        self._line.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.give(count)  # it was our turn in the same moment
            elif entry in self._line:
                self._line.remove(entry)
                self._advance()  # those behind may fit
            raise

    def give(self, count: int) -> None:
        """Give room back."""
        self._taken -= count
        self._advance()

    def _advance(self) -> None:
        while self._line:
            count, turn = self._line[0]
            if turn.cancelled():
                self._line.popleft()
            elif self._fits(count):
                self._line.popleft()
                self._taken += count
                turn.set_result(None)
            else:
                return

    def _fits(self, count: int) -> bool:
        return not self._taken or self._taken + count <= self._size


class _Delivery:
    """Collects what becomes of the records of one call; told by the driver's threads, done when all are told."""

    def __init__(self, count: int, loop: asyncio.AbstractEventLoop) -> None:
        self.done: asyncio.Future[Places] = loop.create_future()
        self.producer: Any = None  # who delivers it
        self._loop = loop
        self._lock = threading.Lock()
        self._left = count
        self._places: list[tuple[TopicPartition, int] | None] = [None] * count
        self._error: Exception | None = None

    def delivered(self, number: int, where: TopicPartition, metadata: RecordMetadata) -> None:
        self._places[number] = (where, metadata.offset)
        self._count_down()

    def failed(self, error: Exception) -> None:
        self._error = error
        self._count_down()

    def _count_down(self) -> None:
        with self._lock:
            self._left -= 1
            all_told = not self._left
        if all_told:
            self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        if self.done.cancelled():
            return
        if isinstance(self._error, driver.IllegalStateError):  # all that it says of a producer that was replaced
            self.done.set_exception(UnavailableError("the connection to Kafka was given up; the records may be there"))
        elif isinstance(self._error, driver.KafkaError):
            error = error_from_kafka(self._error)
            error.__cause__ = self._error
            self.done.set_exception(error)
        elif self._error is not None:
            self.done.set_exception(self._error)
        else:
            self.done.set_result([place for place in self._places if place is not None])


class KafkaAppender:
    """The one producer of a log, on a thread of its own; connects at the first append.

    Args:
        servers: Where to ask for the brokers.
        options: How to connect.
        topics: Tells what topics there are; asked on the thread `asking`.
        asking: The thread that `topics` belongs to.
        clock: Stamps records.
    """

    def __init__(
        self, servers: Sequence[str], options: KafkaOptions, topics: KafkaTopics, asking: DriverThread, clock: Clock
    ) -> None:
        self._servers = list(servers)
        self._options = options
        self._topics = topics
        self._asking = asking
        self._clock = clock
        self._thread = DriverThread("kafka-producer")
        self._producer: KafkaProducer | None = None
        self._counts: dict[str, int] = {}
        self._room = Room(_UNDER_WAY_BYTES)

    async def append(self, records: Sequence[NewRecord]) -> Places:
        """See EventProducer."""
        size = _size(records)
        if not records:
            return []
        left = min(remaining_s(), CALL_S + DELIVERY_S)
        try:
            async with asyncio.timeout(left):
                counts = await self._partitions({record.topic for record in records})
                await self._room.take(size)
                try:
                    delivery = await self._send(records, counts)
                except BaseException:
                    self._room.give(size)
                    raise
                delivery.done.add_done_callback(lambda _: self._end(delivery, size))
                return await asyncio.shield(delivery.done)  # under way, whoever still waits
        except TimeoutError as error:
            raise UnavailableError(
                f"Kafka did not acknowledge within {left:.1f} s; the records may be in the log"
            ) from error
        except ServiceError:
            self._counts.clear()  # a topic may have gone
            raise

    async def close(self) -> None:
        """Wait for what was accepted, and close the connections."""
        await self._thread.close(self._close, within_s=DELIVERY_S)

    async def _partitions(self, topics: set[str]) -> Mapping[str, int]:
        if unknown := sorted(topics - self._counts.keys()):
            self._counts |= await self._asking.run(lambda: self._topics.partitions(unknown))
        return {topic: self._counts[topic] for topic in topics}

    async def _send(self, records: Sequence[NewRecord], counts: Mapping[str, int]) -> _Delivery:
        delivery = _Delivery(len(records), asyncio.get_running_loop())
        now_ms = self._clock.now_ms()
        await self._thread.submit(lambda: self._hand_over(records, counts, now_ms, delivery))
        return delivery

    def _end(self, delivery: _Delivery, size: int) -> None:
        self._room.give(size)
        if delivery.done.cancelled():
            return
        error = delivery.done.exception()  # seen, also when nobody waits for it any longer
        if error is not None and isinstance(error.__cause__, driver.KafkaTimeoutError):
            with suppress(ServiceError):  # closed meanwhile, or so busy that the next one will tell
                self._thread.submit(lambda: self._replace(delivery.producer))

    # --- in the thread ---

    def _hand_over(
        self, records: Sequence[NewRecord], counts: Mapping[str, int], now_ms: int, delivery: _Delivery
    ) -> None:
        """Give all records to the driver, in order and with no other call's between them."""
        delivery.producer = producer = self._connected()
        for topic in counts:
            producer.partitions_for(topic)
        for number, new in enumerate(records):
            key = new.key.encode()
            partition = partition_of(key, counts[new.topic])
            where = TopicPartition(new.topic, partition)
            try:
                sent = producer.send(
                    new.topic,
                    key=key,
                    value=new.value,
                    headers=list(new.headers.items()),
                    partition=partition,
                    timestamp_ms=now_ms if new.timestamp_ms is None else new.timestamp_ms,
                )
            except Exception as error:  # noqa: BLE001 - the others are on their way; all is told in the delivery
                delivery.failed(error)
            else:
                sent.add_callback(delivery.delivered, number, where)
                sent.add_errback(delivery.failed)

    def _connected(self) -> KafkaProducer:
        if self._producer is None:
            with connecting(self._options) as settings:
                self._producer = KafkaProducer(
                    bootstrap_servers=self._servers,
                    bootstrap_timeout_ms=int(CALL_S * 1_000),
                    acks="all",
                    enable_idempotence=True,
                    delivery_timeout_ms=int(DELIVERY_S * 1_000),
                    request_timeout_ms=_REQUEST_MS,
                    max_block_ms=_REQUEST_MS,
                    reconnect_backoff_max_ms=1_000,
                    batch_size=_BATCH_BYTES,
                    max_request_size=MAX_BATCH_BYTES,
                    allow_auto_create_topics=False,
                    metrics_enabled=False,
                    **settings,
                )
        return self._producer

    def _replace(self, expired: Any) -> None:
        """Let go of a producer that let records expire: it counts them, and may wait for the missing ones for ever."""
        producer = self._producer
        if producer is not None and producer is expired:
            _log.warning("Kafka was away for too long, connecting anew", servers=self._servers)
            self._producer = None
            with suppress(driver.KafkaError):  # it says so when records are left, and stops before it closes
                producer.close(timeout=0)
            producer._sender.force_close()  # noqa: SLF001 - nothing else ends its thread and fails what is left

    def _close(self) -> None:
        if self._producer is not None:
            self._producer.close(timeout=DELIVERY_S / 2)
            self._producer = None


class KafkaEventProducer:
    """See EventProducer."""

    def __init__(self, appender: KafkaAppender) -> None:
        self._appender = appender
        self._closed = False

    async def append(self, records: Sequence[NewRecord]) -> Places:
        """See EventProducer."""
        if self._closed:
            raise FailedPreconditionError("the producer is closed")
        return await self._appender.append(records)

    async def close(self) -> None:
        """See EventProducer; the log's close finishes what was accepted."""
        self._closed = True


def partition_of(key: bytes, partitions: int) -> int:
    """Give the partition that Kafka's own clients give a key, so that theirs and ours of one key stay in order."""
    return (_hash(key) & 0x7FFFFFFF) % partitions


@lru_cache(maxsize=1 << 16)
def _hash(key: bytes) -> int:
    return int(murmur2(key))


def _size(records: Sequence[NewRecord]) -> int:
    """Give how many bytes the records take, about.

    Raises:
        InvalidArgumentError: One is too long.
    """
    total = 0
    for new in records:
        headers = sum(len(name) + len(value) for name, value in new.headers.items())
        size = len(new.value) + 4 * len(new.key) + headers + _RECORD_OVERHEAD
        if len(new.value) > MAX_VALUE_BYTES or size > MAX_BATCH_BYTES:
            raise InvalidArgumentError(
                f"a record's value has {len(new.value)} bytes, more than {MAX_VALUE_BYTES}, or its key and headers have"
                f" more than {MAX_BATCH_BYTES - MAX_VALUE_BYTES}",
                field="value",
            )
        total += size
    return total
