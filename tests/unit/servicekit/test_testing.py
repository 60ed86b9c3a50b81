"""The tests' own helpers."""

from collections.abc import Iterator
from typing import Any

import pytest

from servicekit.testing import eventually, free_port


async def test_eventually_waits_for_something_true() -> None:
    answers: Iterator[Any] = iter([0, None, [], "there"])
    assert await eventually(lambda: next(answers), interval_s=0.001) == "there"


async def test_eventually_forgives_failures_in_between() -> None:
    tries = []

    async def check() -> bool:
        tries.append(1)
        assert len(tries) > 2
        return True

    assert await eventually(check, interval_s=0.001)


async def test_eventually_gives_up_and_says_why() -> None:
    def check() -> bool:
        raise ValueError("not yet")

    with pytest.raises(AssertionError, match=r"not within 0\.02 s") as given_up:
        await eventually(check, timeout_s=0.02, interval_s=0.001)
    assert isinstance(given_up.value.__cause__, ValueError)


def test_free_ports_differ() -> None:
    assert len({free_port() for _ in range(5)}) > 1
