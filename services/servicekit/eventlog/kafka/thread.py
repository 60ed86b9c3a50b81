"""The bridge from the driver's blocking calls to asyncio: one thread, one call after the other."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from servicekit.deadline import remaining_s
from servicekit.errors import DeadlineExceededError, FailedPreconditionError, UnavailableError
from servicekit.eventlog.kafka.errors import kafka_errors

CALL_S: Final = 10.0
"""How long a call to the cluster may take, retries and all."""

_MOST_WAITING = 1_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Call:
    work: Callable[[], Any]
    done: asyncio.Future[Any]


class DriverThread:
    """Runs blocking calls in their order; begun by the first, ended by `close`.

    A call that is given up before its turn is left out; one that has begun goes on until the driver returns, and what
    it returns goes nowhere. The outcome of calls reaches the event loop in the order of the calls.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._waiting: deque[_Call] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Put a call at the end of the queue.

        Raises:
            FailedPreconditionError: The thread is closed.
            UnavailableError: Too many calls wait already.
        """
        loop = asyncio.get_running_loop()
        call = _Call(work, loop.create_future())
        with self._wake:
            if self._closing:
                raise FailedPreconditionError("the event log is closed")
            if len(self._waiting) >= _MOST_WAITING:
                raise UnavailableError(f"{_MOST_WAITING} calls to Kafka wait already")
            self._waiting.append(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, args=(loop,), name=self._name, daemon=True)
                self._thread.start()
            self._wake.notify()
        return call.done

    async def run(self, work: Callable[[], T], *, within_s: float = CALL_S) -> T:
        """Run a call and wait for it, at most as long as the current deadline and `within_s` allow.

        Raises:
            DeadlineExceededError: The caller's own deadline passed.
            UnavailableError: It took longer than `within_s`.
        """
        left = remaining_s()
        try:
            async with asyncio.timeout(min(left, within_s)):
                return await self.submit(work)
        except TimeoutError as error:
            if left < within_s:
                raise DeadlineExceededError("Kafka did not answer before the deadline") from error
            raise UnavailableError(f"Kafka did not answer within {within_s:.0f} s") from error

    async def close(self, last: Callable[[], None], *, within_s: float = CALL_S) -> None:
        """Run one last call and end the thread; leave it behind when it takes longer than `within_s`."""
        with self._wake:
            closed_before, self._closing = self._closing, True
            loop = asyncio.get_running_loop()
            if not closed_before and self._thread is not None:
                self._waiting.append(_Call(last, loop.create_future()))
            self._wake.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, within_s)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            with self._wake:
                while not self._waiting:
                    if self._closing:
                        return
                    self._wake.wait()
                call = self._waiting.popleft()
            if call.done.cancelled():
                continue
            try:
                with kafka_errors():
                    outcome = call.work()
            except Exception as error:  # noqa: BLE001 - the caller must not wait for ever, whatever happened
                _tell(loop, call.done, None, error)
            else:
                _tell(loop, call.done, outcome, None)


def _tell(loop: asyncio.AbstractEventLoop, done: asyncio.Future[Any], outcome: Any, error: Exception | None) -> None:
    def settle() -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(outcome)

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:
        if not loop.is_closed():
            raise
