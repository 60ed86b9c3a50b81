"""Every record has a letter that a log takes, whatever a stranger put into it."""

import pytest

from servicekit.errors import InvalidArgumentError
from servicekit.eventlog.kafka import producer as kafka_producer
from servicekit.eventlog.letters import TRUNCATED_HEADER, bare, dead_letter
from servicekit.eventlog.port import MAX_VALUE_BYTES, NewRecord, Record

MIB = 1 << 20


def letter_of(key: str = "k", value: bytes = b"v", headers: dict[str, bytes] | None = None) -> NewRecord:
    record = Record("t", 0, 0, key, value, headers or {}, 7)
    return dead_letter(record, InvalidArgumentError("\N{SNOWMAN}" * 3_000), "worker")


@pytest.mark.parametrize(
    ("key", "value", "headers", "cut"),
    [
        ("k", bytes(3 * MIB), {}, b"value of 3145728 bytes"),
        ("k", bytes(MIB + 1), {}, b"value of 1048577 bytes"),
        ("k" * MIB, bytes(MIB), {}, b"key of 1048576 characters"),
        ("k", bytes(MIB), {"big": bytes(MIB), "small": b"1"}, b"1 of 2 headers"),
        ("k", bytes(MIB), {str(n): b"" for n in range(100_000)}, None),
        ("\N{SNOWMAN}" * 4_096, bytes(MIB), {"big": bytes(65_000)}, b""),
    ],
)
def test_what_is_too_long_is_cut_and_the_letter_says_so(
    key: str, value: bytes, headers: dict[str, bytes], cut: bytes | None
) -> None:
    letter = letter_of(key, value, headers)
    assert len(letter.value) <= MAX_VALUE_BYTES
    assert kafka_producer._size([letter]) > 0
    assert cut is None or letter.headers.get(TRUNCATED_HEADER, b"") == cut
    wire = sum(len(name.encode()) + len(value) + 8 for name, value in letter.headers.items())
    assert wire + len(letter.key.encode()) < 128 << 10


def test_a_letter_without_its_record_keeps_where_it_came_from() -> None:
    letter = bare(letter_of(headers={"theirs": b"1"}))
    assert (letter.key, letter.value) == ("", b"")
    assert "theirs" not in letter.headers
    assert letter.headers["dlq-origin-topic"] == b"t"
    assert letter.headers[TRUNCATED_HEADER] == b"everything"


def test_a_strangers_headers_of_our_names_are_left_out() -> None:
    strange = {"dlq-retried": b"\xff\xfe", "dlq-truncated": b"x", "dlq-other": b"1", "dlq-attempts": b"9" * 5_000}
    letter = letter_of(headers={**strange, "own": b"1"})
    assert letter.headers["dlq-attempts"] == b"1"
    assert letter.headers["own"] == b"1"
    assert not {"dlq-retried", "dlq-truncated", "dlq-other"} & letter.headers.keys()


@pytest.mark.parametrize(("said", "counts"), [(b"2", b"3"), ("²".encode(), b"1"), (b"-1", b"1"), (b"", b"1")])
def test_only_a_sensible_count_of_attempts_is_believed(said: bytes, counts: bytes) -> None:
    assert letter_of(headers={"dlq-attempts": said}).headers["dlq-attempts"] == counts


def test_an_error_that_no_encoding_knows_is_written_all_the_same() -> None:
    letter = dead_letter(Record("t", 0, 0, "k", b"", {}, 7), ValueError("\ud800"), "worker")
    assert letter.headers["dlq-error"] == b"?"
