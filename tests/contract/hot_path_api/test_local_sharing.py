"""A gateway on its own keeps answers and counts requests as those that share a Redis do."""

import pytest
from contract.hot_path_api.answer_cache_contract import AnswerCacheContract
from contract.hot_path_api.rate_limiter_contract import RateLimiterContract

from hot_path_api.adapters.local_answer_cache import LocalAnswerCache
from hot_path_api.adapters.local_rate_limiter import LocalRateLimiter
from hot_path_api.domain.limits import Budget


class TestLocalAnswerCache(AnswerCacheContract):
    adapter = "local"

    @pytest.fixture
    def cache(self) -> LocalAnswerCache:
        return LocalAnswerCache()


class TestLocalRateLimiter(RateLimiterContract):
    adapter = "local"

    @pytest.fixture
    def limiter(self) -> LocalRateLimiter:
        return LocalRateLimiter()


async def test_only_so_many_bytes_are_kept() -> None:
    cache = LocalAnswerCache(max_bytes=100)
    for key in ("a", "b", "c"):
        await cache.put(key, b"x" * 40, fresh_s=60.0)
    assert await cache.get("a") is None
    assert await cache.get("b") is not None
    await cache.put("d", b"x" * 40, fresh_s=60.0)
    assert await cache.get("c") is None  # b was used later
    await cache.put("e", b"x" * 101, fresh_s=60.0)
    assert cache._bytes == 0


async def test_only_so_many_buckets_are_kept() -> None:
    limiter = LocalRateLimiter(capacity=10)
    for number in range(30):
        await limiter.take([Budget("user", str(number), 0.001, 1)])
    assert len(limiter._full_at_us) == 10
    assert not (await limiter.take([Budget("user", "29", 0.001, 1)])).admitted
    assert (await limiter.take([Budget("user", "0", 0.001, 1)])).admitted


async def test_in_the_long_run_as_much_passes_as_flows_in() -> None:
    now = 0.0
    limiter = LocalRateLimiter(clock=lambda: now)
    budget = Budget("tenant", "t", 3.0, 7)
    passed = 0
    for step in range(10_000):
        now = step * 0.01
        passed += (await limiter.take([budget])).admitted
    assert passed == 7 + 3 * 100 - 1  # the last token is due at the very end


async def test_a_refused_request_passes_after_its_wait_and_not_before() -> None:
    now = 100.0
    limiter = LocalRateLimiter(clock=lambda: now)
    budget = Budget("tenant", "t", 4.0, 2)
    for _ in range(2):
        await limiter.take([budget])
    wait_s = (await limiter.take([budget])).wait_s
    assert wait_s == pytest.approx(0.25)
    now += wait_s - 0.001
    assert not (await limiter.take([budget])).admitted
    now += 0.001
    assert (await limiter.take([budget])).admitted


@pytest.mark.parametrize("back_s", [0.5, 2.0, 5.0, 100_000.0])
async def test_a_clock_that_was_set_back_locks_nobody_out_for_long(back_s: float) -> None:
    now = 1_000_000.0
    limiter = LocalRateLimiter(clock=lambda: now)
    budget = Budget("tenant", "t", 1.0, 3)
    for _ in range(3):
        assert (await limiter.take([budget])).admitted
    now -= back_s
    verdict = await limiter.take([budget])
    assert verdict.wait_s <= budget.window_s + 1.0
    now += verdict.wait_s
    assert (await limiter.take([budget])).admitted
