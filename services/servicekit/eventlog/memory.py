"""An event log in memory: the port's reference, for tests and for a process that needs no other."""

import asyncio
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from secrets import token_hex

from servicekit.clock import Clock, SystemClock
from servicekit.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from servicekit.eventlog.partitions import partition_of, share_partitions
from servicekit.eventlog.port import (
    MAX_VALUE_BYTES,
    NewRecord,
    Offsets,
    Record,
    StaleOwnerError,
    Start,
    TopicPartition,
    TopicSpec,
)


@dataclass(slots=True)
class _Partition:
    records: list[Record] = field(default_factory=list)
    end: int = 0

    def index_of(self, offset: int) -> int:
        return bisect_left(self.records, offset, key=lambda record: record.offset)

    @property
    def begin(self) -> int:
        return self.records[0].offset if self.records else self.end


@dataclass(slots=True)
class _Topic:
    spec: TopicSpec
    partitions: list[_Partition]


@dataclass(slots=True)
class _Group:
    offsets: dict[TopicPartition, int] = field(default_factory=dict)
    owners: dict[TopicPartition, "MemoryConsumer"] = field(default_factory=dict)
    members: dict[str, "MemoryConsumer"] = field(default_factory=dict)


class MemoryEventLog:
    """Keeps everything in lists; members of a group share partitions as elsewhere but cannot die."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._topics: dict[str, _Topic] = {}
        self._groups: dict[str, _Group] = {}
        self._consumers: set[MemoryConsumer] = set()

    async def ensure_topics(self, specs: Sequence[TopicSpec]) -> None:
        """See EventLog."""
        for spec in specs:
            known = self._topics.get(spec.name)
            if known is None:
                self._topics[spec.name] = _Topic(spec, [_Partition() for _ in range(spec.partitions)])
            elif known.spec.partitions != spec.partitions:
                raise FailedPreconditionError(
                    f"topic {spec.name} has {known.spec.partitions} partitions, not {spec.partitions}"
                )
            else:
                known.spec = spec

    def producer(self) -> "MemoryProducer":
        """See EventLog."""
        return MemoryProducer(self)

    def consumer(
        self, topics: Sequence[str], *, group: str | None, start: Start | Offsets = Start.COMMITTED, member: str = ""
    ) -> "MemoryConsumer":
        """See EventLog."""
        shared = None if group is None else self._groups.setdefault(group, _Group())
        return MemoryConsumer(self, topics, group=shared, start=start, member=member or token_hex(8))

    async def end_offsets(self, topics: Sequence[str]) -> Offsets:
        """See EventLog."""
        return {where: partition.end for where, partition in self._partitions(topics)}

    async def begin_offsets(self, topics: Sequence[str]) -> Offsets:
        """See EventLog."""
        return {where: partition.begin for where, partition in self._partitions(topics)}

    async def offsets_for_time(self, topics: Sequence[str], timestamp_ms: int) -> Offsets:
        """See EventLog."""
        return {
            where: next((r.offset for r in partition.records if r.timestamp_ms >= timestamp_ms), partition.end)
            for where, partition in self._partitions(topics)
        }

    async def close(self) -> None:
        """See EventLog."""
        for consumer in tuple(self._consumers):
            await consumer.close()

    def maintain(self) -> None:
        """Drop what retention and compaction let go."""
        for topic in self._topics.values():
            for partition in topic.partitions:
                if topic.spec.compacted:
                    last = {record.key: record.offset for record in partition.records}
                    partition.records = [r for r in partition.records if last[r.key] == r.offset]
                if topic.spec.retention_ms is not None:
                    oldest = self._clock.now_ms() - topic.spec.retention_ms
                    fresh = (i for i, record in enumerate(partition.records) if record.timestamp_ms >= oldest)
                    del partition.records[: next(fresh, len(partition.records))]

    def _partitions(self, topics: Iterable[str]) -> list[tuple[TopicPartition, _Partition]]:
        return [
            (TopicPartition(name, number), partition)
            for name in topics
            for number, partition in enumerate(self._topic(name).partitions)
        ]

    def _topic(self, name: str) -> _Topic:
        try:
            return self._topics[name]
        except KeyError:
            raise NotFoundError(f"there is no topic {name}; make it by ensure_topics") from None

    def _append(self, records: Sequence[NewRecord]) -> list[tuple[TopicPartition, int]]:
        for new in records:
            self._topic(new.topic)
            if len(new.value) > MAX_VALUE_BYTES:
                raise InvalidArgumentError(f"a record's value has {len(new.value)} bytes, more than {MAX_VALUE_BYTES}")
        places = []
        for new in records:
            topic = self._topic(new.topic)
            number = partition_of(new.key, len(topic.partitions))
            partition = topic.partitions[number]
            timestamp_ms = self._clock.now_ms() if new.timestamp_ms is None else new.timestamp_ms
            partition.records.append(
                Record(new.topic, number, partition.end, new.key, new.value, dict(new.headers), timestamp_ms)
            )
            places.append((TopicPartition(new.topic, number), partition.end))
            partition.end += 1
        for consumer in self._consumers:
            consumer._appended.set()  # noqa: SLF001 - the log and its consumers are one thing
        return places


class MemoryProducer:
    """See EventProducer."""

    def __init__(self, log: MemoryEventLog) -> None:
        self._log = log

    async def append(self, records: Sequence[NewRecord]) -> Sequence[tuple[TopicPartition, int]]:
        """See EventProducer."""
        return self._log._append(records)  # noqa: SLF001 - the log and its producers are one thing

    async def close(self) -> None:
        """See EventProducer."""


class MemoryConsumer:
    """See EventConsumer."""

    def __init__(
        self,
        log: MemoryEventLog,
        topics: Sequence[str],
        *,
        group: _Group | None,
        start: Start | Offsets,
        member: str,
    ) -> None:
        self._log = log
        self._topics = tuple(topics)
        self._group = group
        self._start = start
        self._member = member
        self._positions: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._turn = 0
        self._appended = asyncio.Event()

    async def poll(self, *, max_records: int, timeout_s: float) -> Sequence[Record]:
        """See EventConsumer."""
        self._rebalance()
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    self._appended.clear()
                    if records := self._read(max_records):
                        return records
                    await self._appended.wait()
                    self._rebalance()
        except TimeoutError:
            return []

    async def commit(self, offsets: Offsets) -> None:
        """See EventConsumer."""
        if self._group is None:
            return
        owned = {where: offset for where, offset in offsets.items() if self._group.owners.get(where) is self}
        self._group.offsets.update(owned)
        if stale := offsets.keys() - owned.keys():
            raise StaleOwnerError(stale)

    async def seek(self, offsets: Offsets) -> None:
        """See EventConsumer."""
        self._rebalance()
        self._positions.update({where: offset for where, offset in offsets.items() if where in self._positions})
        self._appended.set()

    def position(self) -> Offsets:
        """See EventConsumer."""
        return dict(self._positions)

    async def lag(self) -> Mapping[TopicPartition, int]:
        """See EventConsumer."""
        ends = await self._log.end_offsets(self._topics)
        return {where: ends[where] - position for where, position in self._positions.items()}

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """See EventConsumer."""
        self._paused.update(partitions)

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        """See EventConsumer."""
        self._paused.difference_update(partitions)
        self._appended.set()

    async def close(self) -> None:
        """See EventConsumer."""
        self._log._consumers.discard(self)  # noqa: SLF001 - the log and its consumers are one thing
        self._positions.clear()
        if self._group is not None and self._group.members.get(self._member) is self:
            del self._group.members[self._member]
            self._group.owners = {w: owner for w, owner in self._group.owners.items() if owner is not self}
            self._wake_group()

    def _rebalance(self) -> None:
        ends = dict(self._log._partitions(self._topics))  # noqa: SLF001 - as above
        self._log._consumers.add(self)  # noqa: SLF001 - as above
        if self._group is None:
            for where in ends.keys() - self._positions.keys():
                self._positions[where] = self._first_offset(where, ends[where])
            return
        self._join(self._group)
        counts = {name: len(self._log._topic(name).partitions) for name in self._topics}  # noqa: SLF001 - as above
        for member in self._group.members.values():
            counts |= {name: len(self._log._topic(name).partitions) for name in member._topics}  # noqa: SLF001 - as above
        topics = {name: set(member._topics) for name, member in self._group.members.items()}
        share = share_partitions(topics, counts)[self._member]
        for where in self._positions.keys() - share:
            del self._positions[where], self._group.owners[where]
            self._wake_group()
        for where in share - self._group.owners.keys():
            self._group.owners[where] = self
            self._group.offsets.setdefault(where, self._first_offset(where, ends[where]))
            self._positions[where] = self._group.offsets[where]

    def _join(self, group: _Group) -> None:
        holder = group.members.get(self._member)
        if holder is self:
            return
        if self._positions:
            raise FailedPreconditionError(f"another consumer has joined the group as member {self._member}")
        group.members[self._member] = self
        for where, owner in group.owners.items():
            if owner is holder:
                group.owners[where] = self
                self._positions[where] = group.offsets[where]
        self._wake_group()

    def _wake_group(self) -> None:
        for consumer in self._group.members.values() if self._group else ():
            consumer._appended.set()

    def _first_offset(self, where: TopicPartition, partition: _Partition) -> int:
        if isinstance(self._start, Start):
            return partition.end if self._start is Start.LATEST else partition.begin
        return self._start.get(where, partition.begin)

    def _read(self, max_records: int) -> list[Record]:
        records: list[Record] = []
        order = sorted(self._positions.keys() - self._paused)
        self._turn += 1
        for step in range(len(order)):
            where = order[(self._turn + step) % len(order)]
            partition = self._log._topic(where.topic).partitions[where.partition]  # noqa: SLF001 - as above
            first = partition.index_of(self._positions[where])
            found = partition.records[first : first + max_records - len(records)]
            if found:
                records.extend(found)
                self._positions[where] = found[-1].offset + 1
        return records
