"""An event log in memory: the port's reference, for tests and for a process that needs no other."""

import asyncio
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
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
    wrong_partitions,
)


@dataclass(slots=True)
class _Partition:
    records: list[Record] = field(default_factory=list)
    end: int = 0

    @property
    def begin(self) -> int:
        return self.records[0].offset if self.records else self.end

    def read(self, offset: int, limit: int) -> list[Record]:
        first = bisect_left(self.records, offset, key=lambda record: record.offset)
        return self.records[first : first + limit]


@dataclass(slots=True)
class _Topic:
    spec: TopicSpec
    partitions: list[_Partition]


@dataclass(slots=True, eq=False)
class _Reader:
    """A consumer as the store knows it."""

    topics: tuple[str, ...]
    news: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class _Group:
    offsets: dict[TopicPartition, int] = field(default_factory=dict)
    owners: dict[TopicPartition, _Reader] = field(default_factory=dict)
    members: dict[str, _Reader] = field(default_factory=dict)

    def join(self, name: str, reader: _Reader) -> None:
        """Take a seat, also that of an earlier member of the same name with all it owns."""
        before = self.members.get(name)
        self.members[name] = reader
        self.owners = {where: reader if owner is before else owner for where, owner in self.owners.items()}
        self.wake()

    def leave(self, name: str, reader: _Reader) -> None:
        if self.members.get(name) is reader:
            del self.members[name]
        self.owners = {where: owner for where, owner in self.owners.items() if owner is not reader}
        self.wake()

    def wake(self) -> None:
        for reader in self.members.values():
            reader.news.set()


class _Store:
    """What the log and everything made from it share."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.topics: dict[str, _Topic] = {}
        self.groups: dict[str, _Group] = {}
        self.readers: set[_Reader] = set()

    def topic(self, name: str) -> _Topic:
        try:
            return self.topics[name]
        except KeyError:
            raise NotFoundError(f"there is no topic {name}; make it by ensure_topics") from None

    def partition(self, where: TopicPartition) -> _Partition:
        return self.topic(where.topic).partitions[where.partition]

    def partitions(self, topics: Sequence[str]) -> dict[TopicPartition, _Partition]:
        return {
            TopicPartition(name, number): partition
            for name in topics
            for number, partition in enumerate(self.topic(name).partitions)
        }

    def append(self, new: NewRecord) -> tuple[TopicPartition, int]:
        topic = self.topics[new.topic]
        number = partition_of(new.key, len(topic.partitions))
        partition = topic.partitions[number]
        timestamp_ms = self.clock.now_ms() if new.timestamp_ms is None else new.timestamp_ms
        partition.records.append(
            Record(new.topic, number, partition.end, new.key, new.value, dict(new.headers), timestamp_ms)
        )
        partition.end += 1
        return TopicPartition(new.topic, number), partition.end - 1


class MemoryEventLog:
    """See EventLog. Members of a group share partitions as elsewhere, but they cannot die."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._store = _Store(clock or SystemClock())
        self._consumers: list[MemoryConsumer] = []

    async def ensure_topics(self, specs: Sequence[TopicSpec]) -> None:
        """See EventLog."""
        for spec in specs:
            known = self._store.topics.get(spec.name)
            if known is None:
                self._store.topics[spec.name] = _Topic(spec, [_Partition() for _ in range(spec.partitions)])
            elif known.spec.partitions != spec.partitions:
                raise wrong_partitions(spec, known.spec.partitions)
            else:
                known.spec = spec

    def producer(self) -> "MemoryProducer":
        """See EventLog."""
        return MemoryProducer(self._store)

    def consumer(
        self, topics: Sequence[str], *, group: str | None, start: Start | Offsets = Start.COMMITTED, member: str = ""
    ) -> "MemoryConsumer":
        """See EventLog."""
        consumer = MemoryConsumer(self._store, topics, group=group, start=start, member=member or token_hex(8))
        self._consumers.append(consumer)
        return consumer

    async def end_offsets(self, topics: Sequence[str]) -> Offsets:
        """See EventLog."""
        return {where: partition.end for where, partition in self._store.partitions(topics).items()}

    async def begin_offsets(self, topics: Sequence[str]) -> Offsets:
        """See EventLog."""
        return {where: partition.begin for where, partition in self._store.partitions(topics).items()}

    async def committed_offsets(self, group: str, topics: Sequence[str]) -> Offsets:
        """See EventLog."""
        committed = self._store.groups[group].offsets if group in self._store.groups else {}
        return {where: committed.get(where, part.begin) for where, part in self._store.partitions(topics).items()}

    async def offsets_for_time(self, topics: Sequence[str], timestamp_ms: int) -> Offsets:
        """See EventLog."""
        return {
            where: next((r.offset for r in partition.records if r.timestamp_ms >= timestamp_ms), partition.end)
            for where, partition in self._store.partitions(topics).items()
        }

    async def close(self) -> None:
        """See EventLog."""
        for consumer in self._consumers:
            await consumer.close()

    def maintain(self) -> None:
        """Drop what retention and compaction let go."""
        for topic in self._store.topics.values():
            for partition in topic.partitions:
                if topic.spec.compacted:
                    last = {record.key: record.offset for record in partition.records}
                    partition.records = [r for r in partition.records if last[r.key] == r.offset]
                if topic.spec.retention_ms is not None:
                    oldest = self._store.clock.now_ms() - topic.spec.retention_ms
                    fresh = (i for i, record in enumerate(partition.records) if record.timestamp_ms >= oldest)
                    del partition.records[: next(fresh, len(partition.records))]


