"""What every event log keeps its word on, written once; an adapter joins with a subclass of four lines."""

import asyncio
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from random import Random
from typing import ClassVar

import pytest

from servicekit.clock import ManualClock
from servicekit.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, StartupError
from servicekit.eventlog.memory import MemoryEventLog
from servicekit.eventlog.port import (
    MAX_VALUE_BYTES,
    EventConsumer,
    EventLog,
    NewRecord,
    Offsets,
    Record,
    StaleOwnerError,
    Start,
    TopicPartition,
    TopicSpec,
)
from servicekit.eventlog.sqlite import SqliteEventLog
from servicekit.eventlog.sqlite.topic_file import TopicFile

PLAIN = TopicSpec("things.done", partitions=4)
SINGLE = TopicSpec("single", partitions=1)
COMPACTED = TopicSpec("states", partitions=2, compacted=True)
DAY_MS = 24 * 3600 * 1000
EXPIRING = TopicSpec("expiring", partitions=1, retention_ms=100 * DAY_MS)  # so long that a real clock does not matter


def records_of(topic: TopicSpec, *values: str) -> list[NewRecord]:
    """Make records whose key is what stands before the colon."""
    return [NewRecord(topic.name, value.partition(":")[0], value.encode()) for value in values]


def after(records: Sequence[Record]) -> Offsets:
    """Give the offsets to commit once these are handled."""
    return {TopicPartition(record.topic, record.partition): record.offset + 1 for record in records}


async def read(consumer: EventConsumer, count: int, *, max_records: int = 100) -> list[Record]:
    """Poll until there are `count` records, and make sure that no more follow."""
    found: list[Record] = []
    async with asyncio.timeout(10):
        while len(found) < count:
            found += await consumer.poll(max_records=max_records, timeout_s=1)
    assert len(found) == count
    return found


async def read_all(consumer: EventConsumer) -> list[Record]:
    """Poll until nothing comes at once."""
    found: list[Record] = []
    while records := await consumer.poll(max_records=100, timeout_s=0):
        found += records
    return found


async def poll_on(consumer: EventConsumer) -> None:
    """Poll until an error comes."""
    async with asyncio.timeout(10):
        while True:
            await consumer.poll(max_records=1, timeout_s=0.05)


