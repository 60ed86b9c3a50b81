"""Turns a record's value into the protobuf message that its topic carries."""

from typing import TypeVar

from google.protobuf.json_format import Parse, ParseError
from google.protobuf.message import DecodeError as WireError
from google.protobuf.message import Message

from servicekit.errors import InvalidArgumentError
from servicekit.eventlog.port import Record

CONTENT_TYPE_HEADER = "content-type"
JSON_CONTENT_TYPE = b"application/json"

M = TypeVar("M", bound=Message)


class DecodeError(InvalidArgumentError):
    """The value is not the message that its topic carries."""


def decode(record: Record, message_type: type[M]) -> M:
    """Read proto3 JSON when the header `content-type` says application/json, binary protobuf otherwise.

    JSON is written by hand, so an unknown field in it is an error and not a message from the future.

    Raises:
        DecodeError: It cannot be read.
    """
    message = message_type()
    content_type = record.headers.get(CONTENT_TYPE_HEADER, b"").partition(b";")[0].strip().lower()
    try:
        if content_type == JSON_CONTENT_TYPE:
            Parse(record.value, message)
        else:
            message.ParseFromString(record.value)
    except (ParseError, WireError, UnicodeDecodeError) as error:
        raise DecodeError(f"the value is no {message.DESCRIPTOR.full_name}: {error}") from error
    return message
