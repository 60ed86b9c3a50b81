"""The id of the request that the current task works for: it goes into every log line and every call further down."""

from contextvars import ContextVar
from random import Random

METADATA_KEY = "x-request-id"
MAX_LENGTH = 128

_request_id: ContextVar[str] = ContextVar("request_id", default="")
# Seeded by the system once: an id has to be unique, not secret, and a system call for each is dear.
_ids = Random()


def current_request_id() -> str:
    """Give the id, empty when the task works for no request."""
    return _request_id.get()


def begin_request(request_id: str = "") -> str:
    """Set the id for the current task and give it; without a usable one a new one is made."""
    if not request_id or len(request_id) > MAX_LENGTH or not request_id.isascii() or not request_id.isprintable():
        request_id = f"{_ids.getrandbits(64):016x}"
    _request_id.set(request_id)
    return request_id
