"""When a tenant is trained without being asked."""

import asyncio

import pytest

from gpu_worker.application.schedule import TrainingSchedule
from gpu_worker.consumer import InteractionCounter
from gpu_worker.domain.training import HoldOut
from recommendation.events.v1 import events_pb2
from servicekit.clock import ManualClock
from servicekit.errors import FailedPreconditionError
from servicekit.eventlog.port import Record
from servicekit.testing import eventually

MINUTE_MS = 60_000


class FakeTraining:
    def __init__(self) -> None:
        self.started: list[str] = []
        self.refuses = False

    async def start(self, tenant: str, *, hold_out: HoldOut, seed: int, activate: bool) -> str:
        assert (hold_out, seed, activate) == (HoldOut.RANDOM, 3, True)
        if self.refuses:
            raise FailedPreconditionError("one is running")
        self.started.append(tenant)
        return "id"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def schedule(clock: ManualClock, training: FakeTraining | None = None, **settings: float) -> TrainingSchedule:
    return TrainingSchedule(
        training or FakeTraining(),  # type: ignore[arg-type]  # as far as a schedule needs it
        every_interactions=int(settings.get("interactions", 0)),
        every_minutes=settings.get("minutes", 0),
        hold_out=HoldOut.RANDOM,
        seed=3,
        trained_ms={"old": clock.now_ms() - 9 * MINUTE_MS},
        clock=clock,
    )


def test_after_so_many_interactions(clock: ManualClock) -> None:
    plan = schedule(clock, interactions=100)
    plan.note("a", 99)
    plan.note("b", 100)
    assert plan.due() == ["b"]
    plan.note("a", 1)
    assert plan.due() == ["a", "b"]


def test_after_so_long_if_anything_happened(clock: ManualClock) -> None:
    plan = schedule(clock, minutes=10)
    plan.note("old", 1)
    plan.note("new", 1)
    clock.advance(MINUTE_MS)
    assert plan.due() == ["old"]
    clock.advance(9 * MINUTE_MS)
    assert plan.due() == ["old", "new"]


def test_never_when_both_are_off(clock: ManualClock) -> None:
    plan = schedule(clock)
    plan.note("a", 10**9)
    clock.advance(10**12)
    assert not plan.due()


async def test_a_refused_start_is_tried_again(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_worker.application.schedule._LOOK_S", 0.01)
    training = FakeTraining()
    training.refuses = True
    plan = schedule(clock, training, interactions=10)
    stop = asyncio.Event()
    run = asyncio.create_task(plan.run(stop))
    plan.note("a", 10)
    await asyncio.sleep(0.05)
    training.refuses = False
    await eventually(lambda: training.started == ["a"])
    await asyncio.sleep(0.03)
    stop.set()
    await run
    assert training.started == ["a"]


async def test_interactions_are_counted_by_tenant(clock: ManualClock) -> None:
    plan = schedule(clock, interactions=2)
    values = [events_pb2.InteractionRecorded(tenant=tenant).SerializeToString() for tenant in ("a", "b", "a")]
    records = [Record("user.interactions", 0, n, "k", value, {}, 0) for n, value in enumerate([*values, b"\xff"])]
    assert not await InteractionCounter(plan).handle(records)
    assert plan.due() == ["a"]
