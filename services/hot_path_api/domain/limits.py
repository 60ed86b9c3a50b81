"""Token buckets: who may ask how often, and what becomes of one more request."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from servicekit.errors import ResourceExhaustedError

_US = 1_000_000
_HAIR = 1e-6


@dataclass(frozen=True, slots=True)
class Budget:
    """A bucket of `burst` tokens into which `rate_per_s` tokens flow; a request takes one.

    Args:
        name: What is limited, for people and headers.
        key: Whose bucket it is.
    """

    name: str
    key: str
    rate_per_s: float
    burst: int

    @property
    def interval_us(self) -> float:
        """Microseconds until one token has flowed in."""
        return _US / self.rate_per_s

    @property
    def window_s(self) -> float:
        """Seconds in which an empty bucket fills up."""
        return self.burst / self.rate_per_s


class Verdict(NamedTuple):
    """What a limiter says to one request.

    Args:
        admitted: Whether it may pass.
        budget: The one that refuses; of a request that may pass, the one that has least left.
        remaining: Whole tokens that are left in that budget.
        wait_s: Seconds until the refused request would pass; 0 when it may.
    """

    admitted: bool
    budget: Budget
    remaining: int
    wait_s: float


class RateLimitedError(ResourceExhaustedError):
    """Too many requests; says when the next one passes."""

    code = "rate_limited"

    def __init__(self, verdict: Verdict) -> None:
        budget = verdict.budget
        super().__init__(
            f"more than {budget.rate_per_s:g} requests a second, or {budget.burst} at once, for one {budget.name}:"
            f" try again in {verdict.wait_s:.3g} s"
        )
        self.verdict = verdict


def spend(budgets: Sequence[Budget], full_at_us: Sequence[float], now_us: float) -> tuple[Verdict, list[float]]:
    """Take a token from each budget, or from none when one of them has none.

    A bucket is kept as one number, the moment at which it will be full again, as in the generic cell rate algorithm
    (ITU-T I.371). The script for Redis does the same sum.

    Args:
        budgets: At least one.
        full_at_us: That moment for each budget, in microseconds; anything up to now is a full bucket.
        now_us: The time by the same clock.

    Returns:
        The verdict, and the moments afterwards.
    """
    after_us, tokens, waits_us = [], [], []
    for budget, known_us in zip(budgets, full_at_us, strict=True):
        room_us = budget.interval_us * budget.burst
        # A clock that was set back must not lock anybody out for long: what lies too far ahead counts as a full bucket.
        full_us = (now_us if known_us > now_us + 2 * room_us else max(known_us, now_us)) + budget.interval_us
        left_us = now_us + room_us - full_us
        after_us.append(full_us)
        # The sums are in floating point: a hair below a whole token is a whole one.
        tokens.append(left_us / budget.interval_us + _HAIR)
        waits_us.append(-left_us if tokens[-1] < 0.0 else 0.0)
    worst = max(range(len(budgets)), key=lambda place: (waits_us[place], -tokens[place]))
    if waits_us[worst]:
        return Verdict(False, budgets[worst], 0, waits_us[worst] / _US), list(full_at_us)
    return Verdict(True, budgets[worst], int(tokens[worst]), 0.0), after_us
