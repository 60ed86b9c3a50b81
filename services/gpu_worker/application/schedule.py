"""Decides when a tenant's model is trained anew without being asked."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from gpu_worker.application.training import TrainingService
from gpu_worker.domain.training import HoldOut
from servicekit.clock import Clock
from servicekit.errors import ServiceError
from servicekit.logs import get_logger

_LOOK_S = 5.0

_log = get_logger(__name__)


class TrainingSchedule:
    """Trains a tenant after so many new interactions, or after so long if there were any.

    Args:
        every_interactions: 0: their number does not matter.
        every_minutes: 0: the time does not matter.
        trained_ms: When each tenant was last trained; the others count from the first interaction seen.
    """

    def __init__(
        self,
        training: TrainingService,
        *,
        every_interactions: int,
        every_minutes: float,
        hold_out: HoldOut,
        seed: int,
        trained_ms: Mapping[str, int],
        clock: Clock,
    ) -> None:
        self._training = training
        self._every_interactions = every_interactions
        self._every_ms = every_minutes * 60_000
        self._hold_out = hold_out
        self._seed = seed
        self._trained_ms = dict(trained_ms)
        self._clock = clock
        self._counts: dict[str, int] = {}

    def note(self, tenant: str, interactions: int) -> None:
        """Count new interactions."""
        self._counts[tenant] = self._counts.get(tenant, 0) + interactions
        self._trained_ms.setdefault(tenant, self._clock.now_ms())

    async def run(self, stop: asyncio.Event) -> None:
        """Look every few seconds until `stop` is set."""
        while not stop.is_set():
            for tenant in self.due():
                await self._start(tenant)
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _LOOK_S)

    def due(self) -> list[str]:
        """Give the tenants whose time has come."""
        return [tenant for tenant, count in self._counts.items() if self._is_due(tenant, count)]

    def _is_due(self, tenant: str, count: int) -> bool:
        by_number = 0 < self._every_interactions <= count
        by_time = 0 < self._every_ms <= self._clock.now_ms() - self._trained_ms[tenant]
        return by_number or (by_time and count > 0)

    async def _start(self, tenant: str) -> None:
        try:
            training_id = await self._training.start(tenant, hold_out=self._hold_out, seed=self._seed, activate=True)
        except ServiceError as error:  # one is running, too little data, profile_store is down: look again later
            _log.info("scheduled training put off", tenant=tenant, reason=error.message)
            return
        del self._counts[tenant]
        self._trained_ms[tenant] = self._clock.now_ms()
        _log.info("scheduled training begun", tenant=tenant, training_id=training_id)
