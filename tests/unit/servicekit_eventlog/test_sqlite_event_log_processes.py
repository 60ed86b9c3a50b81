"""Several processes on one log, some of them killed: what was acknowledged is there, in order, and is handled."""

import asyncio
import contextlib
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from servicekit.clock import SystemClock
from servicekit.eventlog.port import EventLog, NewRecord, Record, TopicPartition, TopicSpec
from servicekit.eventlog.sqlite import SqliteEventLog
from servicekit.testing import eventually

PROCESS = Path(__file__).with_name("log_process.py")
SESSION_S = 0.6  # as in log_process
TOPIC = "done"


class Fleet:
    """Processes of one kind of work, each of which may be killed and replaced."""

    def __init__(self, folder: Path, effects: Path) -> None:
        self.acknowledged: list[str] = []
        self._folder = folder
        self._effects = effects
        self._processes: list[asyncio.subprocess.Process] = []
        self._readers: list[asyncio.Task[None]] = []

    async def start(self, what: str, name: str = "") -> asyncio.subprocess.Process:
        argument = name if what == "append" else str(self._effects)
        process = await asyncio.create_subprocess_exec(
            sys.executable, PROCESS, what, str(self._folder), TOPIC, argument, stdout=asyncio.subprocess.PIPE
        )
        self._processes.append(process)
        self._readers.append(asyncio.create_task(self._read(process)))
        return process

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            if line.endswith(b"\n"):
                self.acknowledged.append(line.decode().strip())

    async def stop(self) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        await asyncio.gather(*self._readers)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[EventLog]:
    log = SqliteEventLog(tmp_path / "log", sync="normal", session_ms=int(SESSION_S * 1000))
    await log.ensure_topics([TopicSpec(TOPIC)])
    yield log
    await log.close()


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = Fleet(tmp_path / "log", tmp_path / "effects")
    yield fleet
    await fleet.stop()


async def everything(log: EventLog) -> list[Record]:
    consumer = log.consumer([TOPIC], group=None)
    found: list[Record] = []
    while records := await consumer.poll(max_records=10_000, timeout_s=0):
        found += records
    return found


async def test_killed_writers_and_consumers_lose_nothing(log: EventLog, fleet: Fleet, tmp_path: Path) -> None:
    random = Random(1)
    effects = tmp_path / "effects"
    writers = [await fleet.start("append", f"w{n}") for n in range(2)]
    consumers = [await fleet.start("consume") for _ in range(2)]
    await eventually(lambda: len(fleet.acknowledged) > 200 and effects.exists(), timeout_s=20)
    for life in range(8):
        await asyncio.sleep(random.uniform(0.1, 0.7))
        if random.random() < 0.5:
            writers.pop(0).kill()
            writers.append(await fleet.start("append", f"w{life + 2}"))
        else:
            consumers.pop(0).kill()
            consumers.append(await fleet.start("consume"))
    for writer in writers:
        writer.kill()
        await writer.wait()

    written = await everything(log)
    assert not set(fleet.acknowledged) - {record.value.decode() for record in written}, "lost what was acknowledged"
    by_key = defaultdict(list)
    by_partition = defaultdict(list)
    for record in written:
        by_key[record.key].append(int(record.value.partition(b":")[2]))
        by_partition[record.partition].append(record.offset)
    assert all(numbers == sorted(set(numbers)) for numbers in by_key.values()), "out of order within a key"
    assert all(offsets == list(range(len(offsets))) for offsets in by_partition.values()), "a gap"

    def handled() -> set[tuple[int, int]]:
        lines = [line.split() for line in effects.read_text().splitlines()]
        return {(int(partition), int(offset)) for partition, offset, _ in lines}

    places = {(record.partition, record.offset) for record in written}
    await eventually(lambda: handled() >= places, timeout_s=20, interval_s=0.1)
    reached: dict[int, int] = defaultdict(int)
    for line in effects.read_text().splitlines():
        partition, offset, _ = line.split()
        assert int(offset) <= reached[int(partition)], "a consumer skipped a record"
        reached[int(partition)] = max(reached[int(partition)], int(offset) + 1)


async def test_a_dead_member_is_replaced(log: EventLog, fleet: Fleet) -> None:
    survivor = log.consumer([TOPIC], group="g")
    await survivor.poll(max_records=1, timeout_s=0)
    victim = await fleet.start("consume")

    async def owned(count: int) -> None:
        async with asyncio.timeout(10):
            while len(survivor.position()) != count:
                await survivor.poll(max_records=100, timeout_s=0.05)

    await owned(2)
    victim.kill()
    started = time.monotonic()
    await owned(4)
    assert time.monotonic() - started < 3 * SESSION_S


async def test_many_processes_append_at_once(log: EventLog, fleet: Fleet) -> None:
    for number in range(3):
        await fleet.start("append", f"w{number}")
    producer = log.producer()
    await eventually(lambda: len({line.partition(".")[0] for line in fleet.acknowledged}) == 3, timeout_s=20)
    slowest = 0.0
    for number in range(100):
        started = time.monotonic()
        await producer.append([NewRecord(TOPIC, "mine", str(number).encode())])
        slowest = max(slowest, time.monotonic() - started)
    assert slowest < 2
    await fleet.stop()
    written = {record.value.decode() for record in await everything(log)}
    assert written >= {str(number) for number in range(100)} | set(fleet.acknowledged)


class LateClock(SystemClock):
    def now_ms(self) -> int:
        return super().now_ms() + 60_000


async def test_who_overslept_its_lease_cannot_commit(log: EventLog, tmp_path: Path) -> None:
    sleeper = log.consumer([TOPIC], group="g")
    await log.producer().append([NewRecord(TOPIC, f"key{n}", b"") for n in range(20)])
    records = await sleeper.poll(max_records=20, timeout_s=1)
    other_log = SqliteEventLog(tmp_path / "log", clock=LateClock())
    heir = other_log.consumer([TOPIC], group="g")  # in its eyes a minute has passed
    assert len(await heir.poll(max_records=20, timeout_s=1)) == 20
    with pytest.raises(Exception, match="does not own"):
        await sleeper.commit({TopicPartition(r.topic, r.partition): r.offset + 1 for r in records})
    await heir.commit(heir.position())
    await other_log.close()
