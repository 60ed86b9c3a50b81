"""The deadline shrinks and never grows."""

import asyncio
import math

import pytest

from servicekit.deadline import begin_deadline, deadline_after, remaining_s, require
from servicekit.errors import DeadlineExceededError


def test_without_a_deadline_there_is_all_the_time() -> None:
    assert remaining_s() == math.inf
    require(3600.0)


def test_an_inner_deadline_shrinks_and_is_gone_afterwards() -> None:
    with deadline_after(10.0):
        assert 9.9 < remaining_s() <= 10.0
        with deadline_after(1.0):
            assert 0.9 < remaining_s() <= 1.0
        assert 9.9 < remaining_s() <= 10.0
    assert remaining_s() == math.inf


def test_an_inner_deadline_cannot_grow() -> None:
    with deadline_after(1.0), deadline_after(10.0):
        assert remaining_s() <= 1.0


def test_it_is_gone_after_an_error() -> None:
    with pytest.raises(KeyError), deadline_after(1.0):
        raise KeyError
    assert remaining_s() == math.inf


def test_too_little_is_refused() -> None:
    with deadline_after(0.05):
        require(0.01)
        with pytest.raises(DeadlineExceededError, match="100 ms are needed"):
            require(0.1)


def test_a_passed_deadline_is_refused() -> None:
    with deadline_after(-1.0):
        assert remaining_s() < 0.0
        with pytest.raises(DeadlineExceededError, match="0 ms are left"):
            require()


async def test_each_task_has_its_own() -> None:
    async def work(seconds: float) -> float:
        begin_deadline(seconds)
        await asyncio.sleep(0)
        return remaining_s()

    short, long = await asyncio.gather(work(1.0), work(100.0))

    assert short <= 1.0
    assert 99.0 < long <= 100.0
    assert remaining_s() == math.inf


async def test_a_task_inherits_it() -> None:
    async def work() -> float:
        return remaining_s()

    with deadline_after(1.0):
        assert await asyncio.create_task(work()) <= 1.0
