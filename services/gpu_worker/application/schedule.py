"""Decides when a tenant's model is trained anew without being asked."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from gpu_worker.application.training import TrainingService
from gpu_worker.domain.training import HoldOut
from servicekit.clock import Clock
from servicekit.errors import ServiceError
from servicekit.logs import get_logger

_LOOK_S = 5.0
_MINUTE_MS = 60_000

_log = get_logger(__name__)


class TrainingSchedule:
    """Trains a tenant after so many new interactions, or after so long if there were any.

    Every replica counts all interactions and one of them trains, so that another one goes on counting from where it
    was when that one is gone. New are those since the tenant's newest version began to be trained, to the minute when
    somebody else trained it. Replicas that hear of a new leader at different times may both train, which costs time
    only: each version has a name of its own, and the later one is activated only if it is no worse.

    Args:
        every_interactions: 0: their number does not matter.
        every_minutes: 0: the time does not matter.
        trained_ms: Reads when a tenant's newest version began to be trained, 0 when there is none; called in a thread.
        leads: Tells whether this replica is the one that trains.
    """

    def __init__(
        self,
        training: TrainingService,
        *,
        every_interactions: int,
        every_minutes: float,
        hold_out: HoldOut,
        seed: int,
        trained_ms: Callable[[str], int],
        leads: Callable[[], bool],
        clock: Clock,
    ) -> None:
        self._training = training
        self._every_interactions = every_interactions
        self._every_ms = every_minutes * _MINUTE_MS
        self._hold_out = hold_out
        self._seed = seed
        self._read_trained_ms = trained_ms
        self._leads = leads
        self._clock = clock
        self._trained_ms: dict[str, int] = {}
        self._counts: dict[str, Counter[int]] = {}

    def note(self, tenant: str, interactions: int) -> None:
        """Count new interactions."""
        now_ms = self._clock.now_ms()
        self._counts.setdefault(tenant, Counter())[now_ms // _MINUTE_MS] += interactions
        # A tenant without a version is trained so long after its first interaction.
        self._trained_ms.setdefault(tenant, now_ms)

    async def run(self, stop: asyncio.Event) -> None:
        """Look every few seconds until `stop` is set."""
        while not stop.is_set():
            if self._leads():
                await self._train_the_due()
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _LOOK_S)

    async def _train_the_due(self) -> None:
        try:
            due = await self.due()
        except ServiceError as error:
            _log.warning("the model store does not say what was trained; next time", error=error.message)
            return
        for tenant in due:
            await self._start(tenant)

    async def due(self) -> list[str]:
        """Give the tenants whose time has come, by what is known of their newest versions now.

        Raises:
            ServiceError: The model store cannot be read.
        """
        return [tenant for tenant in list(self._counts) if self._is_due(tenant) and await self._is_still_due(tenant)]

    def _is_due(self, tenant: str) -> bool:
        count = self._counts[tenant].total()
        by_number = 0 < self._every_interactions <= count
        by_time = 0 < self._every_ms <= self._clock.now_ms() - self._trained_ms[tenant]
        return by_number or (by_time and count > 0)

    async def _is_still_due(self, tenant: str) -> bool:
        trained_ms = await asyncio.to_thread(self._read_trained_ms, tenant)
        if trained_ms > self._trained_ms[tenant]:
            self._trained_ms[tenant] = trained_ms
            counts, minute = self._counts[tenant], trained_ms // _MINUTE_MS
            self._counts[tenant] = Counter({then: count for then, count in counts.items() if then >= minute})
        return self._is_due(tenant)

    async def _start(self, tenant: str) -> None:
        counted = self._counts[tenant]
        self._counts[tenant] = Counter()
        try:
            training_id = await self._training.start(tenant, hold_out=self._hold_out, seed=self._seed, activate=True)
        except ServiceError as error:  # one is running, too little data, profile_store is down: look again later
            self._counts[tenant] += counted
            _log.info("scheduled training put off", tenant=tenant, reason=error.message)
            return
        self._trained_ms[tenant] = self._clock.now_ms()
        _log.info("scheduled training begun", tenant=tenant, training_id=training_id)
