"""Dead letters are looked through, looked at and sent again once; what fails again says how often it did."""

import asyncio
from collections.abc import Sequence

import pytest

from servicekit.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from servicekit.eventlog.dead_letters import DeadLetter, DeadLetters
from servicekit.eventlog.memory import MemoryEventLog
from servicekit.eventlog.port import NewRecord, Record, TopicSpec
from servicekit.eventlog.runner import ConsumerRunner, RecordFailure
from servicekit.eventlog.topics import dlq

TOPIC = "done"


class RefusalError(InvalidArgumentError):
    pass


@pytest.fixture
async def log() -> MemoryEventLog:
    log = MemoryEventLog()
    await log.ensure_topics([TopicSpec(TOPIC, 2), TopicSpec(dlq(TOPIC), 1)])
    return log


@pytest.fixture
def letters(log: MemoryEventLog) -> DeadLetters:
    return DeadLetters(log)


async def append(log: MemoryEventLog, *values: str) -> None:
    await log.producer().append(
        [NewRecord(TOPIC, value, value.encode(), {"h": b"1"}, timestamp_ms=7) for value in values]
    )


async def consume(log: MemoryEventLog, count: int) -> None:
    """Run a consumer that refuses every record until it has seen so many."""
    stop = asyncio.Event()
    seen = 0

    async def refuse(records: Sequence[Record]) -> Sequence[RecordFailure]:
        nonlocal seen
        seen += len(records)
        if seen >= count:
            stop.set()
        return [RecordFailure(record, RefusalError("no good")) for record in records]

    consumer = log.consumer([TOPIC], group="g")
    await asyncio.wait_for(ConsumerRunner(consumer, refuse, log.producer(), name="worker").run(stop), 5)
    await consumer.close()


def keys(letters: Sequence[DeadLetter]) -> list[str]:
    return sorted(letter.key for letter in letters)


async def test_a_letter_tells_everything_of_its_record(log: MemoryEventLog, letters: DeadLetters) -> None:
    await append(log, "bad")
    await consume(log, 1)
    (letter,) = await letters.list(TOPIC)
    assert letter.letter_id == "done.dlq/0/0"
    assert (letter.topic, letter.offset, letter.timestamp_ms) == (TOPIC, 0, 7)
    assert (letter.key, letter.value, letter.headers) == ("bad", b"bad", {"h": b"1"})
    assert (letter.consumer, letter.error, letter.error_code) == ("worker", "no good", "invalid_argument")
    assert (letter.error_class, letter.attempts, letter.retried_ms) == ("RefusalError", 1, None)
    assert await letters.show(letter.letter_id) == letter


async def test_a_retried_record_is_as_it_was_and_is_retried_once(log: MemoryEventLog, letters: DeadLetters) -> None:
    await append(log, "bad", "worse")
    await consume(log, 2)
    (letter,) = [letter for letter in await letters.list(TOPIC) if letter.key == "bad"]
    assert keys(await letters.retry([letter.letter_id])) == ["bad"]
    assert await letters.retry([letter.letter_id]) == []
    assert keys(await letters.list(TOPIC)) == ["worse"]
    assert keys(await letters.list(TOPIC, include_retried=True)) == ["bad", "worse"]
    assert (await letters.show(letter.letter_id)).retried_ms is not None
    records = await log.consumer([TOPIC], group=None).poll(max_records=9, timeout_s=0)
    (first, again) = (record for record in records if record.key == "bad")
    assert again.headers == {"h": b"1", "dlq-attempts": b"1"}
    assert (again.value, again.timestamp_ms, again.partition) == (first.value, first.timestamp_ms, first.partition)


async def test_what_fails_again_is_a_new_letter_that_counts(log: MemoryEventLog, letters: DeadLetters) -> None:
    await append(log, "bad")
    await consume(log, 1)
    for attempts in (2, 3):
        await letters.retry([letter.letter_id for letter in await letters.list(TOPIC)])
        await consume(log, 1)
        (letter,) = await letters.list(TOPIC)
        assert (letter.key, letter.attempts, letter.headers) == ("bad", attempts, {"h": b"1"})


async def test_a_strangers_count_is_not_believed(log: MemoryEventLog, letters: DeadLetters) -> None:
    await log.producer().append([NewRecord(TOPIC, "bad", b"", {"dlq-attempts": b"many"})])
    await consume(log, 1)
    (letter,) = await letters.list(TOPIC)
    assert letter.attempts == 1


async def test_a_strangers_mark_counts_for_nothing(log: MemoryEventLog, letters: DeadLetters) -> None:
    await append(log, "bad")
    await consume(log, 1)
    for mark in (b"\xff\xfe", b"done.dlq/0/0"):
        await log.producer().append([NewRecord(TOPIC, "strange", b"", {"dlq-retried": mark})])
        # As an earlier version copied it into the letter.
        origin = {"dlq-origin-topic": TOPIC.encode(), "dlq-attempts": b"9" * 5_000, "dlq-origin-offset": b"x"}
        await log.producer().append([NewRecord(dlq(TOPIC), "old", b"", {**origin, "dlq-retried": mark})])
    await consume(log, 2)
    found = await letters.list(TOPIC)
    assert keys(found) == ["bad", "old", "old", "strange", "strange"]
    assert (await letters.show("done.dlq/0/0")).retried_ms is None
    assert len(await letters.retry([letter.letter_id for letter in found])) == 5


async def test_a_letter_that_was_cut_is_not_sent_again(log: MemoryEventLog, letters: DeadLetters) -> None:
    await log.producer().append([NewRecord(TOPIC, "cut", b"x", {"big": bytes(1 << 20)})])
    await append(log, "bad")
    await consume(log, 2)
    found = {letter.key: letter for letter in await letters.list(TOPIC)}
    assert (found["cut"].truncated, found["bad"].truncated) == ("1 of 1 headers", "")
    with pytest.raises(FailedPreconditionError, match=r"too long .*It stands in done/\d/0 "):
        await letters.retry([letter.letter_id for letter in found.values()])
    assert keys(await letters.list(TOPIC)) == ["cut"]


async def test_a_list_is_bounded_and_begins_with_the_oldest(log: MemoryEventLog, letters: DeadLetters) -> None:
    await append(log, "one")
    await consume(log, 1)
    await append(log, "two")
    await consume(log, 1)
    assert keys(await letters.list(TOPIC, limit=1)) == ["one"]
    assert await letters.list(TOPIC, limit=0) == []


async def test_what_is_not_there_is_told(log: MemoryEventLog, letters: DeadLetters) -> None:
    await append(log, "bad")
    await consume(log, 1)
    (letter,) = await letters.list(TOPIC)
    with pytest.raises(NotFoundError, match=r"done\.dlq/0/5"):
        await letters.show("done.dlq/0/5")
    with pytest.raises(NotFoundError, match=r"done\.dlq/0/5"):
        await letters.retry(["done.dlq/0/5", letter.letter_id])
    assert await letters.list(TOPIC) == []
    with pytest.raises(NotFoundError, match=r"done\.dlq/0/1"):
        await letters.show("done.dlq/0/1")  # the mark of the retry
    with pytest.raises(NotFoundError):
        await letters.list("no_such")
    for wrong in ("", "done.dlq", "done.dlq/0", "done.dlq/a/1", "/0/1"):
        with pytest.raises(InvalidArgumentError, match=r"PARTITION/OFFSET"):
            await letters.show(wrong)
