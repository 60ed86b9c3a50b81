"""When a tenant is trained without being asked."""

import asyncio
from collections.abc import Callable

import pytest

from gpu_worker.application.schedule import TrainingSchedule
from gpu_worker.consumer import InteractionCounter
from gpu_worker.domain.training import HoldOut
from recommendation.events.v1 import events_pb2
from servicekit.clock import ManualClock
from servicekit.errors import FailedPreconditionError, UnavailableError
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


def schedule(
    clock: ManualClock,
    training: FakeTraining | None = None,
    *,
    trained_ms: dict[str, int] | None = None,
    leads: Callable[[], bool] = lambda: True,
    **settings: float,
) -> TrainingSchedule:
    known = {} if trained_ms is None else trained_ms
    return TrainingSchedule(
        training or FakeTraining(),  # type: ignore[arg-type]  # as far as a schedule needs it
        every_interactions=int(settings.get("interactions", 0)),
        every_minutes=settings.get("minutes", 0),
        hold_out=HoldOut.RANDOM,
        seed=3,
        trained_ms=lambda tenant: known.get(tenant, 0),
        leads=leads,
        clock=clock,
    )


async def test_after_so_many_interactions(clock: ManualClock) -> None:
    plan = schedule(clock, interactions=100)
    plan.note("a", 99)
    plan.note("b", 100)
    assert await plan.due() == ["b"]
    plan.note("a", 1)
    assert await plan.due() == ["a", "b"]


async def test_after_so_long_if_anything_happened(clock: ManualClock) -> None:
    plan = schedule(clock, minutes=10)
    plan.note("earlier", 1)
    clock.advance(MINUTE_MS)
    plan.note("later", 1)
    clock.advance(9 * MINUTE_MS)
    assert await plan.due() == ["earlier"]
    clock.advance(MINUTE_MS)
    assert await plan.due() == ["earlier", "later"]


async def test_never_when_both_are_off(clock: ManualClock) -> None:
    plan = schedule(clock)
    plan.note("a", 10**9)
    clock.advance(10**12)
    assert not await plan.due()


async def test_what_somebody_else_trained_counts(clock: ManualClock) -> None:
    """Another replica or a person did it meanwhile: only what came since then is new."""
    trained_ms: dict[str, int] = {}
    plan = schedule(clock, trained_ms=trained_ms, interactions=100, minutes=10)
    plan.note("a", 100)
    clock.advance(MINUTE_MS)
    plan.note("a", 60)
    assert await plan.due() == ["a"]
    clock.advance(MINUTE_MS)
    trained_ms["a"] = clock.now_ms()
    assert not await plan.due()
    plan.note("a", 99)
    assert not await plan.due()
    plan.note("a", 1)
    assert await plan.due() == ["a"]
    clock.advance(MINUTE_MS)
    trained_ms["a"] = clock.now_ms()
    clock.advance(20 * MINUTE_MS)
    assert not await plan.due(), "it knows all that came"


async def test_only_the_leader_trains_and_the_next_one_has_counted_too(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpu_worker.application.schedule._LOOK_S", 0.01)
    leader = 0
    trained_ms: dict[str, int] = {}
    trainings = [FakeTraining(), FakeTraining()]
    plans = [
        schedule(clock, training, trained_ms=trained_ms, leads=leads, interactions=10)
        for training, leads in zip(trainings, (lambda: leader == 0, lambda: leader == 1), strict=True)
    ]
    stop = asyncio.Event()
    runs = [asyncio.create_task(plan.run(stop)) for plan in plans]
    for plan in plans:
        plan.note("a", 10)
    await eventually(lambda: trainings[0].started == ["a"])
    clock.advance(MINUTE_MS)
    trained_ms["a"] = clock.now_ms()
    leader = 1
    await asyncio.sleep(0.05)
    assert not trainings[1].started
    for plan in plans:
        plan.note("a", 10)
    await eventually(lambda: trainings[1].started == ["a"])
    stop.set()
    await asyncio.gather(*runs)
    assert trainings[0].started == ["a"]


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
    assert await plan.due() == ["a"]


async def test_a_model_store_that_is_away_is_asked_again(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_worker.application.schedule._LOOK_S", 0.01)
    training = FakeTraining()
    answers: list[int | Exception] = [UnavailableError("away"), UnavailableError("away"), 0]

    def newest_ms(_: str) -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    plan = TrainingSchedule(
        training,  # type: ignore[arg-type]  # as far as a schedule needs it
        every_interactions=1,
        every_minutes=0,
        hold_out=HoldOut.RANDOM,
        seed=3,
        trained_ms=newest_ms,
        leads=lambda: True,
        clock=clock,
    )
    plan.note("a", 1)
    stop = asyncio.Event()
    run = asyncio.create_task(plan.run(stop))
    await eventually(lambda: training.started == ["a"])
    stop.set()
    await run
