"""The bridge between the driver's threads and the event loop, with a driver that answers when the test says."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import cassandra
import pytest

from profile_store.adapters.cql.session import CqlSession, Statement
from servicekit.deadline import deadline_after
from servicekit.errors import DeadlineExceededError, ResourceExhaustedError, UnavailableError
from servicekit.testing import eventually

READ = Statement("SELECT")


class Future:
    """What the driver gives for a query."""

    _col_names: Any = None
    _col_types: Any = None
    _paging_state: Any = None

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.told: tuple[Callable[[Any], None], Callable[[Any], None]] | None = None

    def add_callbacks(self, rows: Callable[[Any], None], error: Callable[[Any], None]) -> None:
        self.told = (rows, error)

    def answer(self, rows: object) -> None:
        assert self.told is not None
        self.told[0](rows)

    def fail(self, error: Exception) -> None:
        assert self.told is not None
        self.told[1](error)


class Driver:
    """The driver's session: keeps the queries for the test to answer."""

    def __init__(self) -> None:
        self.futures: list[Future] = []

    def has_asked(self, place: int) -> bool:
        return len(self.futures) > place

    def execute_async(self, _: object, *, timeout: float, **__: object) -> Future:
        self.futures.append(Future(timeout))
        return self.futures[-1]


@pytest.fixture
def driver() -> Driver:
    return Driver()


@pytest.fixture
async def cql(driver: Driver) -> CqlSession:
    prepared = SimpleNamespace(bind=lambda _: SimpleNamespace(fetch_size=0))
    loop = asyncio.get_running_loop()
    return CqlSession(driver, driver, {READ: prepared}, loop=loop, max_in_flight=2, timeout_s=5.0)


def on_a_thread(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


async def asked(cql: CqlSession, count: int) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(cql.rows(READ)) for _ in range(count)]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_answers_of_a_thread_arrive_on_the_loop_by_one_wake_up(
    cql: CqlSession, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = await asked(cql, 2)
    wake_ups: list[object] = []
    loop = asyncio.get_running_loop()
    call_soon = loop.call_soon_threadsafe

    def counted(work: Callable[[], None]) -> object:
        wake_ups.append(work)
        return call_soon(work)

    def answer_all() -> None:
        for place, future in enumerate(driver.futures):
            future.answer([(place,)])

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    on_a_thread(answer_all)
    assert await asyncio.gather(*tasks) == [[(0,)], [(1,)]]
    assert len(wake_ups) == 1


async def test_only_so_many_are_in_flight_and_the_others_follow(cql: CqlSession, driver: Driver) -> None:
    tasks = await asked(cql, 5)
    assert len(driver.futures) == 2
    for place in range(5):
        await eventually(partial(driver.has_asked, place))
        driver.futures[place].answer([(place,)])
    assert await asyncio.gather(*tasks) == [[(place,)] for place in range(5)]


async def test_a_place_stays_taken_until_the_driver_is_done(cql: CqlSession, driver: Driver) -> None:
    tasks = await asked(cql, 3)
    tasks[0].cancel()
    tasks[1].cancel()
    await asyncio.gather(*tasks[:2], return_exceptions=True)
    assert len(driver.futures) == 2
    driver.futures[0].answer([])
    await eventually(lambda: len(driver.futures) == 3)
    driver.futures[2].answer([])
    assert await tasks[2] == []


async def test_whoever_gives_up_waiting_leaves_the_queue(cql: CqlSession, driver: Driver) -> None:
    tasks = await asked(cql, 4)
    tasks[2].cancel()
    with suppress(asyncio.CancelledError):
        await tasks[2]
    driver.futures[0].answer([])
    await eventually(lambda: len(driver.futures) == 3)
    driver.futures[1].answer([])
    driver.futures[2].answer([])
    assert await asyncio.gather(*tasks[:2], tasks[3]) == [[], [], []]
    assert len(await asked(cql, 2)) == 2
    assert len(driver.futures) == 5
    for future in driver.futures[3:]:
        future.answer([])


async def test_too_many_who_wait_are_refused(cql: CqlSession, driver: Driver) -> None:
    tasks = await asked(cql, 2 + 2 * 64)
    with pytest.raises(ResourceExhaustedError):
        await cql.rows(READ)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for future in driver.futures:
        future.answer([])


async def test_the_deadline_of_the_caller_counts_if_it_is_earlier(cql: CqlSession, driver: Driver) -> None:
    with deadline_after(1.0):
        (task,) = await asked(cql, 1)
    (other,) = await asked(cql, 1)
    assert driver.futures[0].timeout <= 1.0 < driver.futures[1].timeout <= 5.0
    for future in driver.futures:
        future.answer([])
    await asyncio.gather(task, other)
    with deadline_after(0.0), pytest.raises(DeadlineExceededError):
        await cql.rows(READ)


async def test_waiting_ends_with_the_deadline(cql: CqlSession, driver: Driver) -> None:
    tasks = await asked(cql, 2)
    with deadline_after(0.02), pytest.raises(DeadlineExceededError):
        await cql.rows(READ)
    for future in driver.futures:
        future.answer([])
    await asyncio.gather(*tasks)
    assert len(driver.futures) == 2


async def test_an_error_comes_as_one_of_ours(cql: CqlSession, driver: Driver) -> None:
    (task,) = await asked(cql, 1)
    on_a_thread(lambda: driver.futures[0].fail(cassandra.Unavailable("few")))
    with pytest.raises(UnavailableError):
        await task


async def test_an_error_of_asking_frees_the_place(
    cql: CqlSession, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(driver, "execute_async", lambda *_, **__: 1 / 0)
        for _ in range(5):
            with pytest.raises(ZeroDivisionError):
                await cql.rows(READ)
    tasks = await asked(cql, 2)
    assert len(driver.futures) == 2
    for future in driver.futures:
        future.answer([])
    await asyncio.gather(*tasks)
