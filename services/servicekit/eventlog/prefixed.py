"""An event log whose topics and groups have a prefix in the log beneath it: several deployments can share a cluster."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from servicekit.eventlog.port import (
    EventConsumer,
    EventLog,
    EventProducer,
    NewRecord,
    Offsets,
    Record,
    StaleOwnerError,
    Start,
    TopicPartition,
    TopicSpec,
)


class _Names:
    """Puts the prefix before names and takes it away again."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def outer(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def inner(self, name: str) -> str:
        return name.removeprefix(self._prefix)

    def outer_offsets(self, offsets: Offsets) -> Offsets:
        return {self.outer_place(where): offset for where, offset in offsets.items()}

    def inner_offsets(self, offsets: Offsets) -> Mapping[TopicPartition, int]:
        return {self.inner_place(where): offset for where, offset in offsets.items()}

    def outer_place(self, where: TopicPartition) -> TopicPartition:
        return TopicPartition(self.outer(where.topic), where.partition)

    def inner_place(self, where: TopicPartition) -> TopicPartition:
        return TopicPartition(self.inner(where.topic), where.partition)


class PrefixedEventLog:
    """See EventLog; `prefix` is of characters that a topic's name may have."""

    def __init__(self, log: EventLog, prefix: str) -> None:
        self._log = log
        self._names = _Names(prefix)

    async def ensure_topics(self, specs: Sequence[TopicSpec]) -> None:
        """See EventLog."""
        await self._log.ensure_topics([replace(spec, name=self._names.outer(spec.name)) for spec in specs])

    def producer(self) -> EventProducer:
        """See EventLog."""
        return _PrefixedProducer(self._log.producer(), self._names)

    def consumer(
        self, topics: Sequence[str], *, group: str | None, start: Start | Offsets = Start.COMMITTED, member: str = ""
    ) -> EventConsumer:
        """See EventLog."""
        consumer = self._log.consumer(
            [self._names.outer(topic) for topic in topics],
            group=None if group is None else self._names.outer(group),
            start=start if isinstance(start, Start) else self._names.outer_offsets(start),
            member=member,
        )
        return _PrefixedConsumer(consumer, self._names)

    async def end_offsets(self, topics: Sequence[str]) -> Offsets:
        """See EventLog."""
        return self._names.inner_offsets(await self._log.end_offsets(self._outer(topics)))

    async def begin_offsets(self, topics: Sequence[str]) -> Offsets:
        """See EventLog."""
        return self._names.inner_offsets(await self._log.begin_offsets(self._outer(topics)))

    async def committed_offsets(self, group: str, topics: Sequence[str]) -> Offsets:
        """See EventLog."""
        committed = await self._log.committed_offsets(self._names.outer(group), self._outer(topics))
        return self._names.inner_offsets(committed)

    async def offsets_for_time(self, topics: Sequence[str], timestamp_ms: int) -> Offsets:
        """See EventLog."""
        return self._names.inner_offsets(await self._log.offsets_for_time(self._outer(topics), timestamp_ms))

    async def close(self) -> None:
        """See EventLog."""
        await self._log.close()

    def _outer(self, topics: Sequence[str]) -> list[str]:
        return [self._names.outer(topic) for topic in topics]


class _PrefixedProducer:
    """See EventProducer."""

    def __init__(self, producer: EventProducer, names: _Names) -> None:
        self._producer = producer
        self._names = names

    async def append(self, records: Sequence[NewRecord]) -> Sequence[tuple[TopicPartition, int]]:
        """See EventProducer."""
        outer = [replace(record, topic=self._names.outer(record.topic)) for record in records]
        return [(self._names.inner_place(where), offset) for where, offset in await self._producer.append(outer)]

    async def close(self) -> None:
        """See EventProducer."""
        await self._producer.close()


class _PrefixedConsumer:
    """See EventConsumer."""

    def __init__(self, consumer: EventConsumer, names: _Names) -> None:
        self._consumer = consumer
        self._names = names

    async def poll(self, *, max_records: int, timeout_s: float) -> Sequence[Record]:
        """See EventConsumer."""
        records = await self._consumer.poll(max_records=max_records, timeout_s=timeout_s)
        return [replace(record, topic=self._names.inner(record.topic)) for record in records]

    async def commit(self, offsets: Offsets) -> None:
        """See EventConsumer."""
        try:
            await self._consumer.commit(self._names.outer_offsets(offsets))
        except StaleOwnerError as error:
            raise StaleOwnerError([self._names.inner_place(where) for where in error.partitions]) from error

    async def seek(self, offsets: Offsets) -> None:
        """See EventConsumer."""
        await self._consumer.seek(self._names.outer_offsets(offsets))

    def position(self) -> Offsets:
        """See EventConsumer."""
        return self._names.inner_offsets(self._consumer.position())

    async def lag(self) -> Mapping[TopicPartition, int]:
        """See EventConsumer."""
        return self._names.inner_offsets(await self._consumer.lag())

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """See EventConsumer."""
        self._consumer.pause([self._names.outer_place(where) for where in partitions])

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        """See EventConsumer."""
        self._consumer.resume([self._names.outer_place(where) for where in partitions])

    async def close(self) -> None:
        """See EventConsumer."""
        await self._consumer.close()
