"""The RPCs: each reads the request, makes one call and writes the answer."""
# ruff: noqa: D102, N802 - the proto names and describes the methods

from gpu_worker import convert
from gpu_worker.application.encoding import TextEncoding
from gpu_worker.application.rebuilding import VectorRebuilds
from gpu_worker.application.registry import ModelRegistry
from gpu_worker.application.training import TrainingService
from recommendation.gpu_worker.v1 import gpu_worker_pb2 as pb
from recommendation.gpu_worker.v1 import gpu_worker_pb2_grpc as pb_grpc
from servicekit.arrays import pack_floats
from servicekit.errors import InvalidArgumentError

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["GpuWorkerService"].full_name


class GpuWorkerServicer(pb_grpc.GpuWorkerServiceServicer):
    """The calls of the proto, where each is described."""

    def __init__(
        self, encoding: TextEncoding, training: TrainingService, registry: ModelRegistry, rebuilds: VectorRebuilds
    ) -> None:
        self._encoding = encoding
        self._training = training
        self._registry = registry
        self._rebuilds = rebuilds

    async def EncodeTexts(self, request: pb.EncodeTextsRequest, _: object) -> pb.EncodeTextsResponse:
        vectors = await self._encoding.encode(request.texts)
        return pb.EncodeTextsResponse(
            vectors=pack_floats(vectors),
            dimensions=self._encoding.dimensions,
            model_id=self._encoding.model_id,
        )

    async def StartTraining(self, request: pb.StartTrainingRequest, _: object) -> pb.StartTrainingResponse:
        training_id = await self._training.start(
            _tenant_of(request.tenant),
            hold_out=convert.hold_out_from_message(request.hold_out),
            seed=request.seed,
            activate=request.activate,
        )
        return pb.StartTrainingResponse(training_id=training_id)

    async def GetTraining(self, request: pb.GetTrainingRequest, _: object) -> pb.GetTrainingResponse:
        return convert.run_to_message(self._training.get(request.training_id))

    async def ListModels(self, request: pb.ListModelsRequest, _: object) -> pb.ListModelsResponse:
        models = await self._registry.models(_tenant_of(request.tenant))
        return pb.ListModelsResponse(models=map(convert.model_to_message, models))

    async def ActivateModel(self, request: pb.ActivateModelRequest, _: object) -> pb.ActivateModelResponse:
        previous = await self._registry.activate(_tenant_of(request.tenant), request.version, force=request.force)
        return pb.ActivateModelResponse(previous_version=previous)

    async def RollbackModel(self, request: pb.RollbackModelRequest, _: object) -> pb.RollbackModelResponse:
        return pb.RollbackModelResponse(version=await self._registry.roll_back(_tenant_of(request.tenant)))

    async def StartRebuild(self, request: pb.StartRebuildRequest, _: object) -> pb.StartRebuildResponse:
        source = convert.source_from_message(request.source)
        return pb.StartRebuildResponse(rebuild_id=await self._rebuilds.start(_tenant_of(request.tenant), source))

    async def GetRebuild(self, request: pb.GetRebuildRequest, _: object) -> pb.GetRebuildResponse:
        return convert.rebuild_to_message(self._rebuilds.get(request.rebuild_id))


def _tenant_of(tenant: str) -> str:
    if not tenant or len(tenant) > 64:
        raise InvalidArgumentError("tenant must have 1 to 64 characters", field="tenant")
    return tenant
