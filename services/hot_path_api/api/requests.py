"""Reads what a client sent: headers, query string, body; refuses what is malformed and names the field."""

import json
import re
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from hot_path_api.api.problems import (
    BODY,
    BodyTooLargeError,
    FieldError,
    InvalidRequestError,
    MalformedBodyError,
    UnsupportedEncodingError,
    field_errors,
)
from servicekit.errors import InvalidArgumentError

MAX_BODY_BYTES = 1 << 20
MAX_BULK_BODY_BYTES = 16 << 20
_MAX_QUERY_BYTES = 32 << 10
_LONGEST_WHOLE = 20
NO_TEXT = object()
"""Stands for a text that is no Unicode; of no type that a field takes."""
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")

M = TypeVar("M", bound=BaseModel)


class Call(Request):
    """A request after the edge has looked at it."""

    @property
    def request_id(self) -> str:
        """The id that the client sent or the edge made."""
        request_id: str = self.scope["request_id"]
        return request_id

    @property
    def tenant(self) -> str:
        """The tenant whose key the client showed."""
        tenant: str = self.scope["tenant"]
        return tenant

    @property
    def idempotency_key(self) -> str:
        """What the client calls this write, empty when it does not.

        Raises:
            InvalidArgumentError: The header is not 1 to 255 printable ASCII characters.
        """
        key = self.headers.get("idempotency-key", "")
        if key and not _IDEMPOTENCY_KEY.fullmatch(key):
            raise InvalidArgumentError(
                "the Idempotency-Key header takes 1 to 255 printable ASCII characters", field="Idempotency-Key"
            )
        return key


def read_query(call: Call, model: type[M]) -> M:
    """Read the query string into a model, whose list fields are the parameters that may be repeated.

    Raises:
        InvalidRequestError: A parameter is unknown, repeated, malformed or out of range.
    """
    raw: bytes = call.scope["query_string"]
    values: dict[str, Any] = {}
    if raw:
        if len(raw) > _MAX_QUERY_BYTES:
            raise InvalidArgumentError(f"the query string is longer than {_MAX_QUERY_BYTES} bytes", field="query")
        for part in raw.split(b"&"):
            if part:
                name, _, value = part.partition(b"=")
                _add(values, _text(name, name), _text(value, name), model)
    return validate(model, values)


def validate(model: type[M], values: Any, *, prefix: str = "") -> M:
    """Check parsed values.

    Raises:
        InvalidRequestError: They are not what the model wants; names the fields.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InvalidRequestError(field_errors(error, prefix=prefix, whole=BODY)) from error


async def read_json(call: Call, *, max_bytes: int = MAX_BODY_BYTES) -> tuple[Any, bytes]:
    """Read the body as JSON, and give the bytes too.

    Raises:
        BodyTooLargeError: It is longer than allowed.
        MalformedBodyError: It is no JSON.
    """
    body = await _read_body(call, max_bytes)
    try:
        return orjson.loads(body), body
    except orjson.JSONDecodeError as error:
        try:
            return _read_leniently(body), body
        except (ValueError, RecursionError):
            raise MalformedBodyError(f"the body is not JSON: {error}", field=BODY) from error


def _read_leniently(body: bytes) -> Any:
    """Read what many writers take for JSON, so that the field at fault can be named and the others of a bulk go in.

    Those are NaN and the infinities, numbers beyond a double, which become infinite, and texts with halves of surrogate
    pairs, which become something that no field takes.
    """
    return _without_halves(json.loads(body.decode(), parse_int=_whole_number))


def _whole_number(digits: str) -> float:
    return int(digits) if len(digits) <= _LONGEST_WHOLE else float(digits)


def _without_halves(value: Any) -> Any:
    if isinstance(value, str):
        return value if _is_whole(value) else NO_TEXT
    if isinstance(value, list):
        return [_without_halves(each) for each in value]
    if isinstance(value, dict):
        return {
            name.encode(errors="replace").decode(): _without_halves(each) if _is_whole(name) else NO_TEXT
            for name, each in value.items()
        }
    return value


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _add(values: dict[str, Any], name: str, value: str, model: type[BaseModel]) -> None:
    if name in _repeatable(model):
        values.setdefault(name, []).append(value)
    elif name in values:
        raise InvalidRequestError([FieldError(name, "the parameter is given twice")])
    else:
        values[name] = value


@lru_cache
def _repeatable(model: type[BaseModel]) -> frozenset[str]:
    return frozenset(name for name, field in model.model_fields.items() if field.json_schema_extra == REPEATABLE)


REPEATABLE: dict[str, Any] = {"explode": True}
"""Marks a field of a query model as one that may be given several times."""


def _text(quoted: bytes, name: bytes) -> str:
    try:
        if b"%" in quoted or b"+" in quoted:
            return unquote_to_bytes(quoted.replace(b"+", b" ")).decode()
        return quoted.decode()
    except UnicodeDecodeError as error:
        shown = name.decode("ascii", "replace")
        raise InvalidRequestError([FieldError(shown, "the value is no UTF-8 text")]) from error


async def _read_body(call: Call, max_bytes: int) -> bytes:
    encoding = call.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedEncodingError(
            f"the body is sent as {encoding[:40]!r}; send it as it is", field="Content-Encoding"
        )
    declared = call.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes)
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in call.stream():
            size += len(chunk)
            if size > max_bytes:
                raise _too_large(max_bytes)
            chunks.append(chunk)
    except ClientDisconnect as error:
        raise MalformedBodyError("the body ended before its end", field=BODY) from error
    return b"".join(chunks)


def _too_large(max_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"the body is longer than {max_bytes} bytes, the most that this route takes", field=BODY)
