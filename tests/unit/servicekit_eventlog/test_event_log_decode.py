"""Binary protobuf or proto3 JSON, told by a header."""

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Value
from google.protobuf.wrappers_pb2 import StringValue

from servicekit.eventlog.decode import DecodeError, decode
from servicekit.eventlog.port import Record


def record(value: bytes, **headers: bytes) -> Record:
    return Record("t", 0, 0, "k", value, {name.replace("_", "-"): text for name, text in headers.items()}, 0)


def test_without_a_header_it_is_binary() -> None:
    assert decode(record(Duration(seconds=5).SerializeToString()), Duration).seconds == 5
    assert decode(record(StringValue(value="ü").SerializeToString()), StringValue).value == "ü"


@pytest.mark.parametrize("content_type", [b"application/json", b"Application/JSON; charset=utf-8"])
def test_json_is_read_by_its_mapping(content_type: bytes) -> None:
    assert decode(record(b'"5s"', content_type=content_type), Duration).seconds == 5
    assert decode(record(b'{"a": 1}', content_type=content_type), Value).struct_value["a"] == 1


@pytest.mark.parametrize("value", [b"\xff\xff", b"\x0a\x05ab"])
def test_bad_binary_is_told(value: bytes) -> None:
    with pytest.raises(DecodeError, match="StringValue"):
        decode(record(value), StringValue)


@pytest.mark.parametrize("value", [b"{", b"\xff", b'{"unknown": 1}', b"17", b'"later"'])
def test_bad_json_is_told(value: bytes) -> None:
    with pytest.raises(DecodeError, match="Duration"):
        decode(record(value, content_type=b"application/json"), Duration)
