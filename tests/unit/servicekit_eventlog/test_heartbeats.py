"""How far a mirrored region lags is told by heartbeats, and most of all when none come."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import REGISTRY

from servicekit.clock import ManualClock
from servicekit.errors import UnavailableError
from servicekit.eventlog import heartbeats as heartbeats_module
from servicekit.eventlog.heartbeats import Heartbeats
from servicekit.eventlog.memory import MemoryEventLog
from servicekit.eventlog.port import NewRecord, Offsets, TopicSpec
from servicekit.testing import eventually

TOPIC = "primary.heartbeats"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeats_module, "_PAUSE_S", 0.001)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def log(clock: ManualClock) -> MemoryEventLog:
    return MemoryEventLog(clock=clock)


def told() -> float | None:
    return REGISTRY.get_sample_value("replication_lag_seconds", {"topic": TOPIC})


async def beat(log: MemoryEventLog, clock: ManualClock, *, age_s: int = 0) -> None:
    await log.ensure_topics([TopicSpec(TOPIC, 1, compacted=True)])
    await log.producer().append([NewRecord(TOPIC, "k", b"", timestamp_ms=clock.now_ms() - 1_000 * age_s)])


@asynccontextmanager
async def running(log: MemoryEventLog, clock: ManualClock) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(Heartbeats(log, TOPIC, clock=clock).run(stop))
    await eventually(lambda: told() is not None)
    yield
    stop.set()
    await task


async def test_the_lag_is_the_age_of_the_newest_heartbeat_and_grows_while_none_comes(
    log: MemoryEventLog, clock: ManualClock
) -> None:
    await beat(log, clock, age_s=2)
    async with running(log, clock):
        await eventually(lambda: told() == 2)
        clock.advance(10_000)  # the link is cut: nothing comes, and nothing happens here
        assert told() == 12
        await beat(log, clock, age_s=1)
        await eventually(lambda: told() == 1)
    assert told() is None


async def test_a_heartbeat_of_long_ago_is_not_forgotten_over_a_restart(log: MemoryEventLog, clock: ManualClock) -> None:
    await beat(log, clock, age_s=7_200)
    await beat(log, clock, age_s=3_600)
    async with running(log, clock):
        await eventually(lambda: told() == 3_600)


async def test_before_the_first_one_the_wait_is_told(log: MemoryEventLog, clock: ManualClock) -> None:
    async with running(log, clock):
        assert told() == 0
        clock.advance(20_000)
        assert told() == 20
        await beat(log, clock)
        await eventually(lambda: told() == 0)


class BrokenLog(MemoryEventLog):
    """Cannot be read for a while."""

    broken = True

    async def end_offsets(self, topics: tuple[str, ...]) -> Offsets:  # type: ignore[override]
        if self.broken:
            raise UnavailableError("nobody there")
        return await super().end_offsets(topics)


async def test_a_log_that_cannot_be_read_is_lag_as_well(clock: ManualClock) -> None:
    log = BrokenLog(clock=clock)
    await beat(log, clock)
    async with running(log, clock):
        clock.advance(30_000)
        assert told() == 30
        log.broken = False
        await beat(log, clock)
        await eventually(lambda: told() == 0)
