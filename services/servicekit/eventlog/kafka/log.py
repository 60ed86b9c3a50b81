"""The event log on a Kafka cluster."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from servicekit.clock import Clock, SystemClock
from servicekit.errors import StartupError, UnavailableError
from servicekit.eventlog.kafka.consumer import KafkaEventConsumer
from servicekit.eventlog.kafka.errors import KafkaSettingsError
from servicekit.eventlog.kafka.options import KafkaOptions
from servicekit.eventlog.kafka.producer import KafkaAppender, KafkaEventProducer
from servicekit.eventlog.kafka.reader import KafkaReader, Membership
from servicekit.eventlog.kafka.thread import CALL_S, DriverThread
from servicekit.eventlog.kafka.topics import KafkaTopics
from servicekit.eventlog.port import Offsets, Start, TopicSpec

_PAUSE_S = 0.5

T = TypeVar("T")


class KafkaEventLog:
    """See EventLog; used from one event loop.

    A thread asks about topics and offsets, one appends, and each consumer has one; the driver's own threads beside
    them do the talking.

    Args:
        servers: The `host:port` of some of the brokers.
        options: How to connect, and how topics are kept.
        clock: Stamps records.
    """

    def __init__(
        self, servers: Sequence[str], options: KafkaOptions | None = None, *, clock: Clock | None = None
    ) -> None:
        self._servers = tuple(servers)
        self._options = options or KafkaOptions()
        self._topics = KafkaTopics(self._servers, self._options)
        self._asking = DriverThread("kafka-topics")
        self._appender = KafkaAppender(self._servers, self._options, self._topics, self._asking, clock or SystemClock())
        self._consumers: set[KafkaEventConsumer] = set()

    async def ensure_topics(self, specs: Sequence[TopicSpec]) -> None:
        """See EventLog. A service's first call; it waits for the cluster as long as the options say.

        Raises:
            StartupError: The cluster refuses us, or does not answer; a topic has another number of partitions.
        """
        give_up = asyncio.get_running_loop().time() + self._options.wait_s
        servers = ",".join(self._servers)
        while True:
            try:
                return await self._ask(lambda: self._topics.ensure(specs))
            except KafkaSettingsError as error:
                raise StartupError(
                    f"the event log at {servers} does not let us in, or not do what is needed: {error.message};"
                    " check KAFKA_USERNAME, KAFKA_PASSWORD and the other KAFKA_ settings"
                ) from error
            except UnavailableError as error:
                if asyncio.get_running_loop().time() > give_up:
                    raise StartupError(
                        f"the event log at {servers} did not answer within {self._options.wait_s:g} s"
                        f" ({error.message}); start Kafka, or check EVENT_LOG_URL and KAFKA_SECURITY_PROTOCOL"
                    ) from error
            await asyncio.sleep(_PAUSE_S)

    def producer(self) -> KafkaEventProducer:
        """See EventLog."""
        return KafkaEventProducer(self._appender)

    def consumer(
        self, topics: Sequence[str], *, group: str | None, start: Start | Offsets = Start.COMMITTED, member: str = ""
    ) -> KafkaEventConsumer:
        """See EventLog."""
        membership = None if group is None else Membership(group, member)
        reader = KafkaReader(self._servers, self._options, topics, membership, start)
        consumer = KafkaEventConsumer(reader, topics, group, self._topics, self._asking, self._consumers.discard)
        self._consumers.add(consumer)
        return consumer

    async def end_offsets(self, topics: Sequence[str]) -> Offsets:
        """See EventLog."""
        return await self._ask(lambda: self._topics.end_offsets(topics))

    async def begin_offsets(self, topics: Sequence[str]) -> Offsets:
        """See EventLog."""
        return await self._ask(lambda: self._topics.begin_offsets(topics))

    async def committed_offsets(self, group: str, topics: Sequence[str]) -> Offsets:
        """See EventLog."""
        return await self._ask(lambda: self._topics.committed_offsets(group, topics))

    async def offsets_for_time(self, topics: Sequence[str], timestamp_ms: int) -> Offsets:
        """See EventLog."""
        return await self._ask(lambda: self._topics.offsets_for_time(topics, timestamp_ms))

    async def close(self) -> None:
        """See EventLog."""
        await self._appender.close()
        for consumer in tuple(self._consumers):
            await consumer.close()
        await self._asking.close(self._topics.close)

    async def _ask(self, question: Callable[[], T]) -> T:
        return await self._asking.run(question, within_s=2 * CALL_S)
