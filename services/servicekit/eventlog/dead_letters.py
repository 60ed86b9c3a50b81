"""What people do with dead letters: look through them, look at one, send them to their topic again.

A letter that was sent again stays where it is; a mark appended behind it says so. Whoever looks reads the marks first.
"""

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from servicekit.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, UnavailableError
from servicekit.eventlog.letters import (
    ATTEMPTS_HEADER,
    CONSUMER_HEADER,
    ERROR_CLASS_HEADER,
    ERROR_CODE_HEADER,
    ERROR_HEADER,
    ORIGIN_OFFSET_HEADER,
    ORIGIN_PARTITION_HEADER,
    ORIGIN_TIMESTAMP_HEADER,
    ORIGIN_TOPIC_HEADER,
    RETRIED_HEADER,
    TRUNCATED_HEADER,
    number_in,
    own_headers,
)
from servicekit.eventlog.port import EventLog, NewRecord, Offsets, Record, TopicPartition
from servicekit.eventlog.topics import dlq

_POLL_RECORDS = 500
_POLL_S = 0.2
_SILENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that a consumer could not apply.

    Args:
        letter_id: Names the letter: `TOPIC.dlq/PARTITION/OFFSET`.
        topic: Where the record came from.
        partition: Its partition there.
        offset: Its offset there.
        timestamp_ms: The record's own time.
        key: The record's key.
        value: The record's value.
        headers: The record's own headers.
        consumer: Who could not apply it.
        error: What was wrong, for people.
        error_code: The code of the error.
        error_class: The class of the error.
        attempts: How often it was put aside, this time included.
        put_aside_ms: When it was put aside.
        retried_ms: When it was last sent to its topic again; None when it was not.
        truncated: Which parts of the record were too long to be kept; empty when it is whole.
    """

    letter_id: str
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: str
    value: bytes
    headers: Mapping[str, bytes]
    consumer: str
    error: str
    error_code: str
    error_class: str
    attempts: int
    put_aside_ms: int
    retried_ms: int | None = None
    truncated: str = ""


class DeadLetters:
    """The dead letters of a log; used by one task at a time.

    Args:
        log: Where they lie; its life belongs to the caller.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log

    async def list(self, topic: str, *, include_retried: bool = False, limit: int = 100) -> Sequence[DeadLetter]:
        """Give the letters of a topic, the oldest first.

        Args:
            topic: The topic that the records came from, not that of the letters.
            include_retried: Whether to give those too that were sent again.
            limit: The most letters to give.

        Raises:
            NotFoundError: There is no such topic.
            UnavailableError: The log cannot be read now.
        """
        name = dlq(topic)
        retried = await self._retried(name)
        found: list[DeadLetter] = []
        async with aclosing(self._read(name, await self._log.begin_offsets([name]))) as records:
            async for record in records:
                if len(found) >= limit:
                    break
                if _is_letter(record) and (include_retried or _letter_id(record) not in retried):
                    found.append(_letter(record, retried))
        return found

    async def show(self, letter_id: str) -> DeadLetter:
        """Give one letter.

        Raises:
            InvalidArgumentError: This is no letter's id.
            NotFoundError: There is no such letter, or no longer.
            UnavailableError: The log cannot be read now.
        """
        place = _parse(letter_id)
        retried = await self._retried(place.partition.topic)
        async with aclosing(self._read_places([place])) as records:
            async for record in records:
                return _letter(record, retried)
        raise _not_found([letter_id])

    async def retry(self, letter_ids: Collection[str]) -> Sequence[DeadLetter]:
        """Append the records of these letters to their topics again, and give the letters that were.

        A letter that was sent again before is left out, so doing it twice does it once. A failure in the middle may
        leave a record in its topic without a mark; sending it once more is harmless, since effects are idempotent.

        Raises:
            InvalidArgumentError: One of the ids is no letter's; nothing was appended.
            FailedPreconditionError: Some of the letters hold only a part of their record; the others were appended.
            NotFoundError: Some of the letters are not there, or no longer; the others were appended.
            UnavailableError: The log cannot be read or written now.
        """
        by_topic: dict[str, dict[str, _Place]] = {}
        for letter_id in letter_ids:
            place = _parse(letter_id)
            by_topic.setdefault(place.partition.topic, {})[letter_id] = place
        producer = self._log.producer()
        sent = []
        missing: set[str] = set()
        partial: list[DeadLetter] = []
        for name, places in by_topic.items():
            retried = await self._retried(name)
            waiting = {letter_id: place for letter_id, place in places.items() if letter_id not in retried}
            missing |= waiting.keys()
            async with aclosing(self._read_places(waiting.values())) as records:
                async for record in records:
                    letter = _letter(record, retried)
                    missing.discard(letter.letter_id)
                    if letter.truncated:
                        partial.append(letter)
                        continue
                    await producer.append(_again(letter, name))
                    sent.append(letter)
        if missing:
            raise _not_found(missing)
        if partial:
            raise _partial(partial)
        return sent

    async def _retried(self, name: str) -> Mapping[str, int]:
        """Give when each letter that was sent again was, by the letter's id."""
        async with aclosing(self._read(name, await self._log.begin_offsets([name]))) as records:
            return {
                record.headers[RETRIED_HEADER].decode(errors="replace"): record.timestamp_ms
                async for record in records
                if RETRIED_HEADER in record.headers and not _is_letter(record)
            }

    async def _read_places(self, places: Collection["_Place"]) -> AsyncGenerator[Record, None]:
        """Read the letters that stand at these places of one topic."""
        first: dict[TopicPartition, int] = {}
        for place in places:
            first[place.partition] = min(place.offset, first.get(place.partition, place.offset))
        wanted = set(places)
        for name in {place.partition.topic for place in places}:
            start = {**await self._log.end_offsets([name]), **first}
            async with aclosing(self._read(name, start)) as records:
                async for record in records:
                    place = _Place(TopicPartition(record.topic, record.partition), record.offset)
                    if place in wanted:
                        wanted.discard(place)
                        if _is_letter(record):
                            yield record
                    if not wanted:
                        return

    async def _read(self, name: str, start: Offsets) -> AsyncGenerator[Record, None]:
        """Read a topic from these offsets up to what is its end now."""
        ends = await self._log.end_offsets([name])
        consumer = self._log.consumer([name], group=None, start=start)
        try:
            loop = asyncio.get_running_loop()
            give_up = loop.time() + _SILENCE_S
            while any(consumer.position().get(where, 0) < end for where, end in ends.items()):
                records = await consumer.poll(max_records=_POLL_RECORDS, timeout_s=_POLL_S)
                for record in records:
                    if record.offset < ends[TopicPartition(record.topic, record.partition)]:
                        yield record
                if records:
                    give_up = loop.time() + _SILENCE_S
                elif loop.time() > give_up:
                    raise UnavailableError(f"{name} has more records, and none came for {_SILENCE_S:.0f} s")
        finally:
            await consumer.close()


