"""gpu_worker as the command sees it: trains, lists and switches models."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from recommend_cli.clients.services import errors_told
from recommend_cli.errors import CommandError
from recommendation.gpu_worker.v1 import gpu_worker_pb2 as pb
from recommendation.gpu_worker.v1 import gpu_worker_pb2_grpc as rpc
from servicekit.errors import FailedPreconditionError
from servicekit.rpc.client import RpcChannel

_CALL_S: Final = 10.0
_SWITCH_S: Final = 600.0  # vector_search builds and verifies before it switches, and waits for a slow store
_POLL_S: Final = 0.2
_TOO_LITTLE: Final = "training needs at least"  # the other precondition is that no training of the tenant runs


class HoldOut(Enum):
    """On which interactions the blend is fitted and the model judged."""

    TIME = "time"
    RANDOM = "random"


@dataclass(frozen=True, slots=True)
class Training:
    """How a training run ended, or stands."""

    version: str
    activated: bool
    message: str
    activation_pending: bool
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Model:
    """A version in the model store."""

    version: str
    trained_at_ms: int
    active: bool
    items: int
    users: int
    interactions: int
    metrics: dict[str, float]
    refused_because: str


class Trainer:
    """The models of one tenant."""

    def __init__(self, channel: RpcChannel, tenant: str) -> None:
        self._channel = channel
        self._stub = rpc.GpuWorkerServiceStub(channel.channel)
        self._tenant = tenant

    async def train(
        self, *, hold_out: HoldOut, seed: int, activate: bool, on_progress: Callable[[str, float], None]
    ) -> Training:
        """Train and wait for the end; `on_progress` takes the stage and the share done.

        Raises:
            CommandError: It cannot start, or fails.
        """
        request = pb.StartTrainingRequest(
            tenant=self._tenant,
            hold_out=pb.HOLD_OUT_RANDOM if hold_out is HoldOut.RANDOM else pb.HOLD_OUT_TIME,
            seed=seed,
            activate=activate,
        )
        with errors_told():
            training_id = await self._start(request)
            while True:
                state = await self._channel.unary(
                    self._stub.GetTraining,
                    pb.GetTrainingRequest(training_id=training_id),
                    timeout_s=_CALL_S,
                    idempotent=True,
                )
                on_progress(state.stage, state.progress)
                if state.state != pb.TRAINING_STATE_RUNNING:
                    break
                await asyncio.sleep(_POLL_S)
        if state.state != pb.TRAINING_STATE_SUCCEEDED:
            raise CommandError(f"Training failed: {state.message}")
        report = json.loads(state.report_json) if state.report_json else {}
        return Training(state.version, state.activated, state.message, state.activation_pending, report)

    async def _start(self, request: pb.StartTrainingRequest) -> str:
        try:
            return (await self._channel.unary(self._stub.StartTraining, request, timeout_s=_CALL_S)).training_id
        except FailedPreconditionError as error:
            if _TOO_LITTLE not in error.message:
                raise
            raise CommandError(
                error.message, hint="`recommend load interactions FILE` adds some; `--help` says what a file holds"
            ) from error

    async def models(self) -> Sequence[Model]:
        """List the versions, newest first."""
        with errors_told():
            answer = await self._channel.unary(
                self._stub.ListModels, pb.ListModelsRequest(tenant=self._tenant), timeout_s=_CALL_S, idempotent=True
            )
        return [
            Model(
                version=model.version,
                trained_at_ms=model.trained_at_ms,
                active=model.active,
                items=model.items,
                users=model.users,
                interactions=model.interactions,
                metrics=dict(model.metrics),
                refused_because=model.refused_because,
            )
            for model in answer.models
        ]

    async def activate(self, version: str, *, force: bool) -> str:
        """Make a version serve, and give the one that served before.

        Raises:
            CommandError: It was refused.
        """
        request = pb.ActivateModelRequest(tenant=self._tenant, version=version, force=force)
        with errors_told():
            answer = await self._channel.unary(self._stub.ActivateModel, request, timeout_s=_SWITCH_S)
        return answer.previous_version

    async def roll_back(self) -> str:
        """Go back to the version that served before, and give it.

        Raises:
            CommandError: There is none.
        """
        request = pb.RollbackModelRequest(tenant=self._tenant)
        with errors_told():
            answer = await self._channel.unary(self._stub.RollbackModel, request, timeout_s=_SWITCH_S)
        return answer.version
