"""The moment by which the current piece of work must be done, carried along in a context variable.

The server sets it for each call, every wait and every call further down takes what is left of it. It only ever shrinks.
"""

import math
import time
from contextvars import ContextVar, Token
from types import TracebackType

from servicekit.errors import DeadlineExceededError

_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)


def remaining_s() -> float:
    """Give the seconds left, negative when the deadline has passed and infinity when there is none."""
    deadline = _deadline.get()
    return deadline if deadline == math.inf else deadline - time.monotonic()


def require(min_s: float = 0.0) -> None:
    """Refuse to begin something for which too little time is left.

    Raises:
        DeadlineExceededError: Less than `min_s` seconds are left.
    """
    left = remaining_s()
    if left < min_s or left <= 0.0:
        raise DeadlineExceededError(f"{max(left, 0.0) * 1000:.0f} ms are left and {min_s * 1000:.0f} ms are needed")


class deadline_after:  # noqa: N801 - used as a function: `with deadline_after(0.08):`
    """Give the block at most this many seconds; an earlier deadline from outside stays in force.

    It interrupts nothing: those who wait or call inside ask `remaining_s`.
    """

    __slots__ = ("_seconds", "_token")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._token: Token[float] | None = None

    def __enter__(self) -> None:
        self._token = _deadline.set(min(_deadline.get(), time.monotonic() + self._seconds))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            _deadline.reset(self._token)


def begin_deadline(seconds: float) -> None:
    """Set the deadline of the whole current task, whatever it was; for those who open a task, such as the server."""
    _deadline.set(time.monotonic() + seconds)
