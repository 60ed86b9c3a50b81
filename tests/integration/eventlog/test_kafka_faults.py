"""A rebalance, a broker's death and a member's: nothing acknowledged is lost, nothing is applied twice."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
from servers.addresses import Addresses
from servers.fleet import start_kafka
from servers.kafka_server import KafkaServer

from servicekit.errors import FailedPreconditionError, StartupError, UnavailableError
from servicekit.eventlog.kafka import producer as producer_module
from servicekit.eventlog.kafka import reader as reader_module
from servicekit.eventlog.kafka.log import KafkaEventLog
from servicekit.eventlog.kafka.options import KafkaOptions
from servicekit.eventlog.port import EventConsumer, NewRecord, Record, TopicPartition, TopicSpec
from servicekit.eventlog.runner import ConsumerRunner, RecordFailure
from servicekit.testing import eventually, free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

PARTITIONS = 4


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A broker that may be killed."""
    with start_kafka(tmp_path_factory.mktemp("kafka")) as server:
        yield server


@asynccontextmanager
async def opened(address: str, topic: str) -> AsyncIterator[KafkaEventLog]:
    log = KafkaEventLog([address])
    await log.ensure_topics([TopicSpec(topic, PARTITIONS), TopicSpec(f"{topic}.dlq", 1)])
    try:
        yield log
    finally:
        await log.close()


@dataclass
class Store:
    """Stands for a store whose effects are idempotent: it knows each event by its id, and counts how often it came."""

    effects: dict[str, int] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    sums: Counter[str] = field(default_factory=Counter)

    async def apply(self, records: Sequence[Record]) -> Sequence[RecordFailure]:
        for record in records:
            event = record.value.decode()
            self.seen[event] += 1
            if event not in self.effects:
                self.effects[event] = record.offset
                self.sums[record.key] += 1
        return ()


@asynccontextmanager
async def running(log: KafkaEventLog, consumer: EventConsumer, store: Store, name: str) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(ConsumerRunner(consumer, store.apply, log.producer(), name=name).run(stop))
    try:
        yield
    finally:
        stop.set()
        await task
        await consumer.close()


class Stream:
    """Appends numbered events until told to stop, each again until it is acknowledged."""

    def __init__(self, log: KafkaEventLog, topic: str) -> None:
        self._producer = log.producer()
        self._topic = topic
        self.acknowledged = 0
        self.refused = 0

    async def run(self, stop: asyncio.Event) -> None:
        number = 0
        while not stop.is_set():
            batch = [NewRecord(self._topic, f"user{n % 50}", str(n).encode()) for n in range(number, number + 20)]
            try:
                await self._producer.append(batch)
            except UnavailableError:
                self.refused += 1
                continue
            number += len(batch)
            self.acknowledged = number
            await asyncio.sleep(0.005)


async def assert_all_is_there_once(log: KafkaEventLog, topic: str, group: str, stream: Stream, store: Store) -> None:
    """Every acknowledged event has had its effect once, and what is committed is exactly what was applied."""

    async def caught_up() -> bool:
        return await log.committed_offsets(group, [topic]) == await log.end_offsets([topic])

    await eventually(caught_up, timeout_s=60, interval_s=0.2)
    events = {str(number) for number in range(stream.acknowledged)}
    assert events <= store.effects.keys()
    assert sum(store.sums.values()) == len(store.effects)
    assert {event: count for event, count in store.seen.items() if count < 1} == {}


