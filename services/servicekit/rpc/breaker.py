"""A circuit breaker: stops calling who failed too often just now, and finds out when it is well again."""

import time
from collections.abc import Callable
from enum import IntEnum

from servicekit import metrics
from servicekit.errors import CircuitOpenError
from servicekit.logs import get_logger


class CircuitState(IntEnum):
    """Where the circuit stands; the number is the metric's value."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class CircuitBreaker:
    """Closed: calls pass. After so many failures in a row it opens: calls fail at once. After a while one call may try.

    For one event loop. Around each call: `before_call`, then exactly one of `succeeded`, `failed` or `abandoned`.
    """

    def __init__(
        self,
        name: str,
        *,
        failure_threshold: int = 5,
        open_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._failure_threshold = failure_threshold
        self._open_s = open_s
        self._clock = clock
        self._failures = 0
        self._state = CircuitState.CLOSED
        self._opened_at = 0.0
        self._probing = False
        self._log = get_logger(__name__)
        self._gauge = metrics.CIRCUIT_STATE.labels(name)
        self._gauge.set(CircuitState.CLOSED)

    @property
    def state(self) -> CircuitState:
        """Where the circuit stands."""
        return self._state

    def before_call(self) -> None:
        """Ask whether a call may go out.

        Raises:
            CircuitOpenError: It may not; nothing was sent.
        """
        if self._state is CircuitState.CLOSED:
            return
        if self._state is CircuitState.OPEN:
            if self._clock() - self._opened_at < self._open_s:
                raise self._refusal()
            self._move(CircuitState.HALF_OPEN)
        if self._probing:
            raise self._refusal()
        self._probing = True

    def succeeded(self) -> None:
        """Record that the other side answered, be it with an error of the caller's making."""
        self._failures = 0
        if self._state is not CircuitState.CLOSED:
            self._probing = False
            self._move(CircuitState.CLOSED)

    def failed(self) -> None:
        """Record that the other side did not do its part."""
        self._failures += 1
        was_probe, self._probing = self._probing, False
        if self._state is CircuitState.OPEN:
            return  # a call from before the circuit opened
        if was_probe or self._failures >= self._failure_threshold:
            self._opened_at = self._clock()
            metrics.CIRCUIT_OPENED.labels(self._name).inc()
            self._move(CircuitState.OPEN)

    def abandoned(self) -> None:
        """Record that the call was given up before it showed anything."""
        self._probing = False

    def _move(self, state: CircuitState) -> None:
        self._log.warning("circuit moved", circuit=self._name, was=self._state.name, now=state.name)
        self._state = state
        self._gauge.set(state)

    def _refusal(self) -> CircuitOpenError:
        return CircuitOpenError(f"{self._name} failed too often just now and is not called; it is tried again soon")
