"""Training runs: begun on demand, done in the background, told about while they go on."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from gpu_worker.application.gathering import AttributeRoles, count_interactions, gather
from gpu_worker.application.registry import ModelRegistry, Standing
from gpu_worker.domain.ports import Announcer, Catalogue, ModelStore, Trainer, TrainingJob, VectorIndex
from gpu_worker.domain.training import HoldOut, Progress, TrainingData
from gpu_worker.domain.versions import Manifest, name_version
from servicekit.clock import Clock
from servicekit.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    NotFoundError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
)
from servicekit.logs import get_logger

_REMEMBERED_RUNS = 100
_GATHERED = 0.1  # the part of a run that is done when the data is gathered
_TRAINED = 0.95
# No training takes this long to write its version; whatever was begun before is a killed process's.
_ABANDONED_MS = 24 * 3_600_000
_ACTIVATE_AGAIN_S = 5.0
_LONGEST_PAUSE_S = 600.0
# Somebody did not answer, which says nothing about the version.
_PASSING = (UnavailableError, DeadlineExceededError, ResourceExhaustedError)

_log = get_logger(__name__)


class RunState(StrEnum):
    """Where a run stands."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """How a run is going.

    Args:
        message: Why it failed or its version was not activated.
        activation_pending: Whether the activation is tried again, since a service or a store did not answer.
        report: The manifest's report and metrics, empty until the version is written.
    """

    training_id: str
    tenant: str
    state: RunState = RunState.RUNNING
    stage: str = "waiting"
    progress: float = 0.0
    version: str = ""
    activated: bool = False
    message: str = ""
    activation_pending: bool = False
    report: Manifest | None = None


@dataclass(frozen=True, slots=True)
class TrainingRules:
    """What a deployment decides about training.

    Args:
        roles: Which attributes name people and genres.
        min_interactions: With fewer no training begins.
        revision: The git revision that runs, for the manifest; empty when unknown.
    """

    roles: AttributeRoles
    min_interactions: int = 100
    revision: str = ""


class TrainingService:
    """One run of a tenant at a time, and one run in all: the others wait. Runs are forgotten after a restart."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        index: VectorIndex,
        announcer: Announcer,
        trainer: Trainer,
        store: ModelStore,
        registry: ModelRegistry,
        encoder: Manifest,
        rules: TrainingRules,
        clock: Clock,
        new_token: Callable[[], str],
    ) -> None:
        self._catalogue = catalogue
        self._index = index
        self._announcer = announcer
        self._trainer = trainer
        self._store = store
        self._registry = registry
        self._encoder = encoder
        self._rules = rules
        self._clock = clock
        self._new_token = new_token
        self._runs: OrderedDict[str, TrainingRun] = OrderedDict()
        self._tenants: set[str] = set()
        self._wanted: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()

    async def start(self, tenant: str, *, hold_out: HoldOut, seed: int, activate: bool) -> str:
        """Begin a run and give its id.

        Raises:
            FailedPreconditionError: One of this tenant is running, or there are too few interactions.
        """
        if tenant in self._tenants:
            raise FailedPreconditionError(f"a training of tenant {tenant} is running; wait for its end")
        self._tenants.add(tenant)
        try:
            await self._require_data(tenant)
        except BaseException:
            self._tenants.discard(tenant)
            raise
        training_id = self._new_token()
        self._runs[training_id] = TrainingRun(training_id, tenant)
        while len(self._runs) > _REMEMBERED_RUNS:
            self._runs.popitem(last=False)
        work = self._run(training_id, hold_out=hold_out, seed=seed, activate=activate)
        self._begin(work, name=f"training-{training_id}")
        return training_id

    def get(self, training_id: str) -> TrainingRun:
        """Tell how a run is going.

        Raises:
            NotFoundError: There is no such run, or it is forgotten.
        """
        try:
            return self._runs[training_id]
        except KeyError:
            raise NotFoundError(f"no training {training_id} is known here", field="training_id") from None

    async def clean_up(self) -> None:
        """Remove what killed trainings left in the model store long ago; those of other workers may still be going."""
        before_ms = self._clock.now_ms() - _ABANDONED_MS
        try:
            await asyncio.to_thread(lambda: self._store.delete_unfinished(before_ms=before_ms))
        except ServiceError as error:
            _log.warning("the model store was not cleaned up; next time", error=error.message)

    async def close(self) -> None:
        """Break off what runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _require_data(self, tenant: str) -> None:
        needed = self._rules.min_interactions
        found = await count_interactions(tenant, self._catalogue, enough=needed)
        if found < needed:
            raise FailedPreconditionError(
                f"tenant {tenant} has {found} interactions, and training needs at least {needed}"
            )

    async def _run(self, training_id: str, *, hold_out: HoldOut, seed: int, activate: bool) -> None:
        tenant = self._runs[training_id].tenant
        try:
            async with self._turn:
                version = await self._make_version(training_id, tenant, hold_out, seed)
                fault = await self._activate(training_id, tenant, version) if activate else None
            activated, message = activate and fault is None, fault.message if fault else ""
            self._note(
                training_id, state=RunState.SUCCEEDED, stage="done", progress=1.0, activated=activated, message=message
            )
            _log.info("trained", tenant=tenant, version=version, activated=activated, message=message)
        except ServiceError as error:
            self._note(training_id, state=RunState.FAILED, message=error.message)
            _log.warning("training failed", tenant=tenant, training_id=training_id, error=error.message)
        except Exception as error:  # noqa: BLE001 - whatever broke, the run must say that it has ended
            self._note(training_id, state=RunState.FAILED, message=f"a fault of the service: {error!r}")
            _log.exception("training failed", tenant=tenant, training_id=training_id)
        finally:
            self._tenants.discard(tenant)

    async def _make_version(self, training_id: str, tenant: str, hold_out: HoldOut, seed: int) -> str:
        # The position comes first: what changes during the export is read again from the log.
        position = await self._announcer.catalogue_position()
        started_ms = self._clock.now_ms()
        gathered = await gather(
            tenant,
            self._catalogue,
            self._index,
            roles=self._rules.roles,
            progress=self._part(training_id, 0.0, _GATHERED),
        )
        version = name_version(started_ms, self._new_token()[:8])
        parent = (await self._registry.active(tenant)).version
        origin = {
            "trained_at_ms": started_ms,
            "data": _describe(gathered.data),
            "log_position": position,
            "encoder": self._encoder,
            "parents": {"version": parent} if parent else {},
            "git_revision": self._rules.revision,
        }
        job = TrainingJob(tenant, version, hold_out, seed, gathered.data, gathered.items, origin)
        del gathered
        await self._trainer.train(job, self._part(training_id, _GATHERED, _TRAINED))
        manifest = await asyncio.to_thread(self._store.manifest, tenant, version)
        self._note(training_id, version=version, report={key: manifest[key] for key in ("metrics", "report")})
        await self._registry.delete_old(tenant)
        await self.clean_up()
        return version

    async def _activate(self, training_id: str, tenant: str, version: str) -> ServiceError | None:
        """Activate, and give why it was not; when somebody did not answer it is tried again in the background."""
        self._note(training_id, stage="activating", progress=_TRAINED)
        self._wanted[tenant] = version
        try:
            before = await self._registry.standing(tenant)
            try:
                await self._registry.activate(tenant, version)
            except _PASSING as error:
                self._note(training_id, activation_pending=True)
                self._begin(self._keep_activating(training_id, tenant, version, before), name=f"activation-{version}")
                return error
        except ServiceError as error:
            return error
        return None

    async def _keep_activating(self, training_id: str, tenant: str, version: str, before: Standing) -> None:
        """Activate when all answer again, unless a later training or a person has chosen another version by then."""
        pause_s = _ACTIVATE_AGAIN_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            try:
                if self._wanted[tenant] != version:
                    raise FailedPreconditionError(f"version {version} was not activated: a later one was trained")
                await self._registry.activate(tenant, version, instead_of=before)
            except _PASSING as error:
                _log.warning(
                    "the trained version cannot be activated, trying again",
                    tenant=tenant,
                    version=version,
                    error=error.message,
                    again_in_s=pause_s,
                )
            except ServiceError as error:
                self._note(training_id, activation_pending=False, message=error.message)
                _log.warning("the trained version is given up", tenant=tenant, version=version, error=error.message)
                return
            else:
                self._note(training_id, activation_pending=False, activated=True, message="")
                _log.info("the trained version was activated after all", tenant=tenant, version=version)
                return

    def _begin(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        # In a context of its own: the deadline of the call that starts a run is not the run's.
        task = asyncio.create_task(work, name=name, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _part(self, training_id: str, begin: float, end: float) -> Progress:
        def tell(stage: str, done: float) -> None:
            self._note(training_id, stage=stage, progress=begin + (end - begin) * min(max(done, 0.0), 1.0))

        return tell

    def _note(self, training_id: str, **changes: Any) -> None:
        run = self._runs.get(training_id)
        if run is not None:
            self._runs[training_id] = replace(run, **changes)


def _describe(data: TrainingData) -> dict[str, int]:
    """Say how much there is to learn from, for the manifest."""
    times = data.times_ms
    return {
        "items": len(data.item_keys),
        "users": int((data.user_keys[1:] != data.user_keys[:-1]).sum()) + 1 if len(data.user_keys) else 0,
        "interactions": len(data.user_keys),
        "from_ms": int(times.min()) if len(times) else 0,
        "to_ms": int(times.max()) if len(times) else 0,
    }
