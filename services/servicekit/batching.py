"""Sends what many callers ask at the same time as one call, without making a lone caller wait."""

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Generic, Self, TypeVar

from servicekit import metrics
from servicekit.deadline import begin_deadline, remaining_s
from servicekit.errors import (
    DeadlineExceededError,
    InternalError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
)
from servicekit.logs import get_logger
from servicekit.tasks import is_being_cancelled

Q = TypeVar("Q")
R = TypeVar("R")

# So many turns of the loop bring back whoever was answered: its answer is written, its next request read and asked.
_TURNS_TO_RETURN = 3


class _Element(Generic[Q, R]):
    __slots__ = ("answer", "deadline", "query")

    def __init__(self, query: Q, deadline: float, answer: "asyncio.Future[R]") -> None:
        self.query = query
        self.deadline = deadline
        self.answer = answer


class MicroBatcher(Generic[Q, R]):
    """Collects queries and sends them in batches, in the order they came; also an async context manager.

    When nothing is in flight, what is there is sent at once; otherwise it waits until a batch returns, and goes then
    as one batch. Up to `max_in_flight` batches are under way when a full one is waiting, or when the last one left
    longer than `patience_s` ago: a slow answer to one must not hold up all. Where `share_from` wait, they are shared
    among the batches that may leave, so that one is answered while the next is worked on; and a batch that returns lets
    those whom it answered ask again before the next one leaves, so that none leaves nearly empty.

    Args:
        send: Sends one batch and gives as many results, in order; a ServiceError among them is that element's answer.
            It runs under a deadline that is the latest of its elements', and outside of any caller's context.
        name: Its name in metrics and errors.
        max_batch: The most elements of one batch.
        max_in_flight: The most batches under way at a time.
        max_queue: The most elements waiting; one more is refused.
        patience_s: How long a batch may be under way before the next one stops waiting for it.
        share_from: So many waiting are worth the price of a second call.
    """

    def __init__(
        self,
        send: Callable[[list[Q]], Awaitable[Sequence[R | ServiceError]]],
        *,
        name: str,
        max_batch: int = 64,
        max_in_flight: int = 2,
        max_queue: int = 1024,
        patience_s: float = 0.006,
        share_from: int = 32,
    ) -> None:
        self._send = send
        self._name = name
        self._max_batch = max_batch
        self._max_in_flight = max_in_flight
        self._max_queue = max_queue
        self._patience_s = patience_s
        self._share_from = share_from
        self._waiting: deque[_Element[Q, R]] = deque()
        self._senders: set[asyncio.Task[None]] = set()
        self._in_flight = 0
        self._away = 0  # those in flight that have not returned, where the others only let callers come back
        self._last_sent_at = 0.0
        self._closed = False
        self._context = contextvars.copy_context()
        self._log = get_logger(__name__)
        self._batch_size = metrics.BATCH_SIZE.labels(name)

    async def submit(self, query: Q, *, timeout_s: float) -> R:
        """Ask one thing and wait for its answer, at most `timeout_s` and what is left of the current deadline.

        Raises:
            ResourceExhaustedError: Too many are waiting already.
            DeadlineExceededError: There was no answer in time.
            UnavailableError: The batcher is closed.
            ServiceError: The element's own error, or that of its whole batch.
        """
        if self._closed:
            raise UnavailableError(f"{self._name} is closed")
        timeout_s = min(timeout_s, remaining_s())
        if timeout_s <= 0.0:
            raise self._expired()
        if len(self._waiting) >= self._max_queue:
            self._make_room()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()
        now = time.monotonic()
        self._waiting.append(_Element(query, now + timeout_s, answer))
        if not self._in_flight or (self._in_flight < self._max_in_flight and self._is_pressing(now)):
            self._last_sent_at = now
            self._start_sender(loop)
        timer = loop.call_later(timeout_s, self._expire, answer)
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled():
                answer.exception()  # cancelled in the moment of an error: nobody else will look at it
            raise
        finally:
            timer.cancel()

    async def close(self) -> None:
        """Take no more, wait for what was taken (each element has its deadline)."""
        self._closed = True
        while self._senders:
            await asyncio.wait(self._senders)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _start_sender(self, loop: asyncio.AbstractEventLoop) -> None:
        self._in_flight += 1
        sender = loop.create_task(self._send_waiting(), context=self._context.copy())
        self._senders.add(sender)
        sender.add_done_callback(self._senders.discard)

    def _is_pressing(self, now: float) -> bool:
        return len(self._waiting) >= self._max_batch or now - self._last_sent_at > self._patience_s

    def _make_room(self) -> None:
        """Forget those at the head whose callers have left; refuse when there are none."""
        while self._waiting and self._waiting[0].answer.done():
            self._drop(self._waiting.popleft())
        if len(self._waiting) >= self._max_queue:
            metrics.BATCH_DROPPED.labels(self._name, "queue_full").inc()
            raise ResourceExhaustedError(f"{self._name} has {self._max_queue} waiting; try again later")

    async def _send_waiting(self) -> None:
        """Send batch after batch until nobody waits; begins one turn of the loop later, when more may have come."""
        try:
            while batch := self._take():
                self._away += 1
                try:
                    await self._send_batch(batch)
                finally:
                    self._away -= 1
                for _ in range(_TURNS_TO_RETURN):
                    await asyncio.sleep(0)
        finally:
            # In the same step in which the queue was found empty, so that nobody can come in between.
            self._in_flight -= 1

    async def _send_batch(self, batch: list[_Element[Q, R]]) -> None:
        self._batch_size.observe(len(batch))
        begin_deadline(max(element.deadline for element in batch) - self._last_sent_at)
        try:
            results = await self._send([element.query for element in batch])
        except ServiceError as error:
            _fail(batch, error)
        except asyncio.CancelledError:
            _fail(batch, UnavailableError(f"{self._name} was stopped"))
            if is_being_cancelled():
                raise
        except Exception:  # noqa: BLE001 - logged, and each caller gets an error
            self._log.exception("a batch failed unexpectedly", batcher=self._name)
            _fail(batch, InternalError(f"{self._name} failed; its logs say why"))
        else:
            if len(results) == len(batch):
                _answer(batch, results)
            else:
                self._log.error("wrong number of results", batcher=self._name, sent=len(batch), got=len(results))
                _fail(batch, InternalError(f"{self._name} answered {len(results)} of {len(batch)} elements"))

    def _take(self) -> list[_Element[Q, R]]:
        self._last_sent_at = now = time.monotonic()
        batch: list[_Element[Q, R]] = []
        most = self._max_batch
        may_leave = self._max_in_flight - self._away
        if may_leave > 1 and len(self._waiting) >= self._share_from:
            most = min(most, -(-len(self._waiting) // may_leave))
            if self._in_flight < self._max_in_flight:
                self._start_sender(asyncio.get_running_loop())
        while self._waiting and len(batch) < most:
            element = self._waiting.popleft()
            if element.deadline <= now:
                self._expire(element.answer)
            if element.answer.done():
                self._drop(element)
            else:
                batch.append(element)
        return batch

    def _drop(self, element: _Element[Q, R]) -> None:
        reason = "cancelled" if element.answer.cancelled() else "expired"
        metrics.BATCH_DROPPED.labels(self._name, reason).inc()

    def _expire(self, answer: "asyncio.Future[R]") -> None:
        if not answer.done():
            answer.set_exception(self._expired())

    def _expired(self) -> DeadlineExceededError:
        return DeadlineExceededError(f"{self._name} did not answer in time")


def _answer(batch: list[_Element[Q, R]], results: Sequence[R | ServiceError]) -> None:
    for element, result in zip(batch, results, strict=True):
        if element.answer.done():
            continue
        if isinstance(result, ServiceError):
            element.answer.set_exception(result)
        else:
            element.answer.set_result(result)


def _fail(batch: list[_Element[Q, R]], error: ServiceError) -> None:
    for element in batch:
        if not element.answer.done():
            # Each caller gets an error of its own: a raised one collects the tracebacks of all who raise it.
            own = type(error)(error.message, field=error.field)
            own.__cause__ = error
            element.answer.set_exception(own)
