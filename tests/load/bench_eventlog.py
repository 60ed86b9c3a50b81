"""Measures an event log: `python tests/load/bench_eventlog.py [FOLDER | kafka://host:port]`.

A folder on the disk in question for SQLite; a Kafka gets a topic of its own, which is not deleted.
"""

import asyncio
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import uvloop

from servicekit.eventlog.kafka.options import SCHEME
from servicekit.eventlog.open import open_event_log
from servicekit.eventlog.port import EventLog, NewRecord, Record, TopicSpec
from servicekit.eventlog.runner import ConsumerRunner, RecordFailure
from servicekit.eventlog.sqlite import SqliteEventLog
from servicekit.eventlog.sqlite.connection import Sync
from servicekit.eventlog.topics import default_specs

TOPIC = TopicSpec(f"bench.{uuid.uuid4().hex[:8]}")
VALUE = bytes(150)  # an InteractionRecorded is about this long
BATCH = 1_000


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def batch(number: int, size: int) -> list[NewRecord]:
    """Make records of many users."""
    return [NewRecord(TOPIC.name, f"tenant/user{(number * size + n) % 5_000}", VALUE) for n in range(size)]


async def measure_appends(log: EventLog, name: str) -> None:
    """Append in batches, one and four at a time, then one by one with one and with sixteen callers."""
    producer = log.producer()
    await producer.append(batch(0, 1))  # connected
    for at_once in (1, 4):
        batches = [batch(number, BATCH) for number in range(100)]

        async def in_batches(batches: list[list[NewRecord]] = batches) -> None:
            while batches:
                await producer.append(batches.pop())

        started, used = time.perf_counter(), time.process_time()
        await asyncio.gather(*(in_batches() for _ in range(at_once)))
        took, used = time.perf_counter() - started, time.process_time() - used
        rate, cost = 100 * BATCH / took, 1e3 * used / 100
        say(f"{name:11} batches of {BATCH}, {at_once} at once: {rate:9,.0f} events/s, {cost:.1f} CPU-ms a batch")
    for callers in (1, 16):
        latencies: list[float] = []

        async def one_by_one(latencies: list[float] = latencies) -> None:
            for number in range(400):
                began = time.perf_counter()
                await producer.append(batch(number, 1))
                latencies.append(time.perf_counter() - began)

        started = time.perf_counter()
        await asyncio.gather(*(one_by_one() for _ in range(callers)))
        took = time.perf_counter() - started
        p50, p99 = statistics.median(latencies) * 1e3, statistics.quantiles(latencies, n=100)[98] * 1e3
        rate = callers * 400 / took
        say(f"{name:11} one by one, {callers:2} callers: {rate:7,.0f}/s  p50 {p50:.2f} ms  p99 {p99:.2f} ms")


async def measure_reads(log: EventLog) -> None:
    """Consume everything, with a bare consumer and by a runner that commits each batch."""
    consumer = log.consumer([TOPIC.name], group=None)
    await consumer.poll(max_records=1, timeout_s=0)  # connected
    await consumer.seek(await log.begin_offsets([TOPIC.name]))
    ends = await log.end_offsets([TOPIC.name])
    count = 0
    started = time.perf_counter()
    while consumer.position() != ends:
        count += len(await consumer.poll(max_records=BATCH, timeout_s=1))
    say(f"consume: {count / (time.perf_counter() - started):,.0f} events/s")

    stop = asyncio.Event()
    left = count

    async def handle(records: Sequence[Record]) -> Sequence[RecordFailure]:
        nonlocal left
        left -= len(records)
        if left <= 0:
            stop.set()
        return ()

    member = log.consumer([TOPIC.name], group="bench")
    started = time.perf_counter()
    await ConsumerRunner(member, handle, log.producer(), name="bench", max_batch=BATCH).run(stop)
    say(f"consume by a runner, a commit a batch: {count / (time.perf_counter() - started):,.0f} events/s")


async def measure_wake(log: EventLog, other: EventLog) -> None:
    """Time from an acknowledged append to the record in a consumer's hand: of this log and of another on the same."""
    for name, producer in (("the same", log.producer()), ("another", other.producer())):
        consumer = log.consumer([TOPIC.name], group=name)
        await consumer.seek(await log.end_offsets([TOPIC.name]))
        waits = []
        for _ in range(200):
            poll = asyncio.create_task(consumer.poll(max_records=10, timeout_s=5))
            await asyncio.sleep(0.003)
            await producer.append(batch(0, 1))
            began = time.perf_counter()
            await poll
            waits.append(time.perf_counter() - began)
        p50, worst = statistics.median(waits) * 1e3, max(waits) * 1e3
        say(f"append by {name} log -> poll returns: p50 {p50:.2f} ms, worst {worst:.1f} ms")
        await consumer.close()
    await other.close()


async def measure_idle(log: EventLog) -> None:
    """Processor time of three waiting consumers of three topics."""
    await log.ensure_topics(default_specs())

    async def nothing(_: Sequence[Record]) -> Sequence[RecordFailure]:
        return ()

    stop = asyncio.Event()
    names = [spec.name for spec in default_specs()[:3]]
    runners = [ConsumerRunner(log.consumer([n], group="idle"), nothing, log.producer(), name=n) for n in names]
    tasks = [asyncio.create_task(runner.run(stop)) for runner in runners]
    await asyncio.sleep(1)
    used = time.process_time()
    await asyncio.sleep(5)
    say(f"idle, three consumers in a process: {(time.process_time() - used) / 5:.2%} of a processor")
    stop.set()
    await asyncio.gather(*tasks)


async def measure_kafka(url: str) -> None:
    """Measure a Kafka."""
    log, other = open_event_log(url), open_event_log(url)
    await log.ensure_topics([TOPIC])
    await measure_appends(log, "kafka")
    await measure_reads(log)
    await measure_wake(log, other)
    await measure_idle(log)
    await log.close()


async def measure_sqlite(root: Path) -> None:
    """Measure both ways to sync."""
    ways: tuple[Sync, ...] = ("normal", "full")
    for sync in ways:
        folder = root / sync
        log = SqliteEventLog(folder, sync=sync)
        await log.ensure_topics([TOPIC])
        await measure_appends(log, f"sync={sync}")
        if sync == "full":
            await measure_reads(log)
            await measure_wake(log, SqliteEventLog(folder, sync="normal"))
            await measure_idle(log)
        await log.close()


if __name__ == "__main__":
    where = sys.argv[1] if len(sys.argv) > 1 else None
    if where is not None and where.startswith(f"{SCHEME}://"):
        uvloop.run(measure_kafka(where))
    else:
        with tempfile.TemporaryDirectory(dir=where) as temporary:
            uvloop.run(measure_sqlite(Path(temporary)))
