"""The micro-batcher: what is sent when, in which order, and who hears of which failure."""

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from servicekit.batching import MicroBatcher
from servicekit.deadline import begin_deadline, deadline_after, remaining_s
from servicekit.errors import (
    CircuitOpenError,
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
)
from servicekit.request_id import begin_request, current_request_id
from servicekit.testing import eventually


class Sender:
    """Takes batches, and answers each when the test says so."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.deadlines: list[float] = []
        self.request_ids: list[str] = []
        self._answers: list[asyncio.Future[Sequence[Any]]] = []

    async def send(self, batch: list[int]) -> Sequence[Any]:
        self.batches.append(batch)
        self.deadlines.append(remaining_s())
        self.request_ids.append(current_request_id())
        answer: asyncio.Future[Sequence[Any]] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        return await answer

    def answer(self, number: int, results: Sequence[Any] | None = None) -> None:
        """Answer a batch, by default each query with its negative."""
        self._answers[number].set_result([-query for query in self.batches[number]] if results is None else results)

    def fail(self, number: int, error: BaseException) -> None:
        self._answers[number].set_exception(error)


@pytest.fixture
def sender() -> Sender:
    return Sender()


def submit_all(
    batcher: MicroBatcher[int, int], queries: Sequence[int], *, timeout_s: float = 5.0
) -> list[asyncio.Task[int]]:
    return [asyncio.create_task(batcher.submit(query, timeout_s=timeout_s)) for query in queries]


async def turns(count: int = 5) -> None:
    """Let everything that can run do so."""
    for _ in range(count):
        await asyncio.sleep(0)


def dropped(reason: str) -> float:
    return REGISTRY.get_sample_value("batch_dropped_total", {"batcher": "test", "reason": reason}) or 0.0


async def test_a_lone_query_goes_at_once(sender: Sender) -> None:
    batcher = MicroBatcher[int, int](sender.send, name="test")
    (one,) = submit_all(batcher, [1])
    await turns()
    assert sender.batches == [[1]]
    sender.answer(0)
    assert await one == -1
    await batcher.close()


async def test_queries_of_the_same_moment_go_together(sender: Sender) -> None:
    batcher = MicroBatcher[int, int](sender.send, name="test")
    asked = submit_all(batcher, [1, 2, 3])
    await turns()
    assert sender.batches == [[1, 2, 3]]
    sender.answer(0)
    assert await asyncio.gather(*asked) == [-1, -2, -3]
    await batcher.close()


async def test_what_comes_meanwhile_waits_for_the_return_and_goes_as_one(sender: Sender) -> None:
    batcher = MicroBatcher[int, int](sender.send, name="test", patience_s=60.0)
    asked = submit_all(batcher, [1])
    await turns()
    for query in (2, 3, 4):
        asked += submit_all(batcher, [query])
        await turns()
    assert sender.batches == [[1]]
    sender.answer(0)
    await turns()
    assert sender.batches == [[1], [2, 3, 4]]
    sender.answer(1)
    assert await asyncio.gather(*asked) == [-1, -2, -3, -4]
    await batcher.close()


async def test_a_full_batch_does_not_wait_and_batches_in_flight_are_bounded(sender: Sender) -> None:
    batcher = MicroBatcher[int, int](sender.send, name="test", max_batch=3, max_in_flight=2, patience_s=60.0)
    asked = submit_all(batcher, [1])
    await turns()
    asked += submit_all(batcher, [2, 3])
    await turns()
    assert sender.batches == [[1]]
    asked += submit_all(batcher, [4, 5, 6, 7, 8])
    await turns()
    assert sender.batches == [[1], [2, 3, 4]]
    sender.answer(1)
    await turns()
    assert sender.batches[2:] == [[5, 6, 7]]
    sender.answer(0)
    await turns()
    assert sender.batches[3:] == [[8]]
    sender.answer(2)
    sender.answer(3)
    assert await asyncio.gather(*asked) == [-number for number in range(1, 9)]
    await batcher.close()


async def test_a_slow_batch_is_not_waited_for_beyond_patience(sender: Sender) -> None:
    batcher = MicroBatcher[int, int](sender.send, name="test", max_in_flight=2, patience_s=0.02)
    asked = submit_all(batcher, [1])
    await asyncio.sleep(0.03)
    asked += submit_all(batcher, [2])
    await turns()
    assert sender.batches == [[1], [2]]
    await asyncio.sleep(0.03)
    asked += submit_all(batcher, [3])  # two are under way: no more
    await turns()
    assert sender.batches == [[1], [2]]
    sender.answer(1)
    await turns()
    assert sender.batches == [[1], [2], [3]]
    sender.answer(0)
    sender.answer(2)
    assert await asyncio.gather(*asked) == [-1, -2, -3]
    await batcher.close()


async def test_many_are_shared_among_the_batches_that_may_leave(sender: Sender) -> None:
    batcher = MicroBatcher[int, int](sender.send, name="test", max_in_flight=2, patience_s=60.0, share_from=6)
    asked = submit_all(batcher, range(7))
    await turns()
    assert sender.batches == [[0, 1, 2, 3], [4, 5, 6]]
    asked += submit_all(batcher, range(7, 14))
    await turns()
    sender.answer(0)  # the other one is still away: what waits goes as one
    await turns(10)
    assert sender.batches[2:] == [list(range(7, 14))]
    sender.answer(1)
    sender.answer(2)
    assert await asyncio.gather(*asked) == [-number for number in range(14)]
    await batcher.close()


async def test_those_just_answered_may_ask_again_before_the_next_batch_leaves(sender: Sender) -> None:
    batcher = MicroBatcher[int, int](sender.send, name="test", patience_s=60.0)

    async def ask_twice(number: int) -> int:
        await batcher.submit(number, timeout_s=5.0)
        await asyncio.sleep(0)  # its answer is written, and its next request read
        return await batcher.submit(number + 10, timeout_s=5.0)

    asked = [asyncio.create_task(ask_twice(number)) for number in range(3)]
    await turns()
    late = submit_all(batcher, [5])
    await turns()
    sender.answer(0)
    await turns(10)
    assert sender.batches == [[0, 1, 2], [5, 10, 11, 12]]
    sender.answer(1)
    assert await asyncio.gather(*asked, *late) == [-10, -11, -12, -5]
    await batcher.close()


async def test_one_in_flight_stays_one(sender: Sender) -> None:
    batcher = MicroBatcher[int, int](sender.send, name="test", max_batch=2, max_in_flight=1, patience_s=0.0)
    asked = submit_all(batcher, range(6))
    await turns()
    for number in range(3):
        assert len(sender.batches) == number + 1
        sender.answer(number)
        await turns()
    assert await asyncio.gather(*asked) == [-number for number in range(6)]
    await batcher.close()


async def test_it_goes_on_after_a_pause(sender: Sender) -> None:
    batcher = MicroBatcher[int, int](sender.send, name="test")
    for number in range(3):
        (one,) = submit_all(batcher, [number])
        await turns()
        sender.answer(number)
        assert await one == -number
        await turns()
    assert sender.batches == [[0], [1], [2]]
    await batcher.close()


async def test_a_query_in_the_moment_of_the_return_is_not_forgotten(sender: Sender) -> None:
    batcher = MicroBatcher[int, int](sender.send, name="test")
    for number in range(20):
        (one,) = submit_all(batcher, [number])
        await turns(8)
        sender.answer(number)
        for _ in range(number % 4):
            await asyncio.sleep(0)
    await turns()
    assert [query for batch in sender.batches for query in batch] == list(range(20))
    assert await one == -19
    await batcher.close()


async def test_the_next_caller_may_ask_in_the_callback_of_the_answer() -> None:
    async def send(batch: list[int]) -> list[int]:
        return batch

    async def ask_in_turn(batcher: MicroBatcher[int, int]) -> list[int]:
        return [await batcher.submit(number, timeout_s=1.0) for number in range(200)]

    async with MicroBatcher(send, name="test") as batcher:
        assert await asyncio.gather(*(ask_in_turn(batcher) for _ in range(3))) == [list(range(200))] * 3


async def test_an_elements_error_reaches_its_caller_only(sender: Sender) -> None:
    batcher = MicroBatcher[int, int](sender.send, name="test")
    first, second, third = submit_all(batcher, [1, 2, 3])
    await turns()
    sender.answer(0, [10, InvalidArgumentError("bad", field="query"), 30])
    assert (await first, await third) == (10, 30)
    with pytest.raises(InvalidArgumentError, match="bad") as raised:
        await second
    assert raised.value.field == "query"
    await batcher.close()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UnavailableError("down"), UnavailableError),
        (CircuitOpenError("open"), CircuitOpenError),
        (NotFoundError("no such batch", field="x"), NotFoundError),
        (KeyError("bug"), InternalError),
        (asyncio.CancelledError(), UnavailableError),
    ],
)
async def test_a_failed_batch_fails_its_elements_and_no_others(
    sender: Sender, error: BaseException, kind: type[ServiceError]
) -> None:
    batcher = MicroBatcher[int, int](sender.send, name="test", patience_s=60.0)
    failing = submit_all(batcher, [1, 2, 3])
    await turns()
    fine = submit_all(batcher, [4, 5])
    await turns()
    with capture_logs():
        sender.fail(0, error)
        outcomes = await asyncio.gather(*failing, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [kind] * 3
    assert len({id(outcome) for outcome in outcomes}) == 3
    if isinstance(error, ServiceError):
        assert {(str(outcome), getattr(outcome, "field", None)) for outcome in outcomes} == {
            (error.message, error.field)
        }
    await eventually(lambda: len(sender.batches) == 2)
    sender.answer(1)
    assert await asyncio.gather(*fine) == [-4, -5]
    await batcher.close()


async def test_a_bug_in_the_sender_is_logged(sender: Sender) -> None:
    batcher = MicroBatcher[int, int](sender.send, name="test")
    (one,) = submit_all(batcher, [1])
    await turns()
    with capture_logs() as logs:
        sender.fail(0, KeyError("bug"))
        with pytest.raises(InternalError):
            await one
    assert [line["event"] for line in logs] == ["a batch failed unexpectedly"]
    await batcher.close()


@pytest.mark.parametrize("results", [[], [1], [1, 2, 3]])
async def test_a_wrong_number_of_results_is_nobodys_answer(sender: Sender, results: list[int]) -> None:
    batcher = MicroBatcher[int, int](sender.send, name="test")
    asked = submit_all(batcher, [1, 2])
    await turns()
    sender.answer(0, results)
    for one in asked:
        with pytest.raises(InternalError, match=f"{len(results)} of 2"):
            await one
    await batcher.close()


async def test_a_full_queue_refuses_at_once(sender: Sender) -> None:
    batcher = MicroBatcher[int, int](sender.send, name="test", max_queue=2, patience_s=60.0)
    before = dropped("queue_full")
    asked = submit_all(batcher, [1])
    await turns()
    asked += submit_all(batcher, [2, 3])
    await turns()
    started = time.monotonic()
    with pytest.raises(ResourceExhaustedError, match="2 waiting"):
        await batcher.submit(4, timeout_s=5.0)
    assert time.monotonic() - started < 1.0
    assert dropped("queue_full") == before + 1
    sender.answer(0)
    await turns()
    sender.answer(1)
    assert await asyncio.gather(*asked) == [-1, -2, -3]
    await batcher.close()


async def test_those_who_left_make_room(sender: Sender) -> None:
    batcher = MicroBatcher[int, int](sender.send, name="test", max_queue=2, patience_s=60.0)
    first = submit_all(batcher, [1])
    await turns()
    left = submit_all(batcher, [2, 3])
    await turns()
    left[0].cancel()
    await turns()
    second = submit_all(batcher, [4])
    await turns()
    sender.answer(0)
    await turns()
    assert sender.batches == [[1], [3, 4]]
    sender.answer(1)
    assert await asyncio.gather(*first, left[1], *second) == [-1, -3, -4]
    await batcher.close()


async def test_the_late_and_the_cancelled_are_not_sent(sender: Sender) -> None:
    batcher = MicroBatcher[int, int](sender.send, name="test", patience_s=60.0)
    expired_before, cancelled_before = dropped("expired"), dropped("cancelled")
    (first,) = submit_all(batcher, [1])
    await turns()
    (late,) = submit_all(batcher, [2], timeout_s=0.01)
    (cancelled,) = submit_all(batcher, [3])
    (patient,) = submit_all(batcher, [4])
    await turns()
    cancelled.cancel()
    with pytest.raises(DeadlineExceededError):
        await late
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    sender.answer(0)
    await turns()
    assert sender.batches == [[1], [4]]
    sender.answer(1)
    assert (await first, await patient) == (-1, -4)
    assert dropped("expired") == expired_before + 1
    assert dropped("cancelled") == cancelled_before + 1
    await batcher.close()


async def test_a_late_answer_is_too_late_for_one_and_good_for_the_other(sender: Sender) -> None:
    batcher = MicroBatcher[int, int](sender.send, name="test")
    (hasty,) = submit_all(batcher, [1], timeout_s=0.02)
    (patient,) = submit_all(batcher, [2], timeout_s=5.0)
    with pytest.raises(DeadlineExceededError):
        await hasty
    sender.answer(0)
    assert await patient == -2
    await batcher.close()


async def test_elements_expire_even_when_the_loop_was_busy(sender: Sender) -> None:
    batcher = MicroBatcher[int, int](sender.send, name="test")
    (one,) = submit_all(batcher, [1], timeout_s=0.005)
    (two,) = submit_all(batcher, [2], timeout_s=5.0)
    asyncio.get_running_loop().call_soon(time.sleep, 0.02)  # before the sender's turn and before any timer
    await turns()
    assert sender.batches == [[2]]
    with pytest.raises(DeadlineExceededError):
        await one
    sender.answer(0)
    assert await two == -2
    await batcher.close()


async def test_without_time_nothing_is_sent(sender: Sender) -> None:
    batcher = MicroBatcher[int, int](sender.send, name="test")
    with pytest.raises(DeadlineExceededError):
        await batcher.submit(1, timeout_s=0.0)
    with deadline_after(-1.0), pytest.raises(DeadlineExceededError):
        await batcher.submit(1, timeout_s=5.0)
    assert sender.batches == []
    await batcher.close()


async def test_the_callers_deadline_counts(sender: Sender) -> None:
    batcher = MicroBatcher[int, int](sender.send, name="test")
    started = time.monotonic()
    with deadline_after(0.02), pytest.raises(DeadlineExceededError):
        await batcher.submit(1, timeout_s=5.0)
    assert time.monotonic() - started < 1.0
    sender.answer(0)
    await batcher.close()


async def test_a_batch_has_the_latest_deadline_of_its_elements_and_no_callers_context(sender: Sender) -> None:
    async def ask(batcher: MicroBatcher[int, int], query: int, deadline_s: float) -> int:
        begin_request(f"req-{query}")
        begin_deadline(deadline_s)
        return await batcher.submit(query, timeout_s=60.0)

    batcher = MicroBatcher[int, int](sender.send, name="test")
    asked = [
        asyncio.create_task(ask(batcher, query, deadline_s)) for query, deadline_s in ((1, 1.0), (2, 9.0), (3, 2.0))
    ]
    await turns()
    later = asyncio.create_task(ask(batcher, 4, 3.0))
    await turns()
    sender.answer(0)
    await turns()
    sender.answer(1)
    assert await asyncio.gather(*asked, later) == [-1, -2, -3, -4]
    assert 8.5 < sender.deadlines[0] <= 9.0
    assert 2.5 < sender.deadlines[1] <= 3.0
    assert sender.request_ids == ["", ""]
    await batcher.close()


async def test_closing_finishes_what_was_taken_and_takes_no_more(sender: Sender) -> None:
    batcher = MicroBatcher[int, int](sender.send, name="test", patience_s=60.0)
    asked = submit_all(batcher, [1])
    await turns()
    asked += submit_all(batcher, [2])
    await turns()
    closing = asyncio.create_task(batcher.close())
    await turns()
    with pytest.raises(UnavailableError, match="closed"):
        await batcher.submit(3, timeout_s=1.0)
    sender.answer(0)
    await turns()
    assert not closing.done()
    sender.answer(1)
    await closing
    assert await asyncio.gather(*asked) == [-1, -2]
    await batcher.close()


async def test_a_caller_cancelled_in_the_moment_of_an_error_leaves_no_trace(sender: Sender) -> None:
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
    batcher = MicroBatcher[int, int](sender.send, name="test")
    (one,) = submit_all(batcher, [1])
    await turns()
    sender.answer(0, [NotFoundError("x")])
    await asyncio.sleep(0)
    one.cancel()
    with pytest.raises((asyncio.CancelledError, NotFoundError)):
        await one
    del one
    await turns()
    assert complaints == []
    await batcher.close()


class Load:
    """A random load: callers with different patience, batches that fail or dawdle."""

    def __init__(self, seed: int, *, max_batch: int, max_in_flight: int, max_queue: int) -> None:
        self.random = random.Random(seed)
        self.max_batch, self.max_in_flight = max_batch, max_in_flight
        self.in_flight = self.most_in_flight = self.largest = 0
        self.sent: list[int] = []
        self.batcher = MicroBatcher[int, int](
            self.send,
            name="load",
            max_batch=max_batch,
            max_in_flight=max_in_flight,
            max_queue=max_queue,
            patience_s=self.random.choice([0.0, 0.001, 60.0]),
        )

    async def send(self, batch: list[int]) -> Sequence[int | ServiceError]:
        self.sent += batch
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.largest = max(self.largest, len(batch))
        fate = self.random.random()
        try:
            for _ in range(self.random.randrange(6)):
                await asyncio.sleep(0)
            if fate < 0.2:
                await asyncio.sleep(self.random.random() * 0.004)
            if fate > 0.9:
                raise UnavailableError("unlucky")
        finally:
            self.in_flight -= 1
        return [NotFoundError(str(query)) if query % 7 == 3 else -query for query in batch]

    async def call(self, query: int) -> str:
        for _ in range(self.random.randrange(30)):
            await asyncio.sleep(0)
        timeout_s = self.random.choice([0.002, 1.0, 1.0])
        work = asyncio.create_task(self.batcher.submit(query, timeout_s=timeout_s))
        if self.random.random() < 0.1:
            await asyncio.sleep(0)
            work.cancel()
        try:
            answer = await work
        except NotFoundError as error:
            return f"no {error.message}"
        except asyncio.CancelledError:
            return "cancelled"
        except (UnavailableError, DeadlineExceededError, ResourceExhaustedError) as error:
            return type(error).__name__
        return f"answer {answer}"


FAILURES = ("cancelled", "UnavailableError", "DeadlineExceededError", "ResourceExhaustedError")


def run_load(queries: int, **options: int) -> tuple[Load, list[str]]:
    async def run() -> tuple[Load, list[str]]:
        load = Load(**options)
        outcomes = await asyncio.wait_for(asyncio.gather(*(load.call(query) for query in range(queries))), 30.0)
        await load.batcher.close()
        return load, outcomes

    return asyncio.run(run())


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    queries=st.integers(1, 300),
    max_batch=st.integers(1, 20),
    max_in_flight=st.integers(1, 4),
    max_queue=st.integers(1, 400),
)
def test_under_any_load_everybody_gets_their_own_answer_within_the_bounds(
    seed: int, queries: int, max_batch: int, max_in_flight: int, max_queue: int
) -> None:
    load, outcomes = run_load(queries, seed=seed, max_batch=max_batch, max_in_flight=max_in_flight, max_queue=max_queue)
    assert len(outcomes) == queries
    for query, outcome in enumerate(outcomes):
        own = f"no {query}" if query % 7 == 3 else f"answer {-query}"
        assert outcome in {own, *FAILURES}
    assert load.largest <= max_batch
    assert load.most_in_flight <= max_in_flight
    assert len(load.sent) == len(set(load.sent)), "something was sent twice"
    if max_queue >= queries:
        assert "ResourceExhaustedError" not in outcomes


async def test_order_is_kept_under_load() -> None:
    sent: list[int] = []

    async def send(batch: list[int]) -> list[int]:
        sent.extend(batch)
        await asyncio.sleep(0.001)
        return batch

    async with MicroBatcher(send, name="test", max_batch=7, max_in_flight=1) as batcher:
        assert await asyncio.gather(*(batcher.submit(number, timeout_s=5.0) for number in range(500))) == list(
            range(500)
        )
    assert sent == list(range(500))


async def test_many_callers_make_few_calls() -> None:
    calls = []

    async def send(batch: list[int]) -> list[int]:
        calls.append(len(batch))
        await asyncio.sleep(0.002)
        return batch

    async def caller(batcher: MicroBatcher[int, int]) -> None:
        for number in range(20):
            await batcher.submit(number, timeout_s=5.0)

    async with MicroBatcher(send, name="test") as batcher:
        await asyncio.gather(*(caller(batcher) for _ in range(64)))
    assert sum(calls) == 64 * 20
    assert sum(calls) / len(calls) > 16