async def settle(consumers: Sequence[EventConsumer], partitions: int) -> None:
    """Poll in turns until the consumers own all the partitions in equal parts."""
    async with asyncio.timeout(10):
        while any(len(consumer.position()) != partitions // len(consumers) for consumer in consumers):
            for consumer in consumers:
                assert not await consumer.poll(max_records=1, timeout_s=0.02)


def values(records: Sequence[Record]) -> list[str]:
    return [record.value.decode() for record in records]


class EventLogContract(ABC):
    """Every promise of servicekit.eventlog.port that one process can check."""

    port = "EventLog"

    TOPICS: ClassVar = (PLAIN, SINGLE, COMPACTED, EXPIRING)
    COMPACTS_ALL: ClassVar = True  # or leaves what was written last as it is

    @abstractmethod
    def open_log(self, folder: Path, clock: ManualClock) -> EventLog: ...

    @abstractmethod
    async def maintain(self, log: EventLog, folder: Path, clock: ManualClock) -> None: ...

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    async def log(self, tmp_path: Path, clock: ManualClock) -> AsyncIterator[EventLog]:
        log = self.open_log(tmp_path, clock)
        await log.ensure_topics(self.TOPICS)
        yield log
        await log.close()

    async def test_what_is_appended_is_read_as_it_was(self, log: EventLog, clock: ManualClock) -> None:
        stamped = NewRecord(PLAIN.name, "ключ", b"\x00\xff", {"h": b"\xfe\x00", "content-type": b"x"}, timestamp_ms=7)
        bare = NewRecord(SINGLE.name, "", b"")
        places = await log.producer().append([stamped, bare])
        consumer = log.consumer([PLAIN.name, SINGLE.name], group=None)
        by_topic = {record.topic: record for record in await read(consumer, 2)}
        first, second = by_topic[PLAIN.name], by_topic[SINGLE.name]
        assert (first.key, first.value, dict(first.headers), first.timestamp_ms) == (
            stamped.key,
            stamped.value,
            stamped.headers,
            7,
        )
        assert (second.key, second.value, dict(second.headers), second.timestamp_ms) == ("", b"", {}, clock.now_ms())
        assert places == [(TopicPartition(r.topic, r.partition), r.offset) for r in (first, second)]

    async def test_records_of_a_key_share_a_partition_and_keep_their_order(self, log: EventLog) -> None:
        producer = log.producer()
        for round_ in range(20):
            await producer.append(records_of(PLAIN, *(f"key{key}:{round_}" for key in range(10))))
        by_key = defaultdict(list)
        for record in await read(log.consumer([PLAIN.name], group=None), 200, max_records=7):
            by_key[record.key, record.partition].append(int(record.value.partition(b":")[2]))
        assert len({partition for _, partition in by_key}) == PLAIN.partitions
        assert list(by_key.values()) == [list(range(20))] * 10

    async def test_concurrent_appends_leave_no_gap(self, log: EventLog) -> None:
        producer = log.producer()
        await asyncio.gather(*(producer.append(records_of(SINGLE, f"{n}:a", f"{n}:b")) for n in range(50)))
        found = await read(log.consumer([SINGLE.name], group=None), 100)
        assert [record.offset for record in found] == list(range(100))
        assert all(one.key == two.key for one, two in zip(found[::2], found[1::2], strict=True))

    async def test_a_call_is_all_or_nothing(self, log: EventLog) -> None:
        producer = log.producer()
        good = records_of(PLAIN, "a:1")
        with pytest.raises(NotFoundError, match="no_such"):
            await producer.append([*good, NewRecord("no_such", "a", b"")])
        with pytest.raises(InvalidArgumentError):
            await producer.append([*good, NewRecord(PLAIN.name, "a", bytes(MAX_VALUE_BYTES + 1))])
        assert await producer.append([]) == []
        assert set((await log.end_offsets([PLAIN.name])).values()) == {0}
        await producer.append([NewRecord(PLAIN.name, "a", bytes(MAX_VALUE_BYTES))])

    async def test_an_unknown_topic_is_told(self, log: EventLog) -> None:
        consumer = log.consumer(["no_such"], group="g")
        with pytest.raises(NotFoundError, match="no_such"):
            await consumer.poll(max_records=1, timeout_s=0)
        with pytest.raises(NotFoundError):
            await log.end_offsets(["no_such"])

    async def test_topics_are_made_once(self, log: EventLog) -> None:
        await log.producer().append(records_of(PLAIN, "a:1"))
        await log.ensure_topics([PLAIN])
        assert sum((await log.end_offsets([PLAIN.name])).values()) == 1
        with pytest.raises(StartupError, match=r"4 partitions, not 5; set EVENT_LOG_PARTITIONS=4"):
            await log.ensure_topics([TopicSpec(PLAIN.name, partitions=5)])

    async def test_a_poll_waits_for_the_next_record(self, log: EventLog) -> None:
        consumer = log.consumer([PLAIN.name], group="g")
        assert not await consumer.poll(max_records=1, timeout_s=0)
        started = asyncio.get_running_loop().time()
        assert not await consumer.poll(max_records=1, timeout_s=0.05)
        assert asyncio.get_running_loop().time() - started >= 0.045
        waiting = asyncio.create_task(consumer.poll(max_records=10, timeout_s=10))
        await asyncio.sleep(0.02)
        await log.producer().append(records_of(PLAIN, "a:1"))
        assert values(await asyncio.wait_for(waiting, 1)) == ["a:1"]

    async def test_a_poll_without_time_gives_what_is_there(self, log: EventLog) -> None:
        await log.producer().append(records_of(PLAIN, "a:1"))
        assert values(await log.consumer([PLAIN.name], group=None).poll(max_records=9, timeout_s=0)) == ["a:1"]

    async def test_a_cancelled_poll_loses_nothing(self, log: EventLog) -> None:
        consumer = log.consumer([SINGLE.name], group="g")
        await log.producer().append(records_of(SINGLE, *(f"a:{n}" for n in range(20))))
        found: list[Record] = []
        for hops in range(20):
            poll = asyncio.create_task(consumer.poll(max_records=1, timeout_s=0))
            for _ in range(hops):
                await asyncio.sleep(0)
            poll.cancel()
            (outcome,) = await asyncio.gather(poll, return_exceptions=True)
            found += [] if isinstance(outcome, BaseException) else outcome
        found += await read_all(consumer)
        assert [record.offset for record in found] == list(range(20))

    async def test_no_partition_starves_another(self, log: EventLog) -> None:
        await log.producer().append(records_of(PLAIN, *(f"key{n}:" for n in range(400))))
        consumer = log.consumer([PLAIN.name], group=None)
        seen = [(await consumer.poll(max_records=5, timeout_s=1))[0].partition for _ in range(8)]
        assert set(seen) == set(range(4))

    async def test_replicas_without_a_group_each_read_all(self, log: EventLog) -> None:
        await log.producer().append(records_of(PLAIN, "a:1", "b:2"))
        for _ in range(2):
            replica = log.consumer([PLAIN.name], group=None)
            found = await read(replica, 2)
            await replica.commit(after(found))
            assert after(found).items() <= replica.position().items()

    async def test_a_group_resumes_where_it_committed(self, log: EventLog) -> None:
        await log.producer().append(records_of(SINGLE, "a:1", "a:2", "a:3", "a:4"))
        first = log.consumer([SINGLE.name], group="g")
        await first.commit(after(await read(first, 2, max_records=2)))
        assert values(await read(first, 2)) == ["a:3", "a:4"]
        await first.close()
        second = log.consumer([SINGLE.name], group="g")
        assert values(await read(second, 2)) == ["a:3", "a:4"]
        other = log.consumer([SINGLE.name], group="another")
        assert len(await read(other, 4)) == 4

    async def test_members_share_the_partitions(self, log: EventLog) -> None:
        members = [log.consumer([PLAIN.name], group="g") for _ in range(2)]
        await settle(members, 4)
        assert not members[0].position().keys() & members[1].position().keys()
        await log.producer().append(records_of(PLAIN, *(f"key{n}:" for n in range(100))))
        first, second = await read_all(members[0]), await read_all(members[1])
        assert sorted(values([*first, *second])) == sorted(f"key{n}:" for n in range(100))
        assert first
        assert second

    async def test_who_leaves_makes_room_at_what_was_committed(self, log: EventLog) -> None:
        members = [log.consumer([PLAIN.name], group="g") for _ in range(2)]
        await settle(members, 4)
        await log.producer().append(records_of(PLAIN, *(f"key{n}:" for n in range(100))))
        done = await read_all(members[0])
        await members[0].commit(after(done))
        uncommitted = await read_all(members[1])
        await members[1].close()
        await settle_alone(members[0], uncommitted)

    async def test_a_joining_member_gets_what_is_not_handled(self, log: EventLog) -> None:
        first = log.consumer([PLAIN.name], group="g")
        await log.producer().append(records_of(PLAIN, *(f"key{n}:" for n in range(100))))
        done = await read(first, 100)
        await first.commit(after(done))
        second = log.consumer([PLAIN.name], group="g")
        await settle([first, second], 4)
        await log.producer().append(records_of(PLAIN, *(f"late{n}:" for n in range(100))))
        found = await read_all(first) + await read_all(second)
        assert sorted(values(found)) == sorted(f"late{n}:" for n in range(100))

    async def test_only_the_owner_commits(self, log: EventLog) -> None:
        members = [log.consumer([PLAIN.name], group="g") for _ in range(2)]
        await settle(members, 4)
        own, foreign = (next(iter(member.position())) for member in members)
        with pytest.raises(StaleOwnerError) as refusal:
            await members[0].commit({own: 0, foreign: 5})
        assert refusal.value.partitions == {foreign}
        await members[1].close()
        with pytest.raises(StaleOwnerError):
            await members[1].commit({foreign: 5})

    async def test_a_member_that_comes_back_takes_its_partitions_up(self, log: EventLog) -> None:
        await log.producer().append(records_of(PLAIN, *(f"key{n}:" for n in range(40))))
        before = log.consumer([PLAIN.name], group="g", member="worker-0")
        await read(before, 40)
        again = log.consumer([PLAIN.name], group="g", member="worker-0")
        assert len(await read(again, 40)) == 40
        with pytest.raises(StaleOwnerError):
            await before.commit({TopicPartition(PLAIN.name, 0): 1})
        with pytest.raises(FailedPreconditionError, match="worker-0"):
            await poll_on(before)

    async def test_start_says_where_a_new_reader_begins(self, log: EventLog) -> None:
        await log.producer().append(records_of(SINGLE, "a:1", "a:2", "a:3"))
        where = TopicPartition(SINGLE.name, 0)
        assert len(await read(log.consumer([SINGLE.name], group=None, start=Start.EARLIEST), 3)) == 3
        assert values(await read(log.consumer([SINGLE.name], group=None, start={where: 2}), 1)) == ["a:3"]
        assert len(await read(log.consumer([SINGLE.name], group=None, start={}), 3)) == 3
        latest = log.consumer([SINGLE.name], group=None, start=Start.LATEST)
        assert not await read_all(latest)
        await log.producer().append(records_of(SINGLE, "a:4"))
        assert values(await read(latest, 1)) == ["a:4"]

    async def test_a_start_behind_the_end_reads_everything(self, log: EventLog) -> None:
        await log.producer().append(records_of(SINGLE, "a:1"))
        lost = log.consumer([SINGLE.name], group=None, start={TopicPartition(SINGLE.name, 0): 99})
        assert values(await read(lost, 1)) == ["a:1"]

    async def test_a_group_remembers_that_it_began_at_the_end(self, log: EventLog) -> None:
        await log.producer().append(records_of(SINGLE, "a:1"))
        first = log.consumer([SINGLE.name], group="g", start=Start.LATEST)
        assert not await read_all(first)
        await first.close()
        await log.producer().append(records_of(SINGLE, "a:2"))
        second = log.consumer([SINGLE.name], group="g", start=Start.LATEST)
        assert values(await read(second, 1)) == ["a:2"]

    async def test_seek_reads_again_or_skips(self, log: EventLog) -> None:
        await log.producer().append(records_of(SINGLE, "a:1", "a:2", "a:3"))
        where = TopicPartition(SINGLE.name, 0)
        consumer = log.consumer([SINGLE.name], group="g")
        found = await read(consumer, 3)
        await consumer.commit(after(found))
        await consumer.seek({where: 1, TopicPartition(PLAIN.name, 0): 5})
        assert consumer.position() == {where: 1}
        assert values(await read(consumer, 2)) == ["a:2", "a:3"]
        await consumer.commit({where: 2})
        await consumer.seek({where: 3})
        assert not await read_all(consumer)

    async def test_paused_partitions_wait(self, log: EventLog) -> None:
        consumer = log.consumer([PLAIN.name, SINGLE.name], group="g")
        await log.producer().append(records_of(SINGLE, "a:1"))
        assert len(await read(consumer, 1)) == 1
        where = [TopicPartition(SINGLE.name, 0)]
        consumer.pause(where)
        await log.producer().append(records_of(SINGLE, "a:2") + records_of(PLAIN, "b:3"))
        assert values(await read(consumer, 1)) == ["b:3"]
        assert not await consumer.poll(max_records=1, timeout_s=0.05)
        assert (await consumer.lag())[where[0]] == 1
        waiting = asyncio.create_task(consumer.poll(max_records=10, timeout_s=10))
        await asyncio.sleep(0.02)
        consumer.resume(where)
        assert values(await asyncio.wait_for(waiting, 1)) == ["a:2"]

    async def test_who_polls_with_everything_paused_keeps_its_partitions_and_skips_nothing(self, log: EventLog) -> None:
        first, second = members = [log.consumer([PLAIN.name], group="g") for _ in range(2)]
        await settle(members, 4)
        await log.producer().append(records_of(PLAIN, *(f"key{n}:" for n in range(100))))
        handled = list(await first.poll(max_records=3, timeout_s=5))
        stands = first.position()
        first.pause(stands)
        for _ in range(10):
            assert not await first.poll(max_records=100, timeout_s=0.05)
            await second.poll(max_records=100, timeout_s=0.05)
        assert first.position() == stands
        await first.commit(after(handled))
        first.resume(stands)
        handled += await read_all(first)
        own = {where.partition for where in stands}
        everything = await read_all(log.consumer([PLAIN.name], group=None))
        expected = {(record.partition, record.offset) for record in everything if record.partition in own}
        assert sorted((record.partition, record.offset) for record in handled) == sorted(expected)

    async def test_lag_counts_what_is_not_read(self, log: EventLog) -> None:
        await log.producer().append(records_of(PLAIN, *(f"key{n}:" for n in range(50))))
        consumer = log.consumer([PLAIN.name], group="g")
        assert sum((await consumer.lag()).values()) == 50
        await read(consumer, 50)
        assert sum((await consumer.lag()).values()) == 0
        assert consumer.position() == await log.end_offsets([PLAIN.name])

    async def test_what_a_group_has_committed_can_be_asked(self, log: EventLog) -> None:
        where = TopicPartition(SINGLE.name, 0)
        assert await log.committed_offsets("g", [SINGLE.name]) == {where: 0}
        await log.producer().append(records_of(SINGLE, "a:1", "a:2"))
        consumer = log.consumer([SINGLE.name], group="g")
        await consumer.commit(after(await read(consumer, 2)))
        assert await log.committed_offsets("g", [SINGLE.name]) == {where: 2}
        assert await log.committed_offsets("another", [SINGLE.name]) == {where: 0}

    async def test_offsets_are_found_by_time(self, log: EventLog, clock: ManualClock) -> None:
        producer = log.producer()
        for number in range(5):
            await producer.append(records_of(SINGLE, f"a:{number}"))
            clock.advance(100)
        where = TopicPartition(SINGLE.name, 0)
        start = clock.now_ms() - 500
        assert await log.offsets_for_time([SINGLE.name], start) == {where: 0}
        assert await log.offsets_for_time([SINGLE.name], start + 101) == {where: 2}
        assert await log.offsets_for_time([SINGLE.name], start + 401) == {where: 5}

    async def test_expired_records_go_and_offsets_stay(self, log: EventLog, tmp_path: Path, clock: ManualClock) -> None:
        producer = log.producer()
        await producer.append(records_of(EXPIRING, "a:1", "a:2"))
        clock.advance(60 * DAY_MS)
        await producer.append(records_of(EXPIRING, "a:3"))
        clock.advance(60 * DAY_MS)
        await self.maintain(log, tmp_path, clock)
        where = TopicPartition(EXPIRING.name, 0)
        assert await log.begin_offsets([EXPIRING.name]) == {where: 2}
        assert values(await read(log.consumer([EXPIRING.name], group=None, start={where: 0}), 1)) == ["a:3"]
        clock.advance(60 * DAY_MS)
        await self.maintain(log, tmp_path, clock)
        assert await log.begin_offsets([EXPIRING.name]) == await log.end_offsets([EXPIRING.name]) == {where: 3}
        await producer.append(records_of(EXPIRING, "a:4"))
        assert [record.offset for record in await read(log.consumer([EXPIRING.name], group=None), 1)] == [3]

    @pytest.mark.parametrize("seed", range(3))
    async def test_compaction_keeps_the_last_record_of_each_key(
        self, log: EventLog, tmp_path: Path, clock: ManualClock, seed: int
    ) -> None:
        random = Random(seed)
        producer = log.producer()
        last: dict[str, str] = {}
        for round_ in range(6):
            batch = [f"key{random.randrange(20)}:{round_}.{n}" for n in range(random.randrange(1, 40))]
            await producer.append(records_of(COMPACTED, *batch))
            last |= {value.partition(":")[0]: value for value in batch}
            if random.random() < 0.7:
                clock.advance(10 * DAY_MS)
                await self.maintain(log, tmp_path, clock)
        await self.maintain(log, tmp_path, clock)
        found = await read_all(log.consumer([COMPACTED.name], group=None))
        assert {record.key: record.value.decode() for record in found} == last
        assert len(found) == len(last) or not self.COMPACTS_ALL

    @pytest.mark.parametrize("seed", range(4))
    async def test_whatever_happens_nothing_is_lost(self, log: EventLog, seed: int) -> None:
        """Random appends, polls, commits, members that come and go: all is delivered, in order, up to repetition."""
        random = Random(seed)
        producer = log.producer()
        members = [log.consumer([PLAIN.name], group="g")]
        appended: dict[TopicPartition, int] = {}
        delivered: dict[TopicPartition, int] = defaultdict(int)  # the first offset never delivered so far
        for _ in range(150):
            member = random.choice(members)
            what = random.choice(["append", "poll and commit", "poll and commit", "poll and leave", "join", "leave"])
            if what == "append":
                batch = records_of(PLAIN, *(f"key{random.randrange(30)}:" for _ in range(random.randrange(1, 20))))
                appended |= {where: offset + 1 for where, offset in await producer.append(batch)}
            if what.startswith("poll"):
                records = await member.poll(max_records=random.randrange(1, 30), timeout_s=0)
                deliver(records, delivered)
                if what == "poll and commit":
                    await member.commit(after(records))
            if what.endswith("leave"):
                members.remove(member)
                await member.close()
            if not members or (what == "join" and len(members) < 3):
                members.append(log.consumer([PLAIN.name], group="g"))
        async with asyncio.timeout(10):
            while any(delivered[where] < end for where, end in appended.items()):
                for member in members:
                    records = await member.poll(max_records=50, timeout_s=0.02)
                    deliver(records, delivered)
                    await member.commit(after(records))


def deliver(records: Sequence[Record], delivered: dict[TopicPartition, int]) -> None:
    """Note what was delivered, and see that nothing was skipped."""
    for record in records:
        where = TopicPartition(record.topic, record.partition)
        assert record.offset <= delivered[where], "skipped a record"
        delivered[where] = max(delivered[where], record.offset + 1)


async def settle_alone(member: EventConsumer, expected: Sequence[Record]) -> None:
    """Poll until the member was given all of these again."""
    missing = {(record.partition, record.offset) for record in expected}
    async with asyncio.timeout(10):
        while missing:
            missing -= {(r.partition, r.offset) for r in await member.poll(max_records=100, timeout_s=0.05)}


class TestMemoryEventLog(EventLogContract):
    adapter = "memory"

    def open_log(self, folder: Path, clock: ManualClock) -> EventLog:  # noqa: ARG002 - needs no folder
        return MemoryEventLog(clock=clock)

    async def maintain(self, log: EventLog, folder: Path, clock: ManualClock) -> None:  # noqa: ARG002 - needs neither
        assert isinstance(log, MemoryEventLog)
        log.maintain()


class TestSqliteEventLog(EventLogContract):
    adapter = "sqlite"

    def open_log(self, folder: Path, clock: ManualClock) -> EventLog:
        return SqliteEventLog(folder, sync="normal", clock=clock, session_ms=100)

    async def maintain(self, log: EventLog, folder: Path, clock: ManualClock) -> None:  # noqa: ARG002 - works from outside
        for topic in (COMPACTED, EXPIRING):
            file = TopicFile(folder, topic.name, sync="normal")
            while file.maintain(clock.now_ms()):
                pass
            file.close()