@dataclass(frozen=True, slots=True)
class _Place:
    partition: TopicPartition
    offset: int


def _is_letter(record: Record) -> bool:
    return ORIGIN_TOPIC_HEADER in record.headers


def _letter_id(record: Record) -> str:
    return f"{record.topic}/{record.partition}/{record.offset}"


def _parse(letter_id: str) -> _Place:
    topic, _, rest = letter_id.partition("/")
    partition, _, offset = rest.partition("/")
    if not (topic and partition.isdecimal() and offset.isdecimal()):
        raise InvalidArgumentError(f"{letter_id!r} is no TOPIC.dlq/PARTITION/OFFSET", field="letter_id")
    return _Place(TopicPartition(topic, int(partition)), int(offset))


def _not_found(letter_ids: Collection[str]) -> NotFoundError:
    return NotFoundError(f"there is no dead letter {', '.join(sorted(letter_ids))}; `list` shows those there are")


def _partial(letters: Sequence[DeadLetter]) -> FailedPreconditionError:
    first = letters[0]
    return FailedPreconditionError(
        f"{', '.join(letter.letter_id for letter in letters)} cannot be sent again: the record was too long to be kept"
        f" whole ({first.truncated}). It stands in {first.topic}/{first.partition}/{first.offset} for as long as the"
        " topic keeps it; send what it means anew, in records of at most 1 MiB"
    )


def _again(letter: DeadLetter, name: str) -> Sequence[NewRecord]:
    """Give the record as it was, but for the count of attempts, and the mark for the topic of the letters."""
    headers = {**letter.headers, ATTEMPTS_HEADER: str(letter.attempts).encode()}
    return (
        NewRecord(letter.topic, letter.key, letter.value, headers, letter.timestamp_ms),
        NewRecord(name, letter.key, b"", {RETRIED_HEADER: letter.letter_id.encode()}),
    )


def _letter(record: Record, retried: Mapping[str, int]) -> DeadLetter:
    def said(header: str, default: str) -> str:
        return record.headers.get(header, default.encode()).decode(errors="replace")

    return DeadLetter(
        letter_id=_letter_id(record),
        topic=said(ORIGIN_TOPIC_HEADER, ""),
        partition=number_in(record.headers, ORIGIN_PARTITION_HEADER, 0),
        offset=number_in(record.headers, ORIGIN_OFFSET_HEADER, 0),
        timestamp_ms=number_in(record.headers, ORIGIN_TIMESTAMP_HEADER, 0),
        key=record.key,
        value=record.value,
        headers=own_headers(record),
        consumer=said(CONSUMER_HEADER, ""),
        error=said(ERROR_HEADER, ""),
        error_code=said(ERROR_CODE_HEADER, ""),
        error_class=said(ERROR_CLASS_HEADER, ""),
        attempts=number_in(record.headers, ATTEMPTS_HEADER, 1),
        put_aside_ms=record.timestamp_ms,
        retried_ms=retried.get(_letter_id(record)),
        truncated=said(TRUNCATED_HEADER, ""),
    )
