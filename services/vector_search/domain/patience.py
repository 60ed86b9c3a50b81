"""How long the current piece of work waits for a store that does not answer, carried along in a context variable.

Requests of users have no patience: they do without. What may take its time, such as an activation, has some.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_patience_s: ContextVar[float] = ContextVar("patience", default=0.0)


def patience_s() -> float:
    """Give for how many seconds a call that fails is made again, 0 when it is not."""
    return _patience_s.get()


@contextmanager
def patient(seconds: float) -> Iterator[None]:
    """Let each call of the block be made again for so long, but never beyond the current deadline.

    For blocks whose calls to the store may all be made twice.
    """
    token = _patience_s.set(seconds)
    try:
        yield
    finally:
        _patience_s.reset(token)