async def test_a_member_joins_and_leaves_in_the_middle(servers: Addresses, unique_name: str) -> None:
    async with opened(servers.kafka, unique_name) as log:
        stop, store = asyncio.Event(), Store()
        stream = Stream(log, unique_name)
        streaming = asyncio.create_task(stream.run(stop))
        first, second = (log.consumer([unique_name], group=unique_name) for _ in range(2))
        async with running(log, first, store, "first"):
            await eventually(lambda: len(store.effects) > 200, timeout_s=30)
            async with running(log, second, store, "second"):
                await eventually(lambda: len(second.position()) == PARTITIONS // 2, timeout_s=30)
                shared_at = len(store.effects)
                await eventually(lambda: len(store.effects) > shared_at + 500, timeout_s=30)
                assert len(first.position()) == PARTITIONS // 2
            await eventually(lambda: len(first.position()) == PARTITIONS, timeout_s=30)
            stop.set()
            await streaming
            await assert_all_is_there_once(log, unique_name, unique_name, stream, store)
        # The group moved without a hitch: partitions were handed over at what was committed.
        assert max(store.seen.values()) == 1
        assert sum((await log.end_offsets([unique_name])).values()) == stream.acknowledged


async def test_a_broker_dies_and_comes_back_in_the_middle(broker: KafkaServer, unique_name: str) -> None:
    async with opened(broker.address, unique_name) as log:
        stop, store = asyncio.Event(), Store()
        stream = Stream(log, unique_name)
        streaming = asyncio.create_task(stream.run(stop))
        members = [log.consumer([unique_name], group=unique_name, member=f"{unique_name}-{n}") for n in range(2)]
        async with running(log, members[0], store, "0"), running(log, members[1], store, "1"):
            for _ in range(2):
                before = len(store.effects)
                await eventually(lambda before=before: len(store.effects) > before + 300, timeout_s=60)  # type: ignore[misc]
                await asyncio.to_thread(broker.kill)
                await asyncio.to_thread(broker.start)
                at_death = stream.acknowledged
                await eventually(lambda at=at_death: stream.acknowledged > at + 300, timeout_s=60)  # type: ignore[misc]
            stop.set()
            await streaming
            await assert_all_is_there_once(log, unique_name, unique_name, stream, store)
        # An idempotent producer puts a record there once, however often it was sent; what the stream had to append
        # again because nobody acknowledged it may be there twice, and has had its effect once.
        ends = sum((await log.end_offsets([unique_name])).values())
        assert stream.acknowledged <= ends <= stream.acknowledged + 20 * stream.refused


async def test_a_named_member_comes_back_to_its_partitions_and_the_others_notice_nothing(
    servers: Addresses, unique_name: str
) -> None:
    async with opened(servers.kafka, unique_name) as log:
        stay, go = (log.consumer([unique_name], group=unique_name, member=name) for name in ("stays", "goes"))
        async with asyncio.timeout(60):
            while [len(each.position()) for each in (stay, go)] != [2, 2]:
                await asyncio.gather(*(each.poll(max_records=1, timeout_s=0.1) for each in (stay, go)))
        kept, moved = set(stay.position()), set(go.position())
        await log.producer().append([NewRecord(unique_name, f"key{n}", b"") for n in range(40)])
        read = await read_all(stay, 1) + await read_all(go, 1)
        assert len(read) == 40
        await go.close()  # says no goodbye, as if it had been killed: the name is expected back
        async with opened(servers.kafka, unique_name) as elsewhere:
            again = elsewhere.consumer([unique_name], group=unique_name, member="goes")
            back: list[Record] = []
            async with asyncio.timeout(30):
                while len(again.position()) < 2 or not back:
                    back += await again.poll(max_records=100, timeout_s=0.2)
                    await stay.poll(max_records=100, timeout_s=0.1)
                    assert set(stay.position()) == kept
            assert set(again.position()) == moved
            back += await read_all(again, 1)
            assert {(r.partition, r.offset) for r in back} == {
                (r.partition, r.offset) for r in read if TopicPartition(r.topic, r.partition) in moved
            }
            await stay.commit({where: offset for where, offset in stay.position().items() if where in kept})


async def read_all(consumer: EventConsumer, timeout_s: float) -> list[Record]:
    """Poll until nothing comes for a while."""
    found: list[Record] = []
    while records := await consumer.poll(max_records=100, timeout_s=timeout_s):
        found += records
    return found


async def poll_on(consumer: EventConsumer) -> None:
    """Poll until an error comes."""
    while True:
        await consumer.poll(max_records=1, timeout_s=0.5)


async def commit_all(members: Sequence[EventConsumer]) -> None:
    """Let each commit where it stands; who is done polls on, as members do, since a rebalance waits for all of them."""
    done: set[int] = set()

    async def commit(number: int, member: EventConsumer) -> None:
        await member.commit(member.position())
        done.add(number)
        while len(done) < len(members):
            await member.poll(max_records=1, timeout_s=0.05)

    await asyncio.gather(*(commit(number, member) for number, member in enumerate(members)))


async def test_a_group_whose_members_read_different_topics_comes_to_rest(servers: Addresses, unique_name: str) -> None:
    """Its leader hears of the others' topics while it shares them out, and wants to share out anew."""
    topics = [f"{unique_name}.{n}" for n in range(3)]
    log = KafkaEventLog([servers.kafka])
    await log.ensure_topics([TopicSpec(topic, PARTITIONS) for topic in topics])
    for round_ in range(5):
        members = [log.consumer([topic], group=f"{unique_name}-{round_}") for topic in topics]
        async with asyncio.timeout(30):
            while any(len(member.position()) != PARTITIONS for member in members):
                await asyncio.gather(*(member.poll(max_records=1, timeout_s=0.05) for member in members))
        await commit_all(members)
        for member in members:
            await member.close()
    await log.close()


async def test_who_lost_its_name_is_told_also_when_it_commits_nothing(servers: Addresses, unique_name: str) -> None:
    async with opened(servers.kafka, unique_name) as log:
        before, after = (log.consumer([unique_name], group=unique_name, member="same") for _ in range(2))
        await before.poll(max_records=1, timeout_s=0)
        assert len(before.position()) == PARTITIONS
        await after.poll(max_records=1, timeout_s=0)
        with pytest.raises(FailedPreconditionError, match="same"):
            await asyncio.wait_for(poll_on(before), 20)
        assert len(after.position()) == PARTITIONS


async def test_a_member_whose_effect_fails_for_long_keeps_its_partitions_and_its_place(
    servers: Addresses, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is away for longer than a group waits for a member that does not poll."""
    monkeypatch.setattr(reader_module, "_LONGEST_ABSENCE_MS", 3_000)
    away = True
    first_store, second_store = Store(), Store()

    async def apply(records: Sequence[Record]) -> Sequence[RecordFailure]:
        if away:
            raise UnavailableError("the store is away")
        return await first_store.apply(records)

    async with opened(servers.kafka, unique_name) as log:
        first, second = (log.consumer([unique_name], group=unique_name) for _ in range(2))
        stop = asyncio.Event()
        running_first = asyncio.create_task(ConsumerRunner(first, apply, log.producer(), name="first").run(stop))
        async with running(log, second, second_store, "second"):
            await eventually(lambda: len(first.position()) == len(second.position()) == 2, timeout_s=30)
            owned = first.position().keys()
            await log.producer().append([NewRecord(unique_name, f"key{n}", str(n).encode()) for n in range(100)])
            for _ in range(80):
                await asyncio.sleep(0.1)
                assert first.position().keys() == owned
            assert 0 < len(second_store.effects) < 100
            assert not first_store.effects
            await log.producer().append([NewRecord(unique_name, f"key{n}", str(n).encode()) for n in range(100, 200)])
            away = False
            await eventually(lambda: len(first_store.effects) + len(second_store.effects) == 200, timeout_s=30)
            assert max((first_store.seen + second_store.seen).values()) == 1

            async def committed() -> bool:
                return await log.committed_offsets(unique_name, [unique_name]) == await log.end_offsets([unique_name])

            await eventually(committed, timeout_s=10)
        stop.set()
        await running_first
        await first.close()


async def test_a_frozen_broker_is_told_and_bridged(broker: KafkaServer, unique_name: str) -> None:
    async with opened(broker.address, unique_name) as log:
        producer = log.producer()
        await producer.append([NewRecord(unique_name, "a", b"before")])
        broker.pause()
        try:
            waiting = asyncio.create_task(producer.append([NewRecord(unique_name, "a", b"during")]))
            with pytest.raises(UnavailableError):
                await log.end_offsets([unique_name])
        finally:
            broker.resume()
        await asyncio.wait_for(asyncio.gather(waiting, return_exceptions=True), 60)
        await producer.append([NewRecord(unique_name, "a", b"after")])
        found = await read_all(log.consumer([unique_name], group=None), 2)
        values = [record.value for record in found]
        assert values[0] == b"before"
        assert values[-1] == b"after"
        if waiting.exception() is None:
            assert values == [b"before", b"during", b"after"]


async def test_a_cluster_that_is_not_there_is_waited_for_and_then_told(unique_name: str) -> None:
    log = KafkaEventLog([f"127.0.0.1:{free_port()}"], KafkaOptions(wait_s=0.5))
    with pytest.raises(StartupError, match="EVENT_LOG_URL") as refusal:
        await log.ensure_topics([TopicSpec(unique_name, 1)])
    assert "\n" not in str(refusal.value)
    await log.close()


async def test_a_producer_whose_records_expired_is_replaced(
    broker: KafkaServer, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer_module, "DELIVERY_S", 2.0)
    monkeypatch.setattr(producer_module, "_REQUEST_MS", 1_000)
    async with opened(broker.address, unique_name) as log:
        producer = log.producer()
        await producer.append([NewRecord(unique_name, "user", b"before")])
        await asyncio.to_thread(broker.kill)
        # Several at once, so that some have a number and others wait for one.
        late = [producer.append([NewRecord(unique_name, f"user{n}", b"lost")]) for n in range(20)]
        outcomes = await asyncio.gather(*late, return_exceptions=True)
        assert all(isinstance(outcome, UnavailableError) for outcome in outcomes)
        await asyncio.to_thread(broker.start)

        async def appended() -> bool:
            with suppress(UnavailableError):
                return bool(await producer.append([NewRecord(unique_name, "user", b"after")]))
            return False

        await eventually(appended, timeout_s=60, interval_s=0.2)
