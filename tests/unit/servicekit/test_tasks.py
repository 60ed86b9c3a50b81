"""Background tasks: a crash stops the service."""

import asyncio

import pytest
from structlog.testing import capture_logs

from servicekit.tasks import BackgroundTasks


async def test_a_crash_stops_the_service_and_is_raised_at_its_end() -> None:
    async def crash() -> None:
        raise ValueError("broken")

    async def serve() -> None:
        stop = asyncio.Event()
        async with BackgroundTasks(stop) as tasks:
            tasks.start(crash(), name="crasher")
            await asyncio.wait_for(stop.wait(), 5.0)

    with capture_logs() as logs, pytest.raises(ValueError, match="broken"):
        await serve()
    assert [line["task"] for line in logs] == ["crasher"]


async def test_tasks_are_cancelled_at_the_end() -> None:
    ended = []

    async def wait() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            ended.append("wait")

    stop = asyncio.Event()
    async with BackgroundTasks(stop) as tasks:
        tasks.start(wait(), name="waiter")
        await asyncio.sleep(0)
    assert ended == ["wait"]
    assert not stop.is_set()


async def test_a_task_may_end_by_itself() -> None:
    async def end() -> None:
        await asyncio.sleep(0)

    stop = asyncio.Event()
    async with BackgroundTasks(stop) as tasks:
        tasks.start(end(), name="short")
        await asyncio.sleep(0.01)
    assert not stop.is_set()


async def test_the_error_of_the_block_comes_first() -> None:
    async def crash() -> None:
        raise ValueError("broken")

    async def serve() -> None:
        async with BackgroundTasks(asyncio.Event()) as tasks:
            tasks.start(crash(), name="crasher")
            await asyncio.sleep(0.01)
            raise KeyError

    with pytest.raises(KeyError):
        await serve()


async def test_an_error_while_being_cancelled_counts() -> None:
    async def stumble() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            raise ValueError("broken at the end")

    async def serve() -> None:
        async with BackgroundTasks(asyncio.Event()) as tasks:
            tasks.start(stumble(), name="stumbler")
            await asyncio.sleep(0.01)

    with pytest.raises(ValueError, match="at the end"):
        await serve()