class MemoryProducer:
    """See EventProducer."""

    def __init__(self, store: _Store) -> None:
        self._store = store

    async def append(self, records: Sequence[NewRecord]) -> Sequence[tuple[TopicPartition, int]]:
        """See EventProducer."""
        for new in records:
            self._store.topic(new.topic)
            if len(new.value) > MAX_VALUE_BYTES:
                raise InvalidArgumentError(
                    f"a record's value has {len(new.value)} bytes, more than {MAX_VALUE_BYTES}", field="value"
                )
        places = [self._store.append(new) for new in records]
        for reader in self._store.readers:
            reader.news.set()
        return places

    async def close(self) -> None:
        """See EventProducer."""


class MemoryConsumer:
    """See EventConsumer."""

    def __init__(
        self, store: _Store, topics: Sequence[str], *, group: str | None, start: Start | Offsets, member: str
    ) -> None:
        self._store = store
        self._reader = _Reader(tuple(dict.fromkeys(topics)))
        self._group = None if group is None else store.groups.setdefault(group, _Group())
        self._start = start
        self._member = member
        self._started = False
        self._positions: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._turn = 0

    async def poll(self, *, max_records: int, timeout_s: float) -> Sequence[Record]:
        """See EventConsumer."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        self._ensure_started()
        while True:
            self._follow_group()
            self._reader.news.clear()
            if records := self._read(max_records):
                return records
            try:
                async with asyncio.timeout_at(deadline):
                    await self._reader.news.wait()
            except TimeoutError:
                return ()

    async def commit(self, offsets: Offsets) -> None:
        """See EventConsumer."""
        if self._group is None:
            return
        owned = {where: offset for where, offset in offsets.items() if self._group.owners.get(where) is self._reader}
        self._group.offsets.update(owned)
        if stale := offsets.keys() - owned.keys():
            raise StaleOwnerError(stale)

    async def seek(self, offsets: Offsets) -> None:
        """See EventConsumer."""
        self._ensure_started()
        self._positions.update({where: offset for where, offset in offsets.items() if where in self._positions})
        self._reader.news.set()

    def position(self) -> Offsets:
        """See EventConsumer."""
        return dict(self._positions)

    async def lag(self) -> Mapping[TopicPartition, int]:
        """See EventConsumer."""
        self._ensure_started()
        return {w: max(0, self._store.partition(w).end - position) for w, position in self._positions.items()}

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """See EventConsumer."""
        self._paused.update(partitions)

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        """See EventConsumer."""
        self._paused.difference_update(partitions)
        self._reader.news.set()

    async def close(self) -> None:
        """See EventConsumer."""
        self._store.readers.discard(self._reader)
        self._positions.clear()
        if self._group is not None:
            self._group.leave(self._member, self._reader)

    def _ensure_started(self) -> None:
        if self._started:
            return
        for where, partition in self._store.partitions(self._reader.topics).items():
            if self._group is None:
                self._positions[where] = self._first_offset(where, partition)
        if self._group is not None:
            self._group.join(self._member, self._reader)
            self._follow_group()
        self._store.readers.add(self._reader)
        self._started = True

    def _follow_group(self) -> None:
        """Give up what others shall have, and take what is free of this member's share."""
        group = self._group
        if group is None:
            return
        if group.members.get(self._member) is not self._reader:
            raise FailedPreconditionError(
                f"another consumer has joined as {self._member}; give each process a member name of its own"
            )
        topics = {name: set(reader.topics) for name, reader in group.members.items()}
        counts = {topic: len(self._store.topic(topic).partitions) for topic in set[str]().union(*topics.values())}
        share = share_partitions(topics, counts)[self._member]
        held = {where for where, owner in group.owners.items() if owner is self._reader}
        for where in held - share:
            del group.owners[where]
            group.wake()
        held = (held & share) | (share - group.owners.keys())
        self._positions = {where: self._positions[where] for where in held & self._positions.keys()}
        for where in held - self._positions.keys():
            group.owners[where] = self._reader
            first = self._first_offset(where, self._store.partition(where))
            self._positions[where] = group.offsets.setdefault(where, first)

    def _first_offset(self, where: TopicPartition, partition: _Partition) -> int:
        if isinstance(self._start, Start):
            return partition.end if self._start is Start.LATEST else partition.begin
        offset = self._start.get(where, partition.begin)
        return offset if offset <= partition.end else partition.begin

    def _read(self, max_records: int) -> list[Record]:
        records: list[Record] = []
        order = sorted(self._positions.keys() - self._paused)
        self._turn += 1
        for step in range(len(order)):
            where = order[(self._turn + step) % len(order)]
            found = self._store.partition(where).read(self._positions[where], max_records - len(records))
            if found:
                records.extend(found)
                self._positions[where] = found[-1].offset + 1
        return records
