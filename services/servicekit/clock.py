"""Time as a parameter."""

import time
from typing import Protocol


class Clock(Protocol):
    """Where a component asks what time it is."""

    def now_ms(self) -> int:
        """Give Unix time in milliseconds."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_ms(self) -> int:
        """Give Unix time in milliseconds."""
        return time.time_ns() // 1_000_000


class ManualClock:
    """A clock that moves only when told to."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        """Give the time last set."""
        return self._now_ms

    def advance(self, milliseconds: int) -> None:
        """Move the time on."""
        self._now_ms += milliseconds
