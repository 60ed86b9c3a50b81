"""What every RateLimiter promises."""

import asyncio

import pytest

from hot_path_api.domain.limits import Budget
from hot_path_api.domain.ports import RateLimiter
from servicekit.testing import eventually

HARDLY = 0.001  # tokens a second: none flows in while a test runs


class RateLimiterContract:
    port = "RateLimiter"

    @pytest.fixture
    def limiter(self) -> RateLimiter:
        raise NotImplementedError

    @pytest.fixture
    def tenant(self, unique_name: str) -> str:
        return unique_name

    async def test_a_burst_passes_and_no_more(self, limiter: RateLimiter, tenant: str) -> None:
        budget = Budget("tenant", tenant, HARDLY, 5)
        verdicts = [await limiter.take([budget]) for _ in range(7)]
        assert [verdict.admitted for verdict in verdicts] == [True] * 5 + [False] * 2
        assert [verdict.remaining for verdict in verdicts] == [4, 3, 2, 1, 0, 0, 0]
        assert all(verdict.budget == budget for verdict in verdicts)
        assert [verdict.wait_s for verdict in verdicts[:5]] == [0.0] * 5
        assert all(0.0 < verdict.wait_s <= 1 / HARDLY for verdict in verdicts[5:])

    async def test_those_who_come_at_once_share_the_burst(self, limiter: RateLimiter, tenant: str) -> None:
        budget = Budget("tenant", tenant, HARDLY, 20)
        verdicts = await asyncio.gather(*(limiter.take([budget]) for _ in range(50)))
        assert sum(verdict.admitted for verdict in verdicts) == 20

    async def test_tokens_flow_in_again(self, limiter: RateLimiter, tenant: str) -> None:
        budget = Budget("tenant", tenant, 20.0, 1)
        assert (await limiter.take([budget])).admitted

        async def passes() -> bool:
            return (await limiter.take([budget])).admitted

        await eventually(passes)

    async def test_a_full_bucket_takes_no_more(self, limiter: RateLimiter, tenant: str) -> None:
        quick = Budget("tenant", tenant, 1_000.0, 3)
        assert (await limiter.take([quick])).admitted

        async def is_full() -> bool:
            verdict = await limiter.take([quick])
            return verdict.remaining == 2

        await eventually(is_full)

    async def test_a_request_that_one_budget_refuses_costs_the_other_nothing(
        self, limiter: RateLimiter, tenant: str
    ) -> None:
        whole = Budget("tenant", tenant, HARDLY, 10)
        one, other = (Budget("user", f"{tenant}/{user}", HARDLY, 2) for user in ("one", "other"))
        verdicts = [await limiter.take([whole, one]) for _ in range(4)]
        assert [verdict.admitted for verdict in verdicts] == [True, True, False, False]
        assert [verdict.budget.name for verdict in verdicts] == ["user"] * 4
        assert (await limiter.take([whole, other])).admitted
        assert (await limiter.take([whole])).remaining == 6

    async def test_the_tenant_limits_all_its_users(self, limiter: RateLimiter, tenant: str) -> None:
        whole = Budget("tenant", tenant, HARDLY, 3)
        users = [Budget("user", f"{tenant}/{number}", HARDLY, 3) for number in range(4)]
        verdicts = [await limiter.take([whole, user]) for user in users]
        assert [verdict.admitted for verdict in verdicts] == [True] * 3 + [False]
        assert verdicts[-1].budget == whole
        assert (await limiter.take([users[-1]])).remaining == 2

    @pytest.mark.parametrize("user", ["", "a/b", "{x}", "}{", "ключ", "\n", "x" * 255])
    async def test_buckets_are_apart_whatever_they_are_called(
        self, limiter: RateLimiter, tenant: str, user: str
    ) -> None:
        keys = [f"{tenant}/{user}!", f"{tenant}/{user}?", f"{tenant}2/{user}!", tenant]
        verdicts = [await limiter.take([Budget("user", key, HARDLY, 1)]) for key in keys]
        assert [verdict.admitted for verdict in verdicts] == [True] * 4
        assert not (await limiter.take([Budget("user", keys[0], HARDLY, 1)])).admitted
