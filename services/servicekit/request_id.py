"""The id of the request that the current task works for: it goes into every log line and every call further down."""

import secrets
from contextvars import ContextVar

METADATA_KEY = "x-request-id"
MAX_LENGTH = 128

_request_id: ContextVar[str] = ContextVar("request_id", default="")


def current_request_id() -> str:
    """Give the id, empty when the task works for no request."""
    return _request_id.get()


def begin_request(request_id: str = "") -> str:
    """Set the id for the current task and give it; without a usable one a new one is made."""
    if not request_id or len(request_id) > MAX_LENGTH or not request_id.isascii() or not request_id.isprintable():
        request_id = secrets.token_hex(8)
    _request_id.set(request_id)
    return request_id
