"""The consumer loop: nothing is dropped or skipped, what is poisoned goes aside, trouble that stays stops it."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from servicekit import metrics
from servicekit.errors import DeadlineExceededError, InvalidArgumentError, UnavailableError
from servicekit.eventlog import runner as runner_module
from servicekit.eventlog.memory import MemoryConsumer, MemoryEventLog, MemoryProducer
from servicekit.eventlog.port import NewRecord, Offsets, Record, StaleOwnerError, TopicPartition, TopicSpec
from servicekit.eventlog.runner import ConsumerRunner, RecordFailure
from servicekit.eventlog.topics import dlq
from servicekit.tasks import BackgroundTasks
from servicekit.testing import eventually

TOPIC = "done"
WHERE = TopicPartition(TOPIC, 0)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(runner_module, "_LONGEST_PAUSE_S", 0.01)


@pytest.fixture
async def log() -> MemoryEventLog:
    log = MemoryEventLog()
    await log.ensure_topics([TopicSpec(TOPIC, 1), TopicSpec(dlq(TOPIC), 1)])
    return log


async def append(log: MemoryEventLog, *values: str) -> None:
    await log.producer().append(
        [NewRecord(TOPIC, "k", value.encode(), {"h": b"1"}, timestamp_ms=7) for value in values]
    )


class Handler:
    """Collects what it applies; `before` may raise or fail records."""

    def __init__(self, before: Callable[[Sequence[Record]], Sequence[RecordFailure]] = lambda _: ()) -> None:
        self.applied: list[str] = []
        self.batches: list[int] = []
        self._before = before

    async def __call__(self, records: Sequence[Record]) -> Sequence[RecordFailure]:
        self.batches.append(len(records))
        failures = self._before(records)
        failed = {failure.record.offset for failure in failures}
        self.applied += [record.value.decode() for record in records if record.offset not in failed]
        return failures


@asynccontextmanager
async def running(runner: ConsumerRunner) -> AsyncIterator[asyncio.Task[None]]:
    stop = asyncio.Event()
    task = asyncio.create_task(runner.run(stop))
    try:
        yield task
    finally:
        stop.set()
        await asyncio.wait([task], timeout=1)
        assert task.done(), "did not stop"


def run(
    log: MemoryEventLog, handle: Callable[[Sequence[Record]], Awaitable[Sequence[RecordFailure]]]
) -> ConsumerRunner:
    consumer = log.consumer([TOPIC], group="g")
    return ConsumerRunner(consumer, handle, log.producer(), name="worker", max_failures_in_a_row=3)


async def letters(log: MemoryEventLog) -> Sequence[Record]:
    return await log.consumer([dlq(TOPIC)], group=None).poll(max_records=100, timeout_s=0)


def refuse(records: Sequence[Record]) -> Sequence[RecordFailure]:
    return [RecordFailure(r, InvalidArgumentError("no good")) for r in records if r.value.startswith(b"bad")]


async def test_records_are_applied_in_order_and_committed(log: MemoryEventLog) -> None:
    handler = Handler()
    await append(log, "1", "2", "3")
    async with running(run(log, handler)):
        await eventually(lambda: handler.applied == ["1", "2", "3"])
    await log.close()
    assert sum((await log.consumer([TOPIC], group="g").lag()).values()) == 0
    assert REGISTRY.get_sample_value("kafka_consumer_lag", {"topic": TOPIC}) == 0
    assert REGISTRY.get_sample_value("kafka_consumer_partition_lag", {"topic": TOPIC, "partition": "0"}) == 0


async def test_who_loses_a_partition_no_longer_tells_its_lag(
    log: MemoryEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "_LAG_INTERVAL_S", 0.0)
    await log.ensure_topics([TopicSpec("wide", 2), TopicSpec(dlq("wide"), 1)])

    def told(partition: int) -> float | None:
        return REGISTRY.get_sample_value("kafka_consumer_partition_lag", {"topic": "wide", "partition": str(partition)})

    first, second = (log.consumer(["wide"], group="g") for _ in range(2))
    async with running(ConsumerRunner(first, Handler(), log.producer(), name="worker")):
        await eventually(lambda: told(0) == 0 and told(1) == 0)
        await second.poll(max_records=1, timeout_s=0)
        await log.producer().append([NewRecord("wide", str(n), b"") for n in range(9)])
        await eventually(lambda: (told(0) is None) != (told(1) is None))


async def test_poisoned_records_go_aside_with_their_origin(log: MemoryEventLog) -> None:
    handler = Handler(refuse)
    await append(log, "1", "bad", "2")
    async with running(run(log, handler)):
        await eventually(lambda: handler.applied == ["1", "2"])
        await eventually(lambda: letters(log))
    (letter,) = await letters(log)
    assert (letter.key, letter.value) == ("k", b"bad")
    assert letter.headers == {
        "h": b"1",
        "dlq-error": b"no good",
        "dlq-error-code": b"invalid_argument",
        "dlq-error-class": b"InvalidArgumentError",
        "dlq-attempts": b"1",
        "dlq-consumer": b"worker",
        "dlq-origin-topic": TOPIC.encode(),
        "dlq-origin-partition": b"0",
        "dlq-origin-offset": b"1",
        "dlq-origin-timestamp-ms": b"7",
    }


async def test_a_record_that_breaks_the_handler_does_not_hold_up_the_others(log: MemoryEventLog) -> None:
    def break_down(records: Sequence[Record]) -> Sequence[RecordFailure]:
        if any(record.value == b"bad" for record in records):
            raise KeyError("surprise")
        return ()

    handler = Handler(break_down)
    await append(log, "1", "bad", "2")
    async with running(run(log, handler)):
        await eventually(lambda: handler.applied == ["1", "2"])
        await eventually(lambda: letters(log))
    (letter,) = await letters(log)
    assert letter.headers["dlq-error-code"] == b"internal"
    assert b"surprise" in letter.headers["dlq-error"]


@pytest.mark.parametrize("error", [UnavailableError("down"), DeadlineExceededError("slow")])
async def test_while_the_other_side_is_down_nothing_is_dropped_or_skipped(
    log: MemoryEventLog, error: Exception
) -> None:
    down = True

    def fail_while_down(_: Sequence[Record]) -> Sequence[RecordFailure]:
        if down:
            raise error
        return ()

    handler = Handler(fail_while_down)
    await append(log, "1", "2")
    async with running(run(log, handler)):
        await eventually(lambda: len(handler.batches) > 5)
        await append(log, "3")
        assert not handler.applied
        down = False
        await eventually(lambda: handler.applied == ["1", "2", "3"])
    assert not await letters(log)


async def test_a_stop_ends_the_waiting_and_commits_nothing(log: MemoryEventLog) -> None:
    def fail(_: Sequence[Record]) -> Sequence[RecordFailure]:
        raise UnavailableError("down")

    handler = Handler(fail)
    await append(log, "1")
    runner = run(log, handler)
    async with running(runner):
        await eventually(lambda: handler.batches)
    later = log.consumer([TOPIC], group="g")
    await log.close()
    assert [record.value for record in await later.poll(max_records=9, timeout_s=0)] == [b"1"]


async def test_a_crash_between_effect_and_commit_means_once_more(log: MemoryEventLog) -> None:
    class Crash(BaseException):
        pass

    class CrashingConsumer(MemoryConsumer):
        async def commit(self, offsets: Offsets) -> None:  # noqa: ARG002 - dies first
            raise Crash

    await append(log, "1")
    handler = Handler()
    consumer = log.consumer([TOPIC], group="g")
    consumer.__class__ = CrashingConsumer
    with pytest.raises(Crash):
        await ConsumerRunner(consumer, handler, log.producer(), name="worker").run(asyncio.Event())
    await consumer.close()
    async with running(run(log, handler)):
        await eventually(lambda: handler.applied == ["1", "1"])


async def test_partitions_that_moved_away_are_no_failure(log: MemoryEventLog) -> None:
    class OverrunConsumer(MemoryConsumer):
        async def commit(self, offsets: Offsets) -> None:
            raise StaleOwnerError(set(offsets))

    await append(log, "1")
    handler = Handler()
    consumer = log.consumer([TOPIC], group="g")
    consumer.__class__ = OverrunConsumer
    async with running(ConsumerRunner(consumer, handler, log.producer(), name="worker")):
        await eventually(lambda: handler.applied == ["1"])
        await append(log, "2")
        await eventually(lambda: handler.applied == ["1", "2"])


def stands_still() -> bool:
    return REGISTRY.get_sample_value("consumer_stopped", {"group": "worker", "topic": TOPIC}) == 1


@pytest.fixture
def not_stopped() -> None:
    metrics.CONSUMER_STOPPED.clear()


@pytest.mark.usefixtures("not_stopped")
async def test_too_many_failures_in_a_row_stop_the_consumer_and_nothing_else(log: MemoryEventLog) -> None:
    await append(log, "bad1", "1", "bad2", "bad3", "bad4")
    handler = Handler(refuse)
    stop = asyncio.Event()
    consumer = log.consumer([TOPIC], group="g")
    runner = ConsumerRunner(consumer, handler, log.producer(), name="worker", max_failures_in_a_row=3)
    with capture_logs() as logs:
        tasks = BackgroundTasks(stop)
        tasks.start(runner.run(stop), name="consumer")
        await eventually(lambda: handler.applied == ["1"])
        await append(log, "bad5", "2")
        await eventually(stands_still)
        await asyncio.sleep(0.05)
    (line,) = [line for line in logs if "the consumer stopped" in line["event"]]
    assert "recommend dlq list" in line["event"]
    assert not stop.is_set()
    assert len(await letters(log)) == 4
    assert consumer.position() == {WHERE: 7}  # nobody else gets the partition
    assert await log.committed_offsets("g", [TOPIC]) == {WHERE: 5}
    async with asyncio.timeout(1), tasks:
        stop.set()


@pytest.mark.usefixtures("not_stopped")
async def test_each_start_goes_on_behind_what_was_put_aside(log: MemoryEventLog) -> None:
    await append(log, *(f"bad{n}" for n in range(8)), "1")
    for aside in (3, 6, 8):
        handler = Handler(refuse)
        async with running(run(log, handler)):
            await eventually(lambda: stands_still() if aside < 8 else handler.applied == ["1"])  # noqa: B023 - awaited here
            await eventually(lambda: letters(log))
        assert [letter.value for letter in await letters(log)] == [f"bad{n}".encode() for n in range(aside)]
        metrics.CONSUMER_STOPPED.clear()
        await log.close()


async def test_a_letter_that_the_log_refuses_does_not_stop_the_consumer(log: MemoryEventLog) -> None:
    class FussyProducer(MemoryProducer):
        async def append(self, records: Sequence[NewRecord]) -> Sequence[tuple[TopicPartition, int]]:
            if any(record.value == b"bad2" for record in records):
                raise InvalidArgumentError("the broker takes less")
            return await super().append(records)

    await append(log, "bad1", "bad2", "1")
    handler = Handler(refuse)
    producer = log.producer()
    producer.__class__ = FussyProducer
    async with running(ConsumerRunner(log.consumer([TOPIC], group="g"), handler, producer, name="worker")):
        await eventually(lambda: handler.applied == ["1"])
        await append(log, "2")
        await eventually(lambda: handler.applied == ["1", "2"])
    whole, cut = await letters(log)
    assert whole.value == b"bad1"
    assert (cut.value, cut.headers["dlq-truncated"], cut.headers["dlq-origin-offset"]) == (b"", b"everything", b"1")


async def test_a_count_of_attempts_that_is_no_number_does_not_stop_the_consumer(log: MemoryEventLog) -> None:
    await log.producer().append([NewRecord(TOPIC, "k", b"bad", {"dlq-attempts": b"9" * 5_000})])
    handler = Handler(refuse)
    await append(log, "1")
    async with running(run(log, handler)):
        await eventually(lambda: handler.applied == ["1"])
        await eventually(lambda: letters(log))


async def test_while_the_other_side_is_down_it_polls_paused_and_loses_nothing(
    log: MemoryEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "_SEAT_INTERVAL_S", 0.01)
    monkeypatch.setattr(runner_module, "_SEAT_POLL_S", 0.01)
    await log.ensure_topics([TopicSpec("wide", 2), TopicSpec(dlq("wide"), 1)])
    polled: list[int] = []
    down = True

    class CountingConsumer(MemoryConsumer):
        async def poll(self, *, max_records: int, timeout_s: float) -> Sequence[Record]:
            polled.append(max_records)
            return await super().poll(max_records=max_records, timeout_s=timeout_s)

    def fail_while_down(_: Sequence[Record]) -> Sequence[RecordFailure]:
        if down:
            raise UnavailableError("down")
        return ()

    async def add(first: int, last: int) -> None:
        await log.producer().append([NewRecord("wide", str(n), str(n).encode()) for n in range(first, last)])

    handler = Handler(fail_while_down)
    other, consumer = (log.consumer(["wide"], group="g") for _ in range(2))
    consumer.__class__ = CountingConsumer
    await other.poll(max_records=1, timeout_s=0)
    await consumer.poll(max_records=1, timeout_s=0)
    await other.poll(max_records=1, timeout_s=0)  # gives one of its two partitions up
    await add(0, 20)
    async with running(ConsumerRunner(consumer, handler, log.producer(), name="worker")):
        await eventually(lambda: len(handler.batches) > 2)
        before = len(polled)
        await eventually(lambda: len(polled) > before + 3)
        await other.close()  # the rest comes while everything is paused
        await eventually(lambda: len(consumer.position()) == 2)
        await add(20, 40)
        assert not handler.applied
        down = False
        await eventually(lambda: sorted(map(int, handler.applied)) == list(range(40)))
    assert await log.committed_offsets("g", ["wide"]) == await log.end_offsets(["wide"])


async def test_a_batch_may_wait_to_fill(log: MemoryEventLog) -> None:
    handler = Handler()
    runner = ConsumerRunner(
        log.consumer([TOPIC], group="g"), handler, log.producer(), name="worker", max_batch=3, linger_s=0.3
    )
    async with running(runner):
        await append(log, "1")
        await asyncio.sleep(0.01)
        await append(log, "2")
        await asyncio.sleep(0.01)
        await append(log, "3", "4")
        await eventually(lambda: handler.batches == [3, 1])


async def test_stopping_an_idle_consumer_takes_no_time(log: MemoryEventLog) -> None:
    started = asyncio.get_running_loop().time()
    async with running(run(log, Handler())):
        await asyncio.sleep(0.02)
    assert asyncio.get_running_loop().time() - started < 0.5


async def test_how_far_a_mirrored_region_lags_is_told_and_ends_when_nothing_waits(log: MemoryEventLog) -> None:
    def told() -> float:
        return REGISTRY.get_sample_value("replication_lag_seconds", {"topic": TOPIC}) or 0.0

    seen: list[float] = []

    async def handle(_: Sequence[Record]) -> Sequence[RecordFailure]:
        seen.append(told())
        return ()

    stamps = [int((time.time() - age_s) * 1000) for age_s in (90, 40, 0)]
    await log.producer().append([NewRecord(TOPIC, "k", b"1", timestamp_ms=stamp) for stamp in stamps])
    runner = ConsumerRunner(log.consumer([TOPIC], group="lagging"), handle, log.producer(), name="lagging", max_batch=1)
    async with running(runner):
        await eventually(lambda: len(seen) == 3 and told() == 0.0)
    assert 89 < seen[1] < 110
    assert 39 < seen[2] < 60
