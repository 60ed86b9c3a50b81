"""Lets so many requests a second through, for each tenant and for each user."""

from dataclasses import dataclass
from urllib.parse import quote

from hot_path_api.domain.limits import Budget, RateLimitedError, Verdict
from hot_path_api.domain.ports import RateLimiter
from servicekit import metrics
from servicekit.errors import ServiceError

_SHARED = "redis"


@dataclass(frozen=True, slots=True)
class Rate:
    """How often somebody may ask.

    Args:
        per_s: Requests a second in the long run; 0 sets no limit.
        burst: Requests at once; 0 is what flows in in a second, at least one.
    """

    per_s: float = 0.0
    burst: int = 0

    def budget(self, name: str, key: str) -> Budget:
        """Give somebody's bucket."""
        return Budget(name, key, self.per_s, self.burst or max(round(self.per_s), 1))


class RateLimits:
    """Asks the shared buckets, and this process's own while those cannot be reached.

    Then each gateway admits as much as all of them together should: who is let in wrongly is better served than who
    is shut out wrongly.

    Args:
        tenant: What one tenant, that is one API key, may ask.
        user: What may be asked for one user of a tenant.
        local: This process's buckets.
        shared: Those of all gateways; None where there are none.
    """

    def __init__(self, *, tenant: Rate, user: Rate, local: RateLimiter, shared: RateLimiter | None) -> None:
        self._tenant = tenant
        self._user = user
        self._local = local
        self._shared = shared

    async def admit(self, tenant: str, user_id: str = "") -> Verdict | None:
        """Count one request; None when nothing limits it. A user's request that is refused costs its tenant nothing.

        Raises:
            RateLimitedError: It is one too many.
        """
        budgets = [self._tenant.budget("tenant", quote(tenant, safe=""))] if self._tenant.per_s else []
        if user_id and self._user.per_s:
            budgets.append(self._user_budget(tenant, user_id))
        return await self._take(budgets)

    async def admit_user(self, tenant: str, user_id: str) -> None:
        """Count a request that was counted for the tenant before it was known to be for this user.

        Raises:
            RateLimitedError: It is one too many.
        """
        if user_id and self._user.per_s:
            await self._take([self._user_budget(tenant, user_id)])

    def _user_budget(self, tenant: str, user_id: str) -> Budget:
        # The tenant goes first, up to a slash: so each user's bucket lies with its tenant's.
        return self._user.budget("user", f"{quote(tenant, safe='')}/{user_id}")

    async def _take(self, budgets: list[Budget]) -> Verdict | None:
        if not budgets:
            return None
        verdict = await self._ask(budgets)
        if not verdict.admitted:
            raise RateLimitedError(verdict)
        return verdict

    async def _ask(self, budgets: list[Budget]) -> Verdict:
        if self._shared is not None:
            try:
                return await self._shared.take(budgets)
            except ServiceError as error:
                metrics.DEGRADED.labels(_SHARED, error.code).inc()
        return await self._local.take(budgets)
