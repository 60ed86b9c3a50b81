"""Token buckets in Redis, one for all gateways, by its clock."""

from collections.abc import Sequence
from hashlib import blake2b, sha1
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError

from hot_path_api.adapters.redis_client import RedisConnection
from hot_path_api.domain.limits import Budget, Verdict


class RedisRateLimiter:
    """See RateLimiter. One script does it all, so that nobody sees or spends half of it.

    A user's bucket lies beside its tenant's, in a cluster too: what stands before the first slash of a budget's key
    decides the slot.

    Args:
        redis: Where.
        prefix: Stands before all keys.
    """

    def __init__(self, redis: RedisConnection, *, prefix: str = "") -> None:
        self._redis = redis
        self._prefix = prefix
        self._script = files("hot_path_api.adapters").joinpath("token_buckets.lua").read_text(encoding="utf-8")
        self._digest = sha1(self._script.encode(), usedforsecurity=False).hexdigest()

    async def take(self, budgets: Sequence[Budget]) -> Verdict:
        """See RateLimiter."""
        keys = [self._prefix + _key(budget) for budget in budgets]
        numbers = [number for budget in budgets for number in (budget.interval_us, budget.burst)]
        admitted, place, remaining, wait_us = await self._redis.call(
            lambda client: self._run(client, len(keys), [*keys, *numbers])
        )
        return Verdict(bool(admitted), budgets[place - 1], remaining, wait_us / 1e6)

    async def _run(self, client: Any, keys: int, arguments: Sequence[object]) -> Sequence[int]:
        try:
            answer: Sequence[int] = await client.evalsha(self._digest, keys, *arguments)
        except NoScriptError:  # a server that was restarted, or has not seen it yet
            answer = await client.eval(self._script, keys, *arguments)
        return answer


def _key(budget: Budget) -> str:
    tenant, _, rest = budget.key.partition("/")
    return f"recommendation:limit:{{{_digest(tenant)}}}:{_digest(rest) if rest else ''}"


def _digest(text: str) -> str:
    """Give a short stand-in: ids may hold anything, and users' ids are nobody's business there."""
    return blake2b(text.encode(), digest_size=12).hexdigest()
