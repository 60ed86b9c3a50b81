"""What external producers may send: records too long for us, headers of our names, transactions that they take back."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
from kafka import KafkaProducer
from servers.addresses import Addresses

from servicekit.errors import FailedPreconditionError, InvalidArgumentError, StartupError
from servicekit.eventlog.dead_letters import DeadLetters
from servicekit.eventlog.kafka.log import KafkaEventLog
from servicekit.eventlog.port import EventLog, Record, Start, TopicPartition, TopicSpec
from servicekit.eventlog.runner import ConsumerRunner, RecordFailure
from servicekit.eventlog.topics import dlq
from servicekit.testing import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture
def topic(unique_name: str) -> str:
    return f"{unique_name}.done"


@pytest.fixture
async def log(servers: Addresses, topic: str) -> AsyncIterator[EventLog]:
    log = KafkaEventLog([servers.kafka])
    await log.ensure_topics([TopicSpec(topic, 1), TopicSpec(dlq(topic), 1)])
    yield log
    await log.close()


@pytest.fixture
def transactional(servers: Addresses, unique_name: str) -> Iterator[Any]:
    producer = KafkaProducer(bootstrap_servers=servers.kafka, transactional_id=unique_name, linger_ms=0)
    producer.init_transactions()
    yield producer
    producer.close(timeout=5)


async def test_what_no_letter_can_hold_is_put_aside_and_the_consumer_goes_on(
    servers: Addresses, log: EventLog, topic: str
) -> None:
    stranger = KafkaProducer(bootstrap_servers=servers.kafka, compression_type="gzip", max_request_size=64 << 20)
    junk = [
        (b"long", b"x" * (3 << 20), []),
        (b"near", os.urandom(1024) * 1024, [("noise", b"x" * 70_000)]),
        (b"k" * (1 << 20), b"x", []),
        (b"heads", b"x", [("dlq-attempts", b"9" * 5_000), ("dlq-retried", b"\xff\xfe"), ("dlq-truncated", b"1")]),
        (b"null", None, []),
    ]
    for key, value, headers in junk:
        stranger.send(topic, key=key, value=value, headers=headers).get(timeout=10)
    stranger.send(topic, key=b"good", value=b"good").get(timeout=10)
    stranger.close()
    applied: list[str] = []
    stop = asyncio.Event()

    async def handle(records: Sequence[Record]) -> Sequence[RecordFailure]:
        applied.extend(record.key for record in records if record.key == "good")
        return [RecordFailure(record, InvalidArgumentError("no good")) for record in records if record.key != "good"]

    consumer = log.consumer([topic], group=topic)
    running = asyncio.create_task(ConsumerRunner(consumer, handle, log.producer(), name="worker").run(stop))
    await eventually(lambda: applied == ["good"], timeout_s=30)
    stop.set()
    await running
    letters = {letter.key[:5]: letter for letter in await DeadLetters(log).list(topic)}
    assert {key: letter.truncated for key, letter in letters.items()} == {
        "long": "value of 3145728 bytes",
        "near": "1 of 1 headers",
        "kkkkk": "key of 1048576 characters",
        "heads": "",
        "null": "",
    }
    assert letters["heads"].attempts == 1
    assert len(await DeadLetters(log).retry([letters["heads"].letter_id, letters["null"].letter_id])) == 2
    with pytest.raises(FailedPreconditionError, match="cannot be sent again"):
        await DeadLetters(log).retry([letters["long"].letter_id])


async def read_to_end(log: EventLog, topic: str, group: str | None) -> list[bytes]:
    """Read as whoever catches up at a start does: until the position is where the end was."""
    ends = await log.end_offsets([topic])
    consumer = log.consumer([topic], group=group)
    found: list[bytes] = []
    try:
        async with asyncio.timeout(15):
            while any(consumer.position().get(where, 0) < end for where, end in ends.items()):
                found += [record.value for record in await consumer.poll(max_records=100, timeout_s=0.2)]
        assert sum((await consumer.lag()).values()) == 0
        assert not await consumer.poll(max_records=100, timeout_s=0)
    finally:
        await consumer.close()
    return found


@pytest.mark.parametrize("in_group", [True, False])
async def test_what_a_producer_takes_back_has_not_happened(
    log: EventLog, topic: str, transactional: Any, in_group: bool
) -> None:
    group = topic if in_group else None

    def send(*values: bytes) -> None:
        for value in values:
            transactional.send(topic, value=value).get(timeout=10)

    transactional.begin_transaction()
    await asyncio.to_thread(send, b"taken back")
    transactional.abort_transaction()
    assert await read_to_end(log, topic, group) == []
    transactional.begin_transaction()
    await asyncio.to_thread(send, b"1", b"2")
    transactional.commit_transaction()
    assert await read_to_end(log, topic, group) == [b"1", b"2"]
    end = await log.end_offsets([topic])
    transactional.begin_transaction()
    await asyncio.to_thread(send, b"open")
    assert await log.end_offsets([topic]) == end  # nobody waits for what may never be said
    assert await log.offsets_for_time([topic], 1 << 41) == end
    assert await read_to_end(log, topic, group) == [b"1", b"2"]
    latest = log.consumer([topic], group=None, start=Start.LATEST)
    assert not await latest.poll(max_records=9, timeout_s=0)
    transactional.abort_transaction()
    assert await read_to_end(log, topic, group) == [b"1", b"2"]
    transactional.begin_transaction()
    await asyncio.to_thread(send, b"3")
    transactional.commit_transaction()
    assert await read_to_end(log, topic, group) == [b"1", b"2", b"3"]
    (record,) = await latest.poll(max_records=9, timeout_s=10)
    assert record.value == b"3"


async def test_another_number_of_partitions_is_told_with_what_to_do(log: EventLog, topic: str) -> None:
    with pytest.raises(StartupError, match="set EVENT_LOG_PARTITIONS=1, which the topic has, or make the topic anew"):
        await log.ensure_topics([TopicSpec(topic, 3)])
    assert await log.end_offsets([topic]) == {TopicPartition(topic, 0): 0}
