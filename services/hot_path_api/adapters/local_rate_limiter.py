"""Token buckets in this process."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from hot_path_api.domain.limits import Budget, Verdict, spend


class LocalRateLimiter:
    """See RateLimiter. Each process has buckets of its own, so a fleet admits as many times as much.

    Args:
        capacity: How many buckets are kept; the one used longest ago is forgotten, and so full again.
        clock: Seconds that never go back.
    """

    def __init__(self, *, capacity: int = 100_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = capacity
        self._clock = clock
        self._full_at_us: OrderedDict[str, float] = OrderedDict()

    async def take(self, budgets: Sequence[Budget]) -> Verdict:
        """See RateLimiter."""
        kept = self._full_at_us
        now_us = self._clock() * 1e6
        verdict, after_us = spend(budgets, [kept.get(budget.key, 0.0) for budget in budgets], now_us)
        for budget, moment_us in zip(budgets, after_us, strict=True):
            kept[budget.key] = moment_us
            kept.move_to_end(budget.key)
        while len(kept) > self._capacity:
            kept.popitem(last=False)
        return verdict
