import asyncio
import os
import signal

import pytest

from recommend_cli.stack.signals import run_until_stopped, wait_for_stop


def _signal_soon(number: signal.Signals) -> None:
    asyncio.get_running_loop().call_later(0.05, os.kill, os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_work_and_lets_it_clean_up(number: signal.Signals) -> None:
    cleaned = list[str]()

    async def work() -> None:
        _signal_soon(number)
        try:
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0.01)
            cleaned.append("up")

    with pytest.raises(SystemExit) as ended:
        run_until_stopped(work())
    assert ended.value.code == 130
    assert cleaned == ["up"]


def test_being_stopped_is_the_right_end_of_what_goes_on_for_ever() -> None:
    async def work() -> None:
        _signal_soon(signal.SIGTERM)
        await wait_for_stop(asyncio.sleep(10, None))

    run_until_stopped(work())


def test_a_second_signal_ends_the_cleaning_up() -> None:
    async def work() -> None:
        _signal_soon(signal.SIGINT)
        try:
            await asyncio.sleep(10)
        finally:
            _signal_soon(signal.SIGINT)
            await asyncio.sleep(10)

    with pytest.raises(SystemExit):
        run_until_stopped(work())


def test_work_that_ends_by_itself_or_fails_is_left_alone() -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise ValueError("its own affair")

    async def ends() -> None:
        await asyncio.sleep(0)

    run_until_stopped(ends())
    with pytest.raises(ValueError, match="its own affair"):
        run_until_stopped(fails())
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
