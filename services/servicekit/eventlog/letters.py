"""The form of a dead letter: the record that could not be applied, cut to what a log takes, with headers of our own."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from servicekit.errors import InternalError, ServiceError
from servicekit.eventlog.port import MAX_VALUE_BYTES, NewRecord, Record
from servicekit.eventlog.topics import dlq

HEADER_PREFIX: Final = "dlq-"
"""Begins the name of every header that belongs to a letter and not to its record."""

ERROR_HEADER: Final = "dlq-error"
ERROR_CODE_HEADER: Final = "dlq-error-code"
ERROR_CLASS_HEADER: Final = "dlq-error-class"
CONSUMER_HEADER: Final = "dlq-consumer"
ATTEMPTS_HEADER: Final = "dlq-attempts"
ORIGIN_TOPIC_HEADER: Final = "dlq-origin-topic"
ORIGIN_PARTITION_HEADER: Final = "dlq-origin-partition"
ORIGIN_OFFSET_HEADER: Final = "dlq-origin-offset"
ORIGIN_TIMESTAMP_HEADER: Final = "dlq-origin-timestamp-ms"
TRUNCATED_HEADER: Final = "dlq-truncated"
"""Says which parts of the record a letter has lost; such a letter cannot be sent again."""
RETRIED_HEADER: Final = "dlq-retried"
"""On a mark: the id of the letter that was sent again."""

# A log takes MAX_VALUE_BYTES and 128 KiB for key and headers, where a key's character counts for four bytes.
_KEY_LENGTH: Final = 4_096
_HEADERS_BYTES: Final = 64 << 10
_HEADER_OVERHEAD: Final = 16
_VALUE_KEPT_BYTES: Final = 64 << 10
_ERROR_TEXT_LENGTH: Final = 2_000
_MAX_DIGITS: Final = 19
_MOST_ATTEMPTS: Final = 999_999


def number_in(headers: Mapping[str, bytes], name: str, default: int) -> int:
    """Read a number of at most 19 digits; whatever else stands there gives the default."""
    said = headers.get(name, b"")
    return int(said) if said.isdigit() and len(said) <= _MAX_DIGITS else default


def own_headers(record: Record) -> dict[str, bytes]:
    """Give the headers that are the record's and not the engine's."""
    return {name: value for name, value in record.headers.items() if not name.startswith(HEADER_PREFIX)}


def dead_letter(record: Record, error: Exception, consumer: str) -> NewRecord:
    """Make the letter of a record; what is longer than a log takes is cut, and the letter says so.

    Of the engine's headers on the record only the count of attempts is believed, as far as it is a sensible one.
    """
    before = number_in(record.headers, ATTEMPTS_HEADER, 0)
    code = error.code if isinstance(error, ServiceError) else InternalError.code
    ours = {
        ERROR_HEADER: _text((str(error) or repr(error))[:_ERROR_TEXT_LENGTH]),
        ERROR_CODE_HEADER: _text(code),
        ERROR_CLASS_HEADER: _text(type(error).__qualname__),
        ATTEMPTS_HEADER: _text(str(min(before, _MOST_ATTEMPTS) + 1)),
        CONSUMER_HEADER: _text(consumer),
        ORIGIN_TOPIC_HEADER: _text(record.topic),
        ORIGIN_PARTITION_HEADER: _text(str(record.partition)),
        ORIGIN_OFFSET_HEADER: _text(str(record.offset)),
        ORIGIN_TIMESTAMP_HEADER: _text(str(record.timestamp_ms)),
    }
    theirs = own_headers(record)
    kept = _fitting(theirs)
    key, value, cut = record.key, record.value, []
    if len(value) > MAX_VALUE_BYTES:
        cut.append(f"value of {len(value)} bytes")
        value = value[:_VALUE_KEPT_BYTES]
    if len(key) > _KEY_LENGTH:
        cut.append(f"key of {len(key)} characters")
        key = key[:_KEY_LENGTH]
    if len(kept) < len(theirs):
        cut.append(f"{len(theirs) - len(kept)} of {len(theirs)} headers")
    if cut:
        ours[TRUNCATED_HEADER] = _text(", ".join(cut))
    return NewRecord(dlq(record.topic), key, value, {**kept, **ours})


def bare(letter: NewRecord) -> NewRecord:
    """Give the letter without anything that a stranger wrote, for a log that does not take it otherwise."""
    ours = {name: value for name, value in letter.headers.items() if name.startswith(HEADER_PREFIX)}
    return replace(letter, key="", value=b"", headers={**ours, TRUNCATED_HEADER: b"everything"})


def _fitting(headers: Mapping[str, bytes]) -> dict[str, bytes]:
    """Give as many of the headers as there is room for, in their order."""
    room = _HEADERS_BYTES
    kept = {}
    for name, value in headers.items():
        size = 4 * len(name) + len(value) + _HEADER_OVERHEAD
        if size <= room:
            room -= size
            kept[name] = value
    return kept


def _text(text: str) -> bytes:
    return text.encode(errors="replace")
