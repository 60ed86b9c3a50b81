"""Between the driver's threads and the event loop nothing waits for ever, gets lost, or piles up."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from servicekit.deadline import deadline_after
from servicekit.errors import DeadlineExceededError, FailedPreconditionError, NotFoundError, UnavailableError
from servicekit.eventlog.kafka import thread as thread_module
from servicekit.eventlog.kafka.producer import Room, partition_of
from servicekit.eventlog.kafka.thread import DriverThread


@pytest.fixture
async def bridge() -> AsyncIterator[DriverThread]:
    bridge = DriverThread("under-test")
    yield bridge
    await bridge.close(lambda: None)


async def test_calls_run_in_order_on_one_thread(bridge: DriverThread) -> None:
    seen: list[int] = []

    def call(number: int) -> int:
        seen.append(threading.get_ident())
        return number

    results = await asyncio.gather(*(bridge.run(lambda number=number: call(number)) for number in range(20)))  # type: ignore[misc]
    assert results == list(range(20))
    assert len(set(seen)) == 1
    assert threading.get_ident() not in seen


async def test_an_error_reaches_the_caller_and_the_thread_lives_on(bridge: DriverThread) -> None:
    def fail() -> None:
        raise NotFoundError("no such topic")

    with pytest.raises(NotFoundError):
        await bridge.run(fail)
    assert await bridge.run(lambda: 1) == 1


async def test_a_call_that_hangs_is_given_up_and_those_behind_it_are_not_carried_out(bridge: DriverThread) -> None:
    go_on = threading.Event()
    carried_out: list[str] = []
    with pytest.raises(UnavailableError):
        await bridge.run(lambda: go_on.wait(10), within_s=0.02)
    with pytest.raises(UnavailableError):
        await bridge.run(lambda: carried_out.append("behind"), within_s=0.02)
    with deadline_after(0.02), pytest.raises(DeadlineExceededError):
        await bridge.run(lambda: carried_out.append("late"))
    go_on.set()
    await bridge.run(lambda: carried_out.append("after"))
    assert carried_out == ["after"]


async def test_the_queue_is_bounded(bridge: DriverThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_module, "_MOST_WAITING", 3)
    begun, go_on = threading.Event(), threading.Event()

    def hang() -> bool:
        begun.set()
        return go_on.wait(10)

    first = bridge.submit(hang)
    await asyncio.to_thread(begun.wait, 5)
    waiting = [bridge.submit(lambda: 1) for _ in range(3)]
    with pytest.raises(UnavailableError, match="wait already"):
        bridge.submit(lambda: 1)
    go_on.set()
    assert await asyncio.gather(first, *waiting) == [True, 1, 1, 1]


async def test_closing_finishes_what_waits_and_takes_no_more() -> None:
    bridge = DriverThread("under-test")
    done: list[str] = []
    call = bridge.submit(lambda: done.append("call"))
    await bridge.close(lambda: done.append("last"))
    await call
    assert done == ["call", "last"]
    with pytest.raises(FailedPreconditionError, match="closed"):
        bridge.submit(lambda: None)
    await bridge.close(lambda: done.append("again"))
    assert done == ["call", "last"]


async def test_room_is_given_in_line() -> None:
    room = Room(10)
    await room.take(6)
    order: list[str] = []

    async def take(name: str, count: int) -> None:
        await room.take(count)
        order.append(name)

    large, small = asyncio.create_task(take("large", 8)), asyncio.create_task(take("small", 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert order == []  # there would be room for the small one, and it would starve the large
    room.give(6)
    await asyncio.gather(large, small)
    assert order == ["large", "small"]


async def test_who_leaves_the_line_holds_nobody_up() -> None:
    room = Room(10)
    await room.take(10)
    leaving = asyncio.create_task(room.take(10))
    behind = asyncio.create_task(room.take(1))
    await asyncio.sleep(0)
    leaving.cancel()
    room.give(10)
    await asyncio.wait_for(behind, 1)
    await asyncio.wait_for(room.take(9), 1)
    assert leaving.cancelled()


async def test_what_is_larger_than_the_room_goes_alone() -> None:
    room = Room(10)
    await asyncio.wait_for(room.take(50), 1)
    behind = asyncio.create_task(room.take(1))
    await asyncio.sleep(0)
    assert not behind.done()
    room.give(50)
    await asyncio.wait_for(behind, 1)


def test_keys_go_where_other_clients_put_them() -> None:
    """Stored logs depend on it; the values are those of Kafka's own client for Java."""
    assert [partition_of(key, 1 << 31) for key in (b"", b"21", b"foobar", "ключ".encode())] == [
        275646681,
        1173551340,
        1357151166,
        partition_of("ключ".encode(), 1 << 31),
    ]
