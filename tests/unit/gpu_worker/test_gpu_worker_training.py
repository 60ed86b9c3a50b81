"""From a request to an active version, through a real training process and the services' real wires."""

import asyncio
import json
import runpy
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from gpu_worker.adapters.folder_model_store import FolderModelStore
from gpu_worker.adapters.training_process import ProcessTrainer
from gpu_worker.api import SERVICE_NAME
from gpu_worker.application import training
from gpu_worker.application.building import Train, build_version
from gpu_worker.bootstrap import Wiring
from gpu_worker.domain.ports import Trainer, TrainingJob
from gpu_worker.domain.training import MethodChoice, Progress
from gpu_worker.settings import GpuWorkerSettings
from recommendation.common.v1 import common_pb2
from recommendation.events.v1 import events_pb2
from recommendation.gpu_worker.v1 import gpu_worker_pb2 as pb
from recommendation.gpu_worker.v1 import gpu_worker_pb2_grpc as pb_grpc
from recommendation.profile_store.v1 import profile_store_pb2 as profile_pb
from recommendation.profile_store.v1 import profile_store_pb2_grpc as profile_grpc
from recommendation.vector_search.v1 import vector_search_pb2 as vector_pb
from recommendation.vector_search.v1 import vector_search_pb2_grpc as vector_grpc
from servicekit.arrays import Floats, pack_floats, pack_keys, unpack_floats
from servicekit.clock import ManualClock
from servicekit.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ServiceError,
)
from servicekit.eventlog.memory import MemoryEventLog
from servicekit.eventlog.port import NewRecord
from servicekit.eventlog.topics import CONTENT_CHANGED, MODEL_PUBLISHED, default_specs
from servicekit.identity import item_key
from servicekit.rpc.client import RpcChannel
from servicekit.rpc.server import GrpcServer
from servicekit.testing import eventually, served

BASELINE = Path(__file__).with_name("training_baseline.py")
ITEMS = [
    common_pb2.Item(tenant="t", item_type="film", item_id=str(number), title=f"Film {number}", hidden=number == 3)
    for number in range(10)
]
KEYS = [item_key("t", "film", str(number)) for number in range(10)]


class FakeProfileStore(profile_grpc.ProfileStoreServiceServicer):
    interactions = 60

    async def ExportItems(  # noqa: N802 - the proto names it
        self, request: profile_pb.ExportItemsRequest, _: object
    ) -> AsyncIterator[profile_pb.ExportItemsResponse]:
        if request.tenant == "t":
            yield profile_pb.ExportItemsResponse(items=ITEMS[:4])
            yield profile_pb.ExportItemsResponse(items=ITEMS[4:])

    async def ExportInteractions(  # noqa: N802 - the proto names it
        self, request: profile_pb.ExportInteractionsRequest, _: object
    ) -> AsyncIterator[profile_pb.ExportInteractionsResponse]:
        count = self.interactions if request.tenant == "t" else 0
        for user in range(count // 6):
            keys = [KEYS[(user + step) % 10] for step in range(5)] + [12345]  # the last is of no catalogue
            yield profile_pb.ExportInteractionsResponse(
                user_keys=pack_keys([user] * 6),
                item_keys=pack_keys(keys),
                weights=pack_floats([1.0] * 6),
                times_ms=pack_keys(range(1_000, 1_006)),
            )


@dataclass
class FakeVectorSearch(vector_grpc.VectorSearchServiceServicer):
    activated: list[str] = field(default_factory=list)
    refuses: bool = False
    late: int = 0

    async def ExportEmbeddings(  # noqa: N802 - the proto names it
        self, _request: vector_pb.ExportEmbeddingsRequest, _: object
    ) -> AsyncIterator[vector_pb.ExportEmbeddingsResponse]:
        for keys in (KEYS[:3], [77, KEYS[4]]):
            vectors = np.ones((len(keys), 2), np.float32)
            yield vector_pb.ExportEmbeddingsResponse(
                item_keys=pack_keys(keys), vectors=pack_floats(vectors), dimensions=2
            )

    async def ActivateVersion(  # noqa: N802 - the proto names it
        self, request: vector_pb.ActivateVersionRequest, _: object
    ) -> vector_pb.ActivateVersionResponse:
        if self.refuses:
            raise FailedPreconditionError("recall is too low")
        if self.late:
            self.late -= 1
            raise DeadlineExceededError("Qdrant did not answer")
        self.activated.append(request.version)
        return vector_pb.ActivateVersionResponse()


class NoEncoder:
    model_id = "none/1"
    dimensions = 2

    async def encode(self, texts: list[str]) -> Floats:
        return np.full((len(texts), 2), 0.5, np.float32)


class ThreadTrainer:
    """Trains without a process, for the tests that are about what happens around it."""

    def __init__(self, store: FolderModelStore) -> None:
        self._store = store
        self._train: Train = runpy.run_path(str(BASELINE))["train"]

    async def train(self, job: TrainingJob, progress: Progress) -> None:
        await asyncio.to_thread(build_version, job, train=self._train, store=self._store, progress=progress)


@dataclass
class World:
    """gpu_worker behind its channel, and what stands around it."""

    channel: RpcChannel
    log: MemoryEventLog
    store: FolderModelStore
    folder: Path
    profiles: FakeProfileStore
    vectors: FakeVectorSearch
    wiring: Wiring

    def __post_init__(self) -> None:
        self.stub = pb_grpc.GpuWorkerServiceStub(self.channel.channel)

    async def start(self, seed: int = 1, *, activate: bool = True, tenant: str = "t") -> str:
        request = pb.StartTrainingRequest(tenant=tenant, seed=seed, activate=activate)
        return (await self.channel.unary(self.stub.StartTraining, request, timeout_s=5)).training_id

    async def get(self, training_id: str) -> pb.GetTrainingResponse:
        request = pb.GetTrainingRequest(training_id=training_id)
        return await self.channel.unary(self.stub.GetTraining, request, timeout_s=5)

    async def train(self, seed: int = 1, *, activate: bool = True) -> pb.GetTrainingResponse:
        training_id = await self.start(seed, activate=activate)

        async def ended() -> pb.GetTrainingResponse | None:
            run = await self.get(training_id)
            return run if run.state != pb.TRAINING_STATE_RUNNING else None

        run = await eventually(ended, timeout_s=30, interval_s=0.05)
        assert run is not None
        return run

    async def models(self) -> list[pb.ListModelsResponse.Model]:
        return list(
            (await self.channel.unary(self.stub.ListModels, pb.ListModelsRequest(tenant="t"), timeout_s=5)).models
        )

    async def activate(self, version: str, *, force: bool = False) -> str:
        request = pb.ActivateModelRequest(tenant="t", version=version, force=force)
        return (await self.channel.unary(self.stub.ActivateModel, request, timeout_s=5)).previous_version

    async def roll_back(self) -> str:
        request = pb.RollbackModelRequest(tenant="t")
        return (await self.channel.unary(self.stub.RollbackModel, request, timeout_s=5)).version

    async def published(self) -> list[str]:
        records = await self.log.consumer([MODEL_PUBLISHED], group=None).poll(max_records=100, timeout_s=0)
        return [events_pb2.ModelPublished.FromString(record.value).version for record in records]


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return ThreadTrainer(FolderModelStore(tmp_path / "models"))


class ProcessTraining:
    @pytest.fixture
    def trainer(self, tmp_path: Path) -> Trainer:
        return ProcessTrainer(
            tmp_path / "spool",
            model_store_url=(tmp_path / "models").as_uri(),
            methods=MethodChoice(),
            command=(sys.executable, str(BASELINE)),
        )


@pytest.fixture
async def world(tmp_path: Path, trainer: Trainer) -> AsyncIterator[World]:
    profiles = FakeProfileStore()  # type: ignore[abstract]  # the calls that training makes
    vectors = FakeVectorSearch()  # type: ignore[abstract]  # as above
    log = MemoryEventLog()
    await log.ensure_topics(default_specs(2))
    folder = tmp_path / "models"
    store = FolderModelStore(folder)
    settings = GpuWorkerSettings(
        grpc_port=0, data_dir=tmp_path, training_min_interactions=50, kept_versions=1, git_revision="abc"
    )
    async with AsyncExitStack() as opened:

        def register(server: object) -> None:
            profile_grpc.add_ProfileStoreServiceServicer_to_server(profiles, server)  # type: ignore[arg-type]
            vector_grpc.add_VectorSearchServiceServicer_to_server(vectors, server)  # type: ignore[arg-type]

        _, others = await opened.enter_async_context(served(register))
        wiring = Wiring(
            settings,
            log=log,
            vectors=others,
            profiles=others,
            encoder=NoEncoder(),  # type: ignore[arg-type]  # a list is a sequence
            trainer=trainer,
            store=store,
            clock=ManualClock(),
        )
        opened.push_async_callback(wiring.training.close)
        server: GrpcServer = await opened.enter_async_context(wiring.make_server())
        server.set_serving(True)
        channel = await opened.enter_async_context(RpcChannel(f"127.0.0.1:{server.port}", name=SERVICE_NAME))
        yield World(channel, log, store, folder, profiles, vectors, wiring)


async def test_what_is_worse_is_not_activated(world: World) -> None:
    good = await world.train(seed=5)
    close = await world.train(seed=7)  # .02 below .45, and two standard errors are .028
    assert close.activated
    bad = await world.train(seed=12)
    assert bad.state == pb.TRAINING_STATE_SUCCEEDED
    assert not bad.activated
    assert "worse than the 0.4300 of the active version" in bad.message
    by_version = {model.version: model for model in await world.models()}
    assert by_version[close.version].active
    assert by_version[bad.version].refused_because in bad.message
    assert by_version[bad.version].metrics["NDCG@10"] == pytest.approx(0.38)
    with pytest.raises(FailedPreconditionError, match="worse"):
        await world.activate(bad.version)
    assert await world.activate(bad.version, force=True) == close.version
    assert await world.published() == [good.version, close.version, bad.version]


async def test_what_is_worse_than_popularity_is_not_activated(world: World) -> None:
    run = await world.train(seed=30)
    assert "worse than the 0.3000 of popularity" in run.message
    assert not world.vectors.activated


async def test_what_vector_search_refuses_does_not_serve(world: World) -> None:
    good = await world.train(seed=2)
    world.vectors.refuses = True
    run = await world.train(seed=2)
    assert (run.activated, run.message) == (False, "recall is too low")
    assert world.store.active("t").version == good.version
    assert await world.published() == [good.version]


async def test_what_could_not_be_verified_in_time_is_activated_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_ACTIVATE_AGAIN_S", 0.05)
    good = await world.train(seed=2)
    world.vectors.late = 3
    training_id = await world.start(seed=2)

    async def is_pending() -> bool:
        return (await world.get(training_id)).activation_pending

    await eventually(is_pending, interval_s=0.01)
    assert world.store.active("t").version == good.version

    async def activated() -> pb.GetTrainingResponse | None:
        run = await world.get(training_id)
        return run if run.activated else None

    run = await eventually(activated)
    assert run is not None
    assert (run.state, run.message, run.activation_pending) == (pb.TRAINING_STATE_SUCCEEDED, "", False)
    assert world.store.active("t").version == run.version
    assert await world.published() == [good.version, run.version]


async def test_what_a_person_chose_meanwhile_is_not_replaced(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_ACTIVATE_AGAIN_S", 0.3)
    first, second = await world.train(seed=2), await world.train(seed=2)
    world.vectors.late = 1
    pending = await world.train(seed=2)
    assert (pending.activated, pending.activation_pending, pending.message) == (False, True, "Qdrant did not answer")
    await world.activate(pending.version)
    assert await world.roll_back() == second.version  # where it was, but chosen

    async def given_up() -> bool:
        runs = [run for run in world.wiring.training._runs.values() if run.version == pending.version]
        return not runs[0].activation_pending and "another was chosen meanwhile" in runs[0].message

    await eventually(given_up)
    assert world.vectors.activated == [first.version, second.version, pending.version, second.version]
    assert world.store.active("t").version == second.version


async def test_rollback_goes_back_and_only_so_far(world: World) -> None:
    first, second = await world.train(seed=5), await world.train(seed=4)
    assert await world.roll_back() == first.version
    assert world.vectors.activated == [first.version, second.version, first.version]
    assert world.store.active("t").version == first.version
    with pytest.raises(FailedPreconditionError, match="no version"):
        await world.roll_back()
    with pytest.raises(NotFoundError):
        await world.activate("20200101T000000-00000000")
    with pytest.raises(NotFoundError):
        await world.activate("../../etc")


async def test_old_versions_go_but_not_those_that_are_needed(world: World) -> None:
    active = await world.train(seed=2)
    idle = [(await world.train(seed=3, activate=False)).version for _ in range(3)]
    assert {model.version for model in await world.models()} <= {active.version, *idle}
    assert len(await world.models()) == 2
    assert any(model.active for model in await world.models())


async def test_texts_are_encoded_within_bounds(world: World) -> None:
    request = pb.EncodeTextsRequest(texts=["a", "b"])
    answer = await world.channel.unary(world.stub.EncodeTexts, request, timeout_s=5)
    assert (unpack_floats(answer.vectors, field="").tolist(), answer.dimensions) == ([0.5] * 4, 2)
    assert answer.model_id == "none/1"
    for texts in ([], ["x"] * 257, ["x" * 10_001]):
        with pytest.raises(InvalidArgumentError, match="texts"):
            await world.channel.unary(world.stub.EncodeTexts, pb.EncodeTextsRequest(texts=texts), timeout_s=5)


async def test_bad_requests_are_told(world: World) -> None:
    with pytest.raises(InvalidArgumentError, match="tenant"):
        await world.start(tenant="")
    with pytest.raises(InvalidArgumentError, match="hold_out"):
        await world.channel.unary(
            world.stub.StartTraining,
            pb.StartTrainingRequest(tenant="t", hold_out=9),  # type: ignore[arg-type]  # on purpose
            timeout_s=5,
        )
    assert not await world.models()


async def test_an_activation_that_was_not_announced_is_announced_at_the_next_start(world: World) -> None:
    run = await world.train(seed=2)
    await world.wiring.registry.announce_again()
    assert await world.published() == [run.version] * 2


class TestTheProcess(ProcessTraining):
    async def test_a_training_leaves_a_complete_version_and_activates_it(self, world: World) -> None:
        await world.log.producer().append([NewRecord(CONTENT_CHANGED, "k", b"")])
        run = await world.train(seed=2)
        assert (run.state, run.activated, run.message, run.progress) == (pb.TRAINING_STATE_SUCCEEDED, True, "", 1.0)
        assert json.loads(run.report_json)["metrics"]["popularity"] == {"NDCG@10": 0.3}
        assert world.vectors.activated == [run.version] == await world.published()
        assert json.loads((world.folder / "t" / "active.json").read_text())["version"] == run.version

        manifest = world.store.manifest("t", run.version)
        assert manifest["log_position"] == {
            "content.changed": {"0": 0, "1": 0},  # profile_store has applied nothing yet
            "content.embedded": {"0": 0, "1": 0},
        }
        assert manifest["data"] == {"items": 10, "users": 10, "interactions": 50, "from_ms": 1_000, "to_ms": 1_004}
        assert manifest["sources"]["cooccurrence"]["table"] == "cooccurrence"
        assert manifest["factors"]["dimensions"] == 2
        assert manifest["serving"] == {"version": run.version, "features": ["cooccurrence"], "weights": [1.0]}
        assert manifest["encoder"] == {"model_id": "none/1", "dimensions": 2}
        assert (manifest["hold_out"], manifest["seed"], manifest["git_revision"]) == ("time", 2, "abc")
        files = world.folder / "t" / run.version
        assert manifest["checksums"].keys() == {path.name for path in files.iterdir()} - {"manifest.json"}
        assert np.load(files / "item_keys.npy").tolist() == sorted(KEYS)
        assert np.load(files / "content_keys.npy").tolist() == sorted([*KEYS[:3], KEYS[4]])
        assert np.load(files / "content_vectors.npy").shape == (4, 2)
        assert np.load(files / "log_popularity.npy").tolist() == pytest.approx([np.log1p(5)] * 10)
        assert np.load(files / "cooccurrence.indptr.npy").shape == (11,)
        assert not list((world.folder.parent / "spool").iterdir())

    async def test_the_items_of_a_version_stand_in_the_order_of_their_numbers(self, world: World) -> None:
        run = await world.train(activate=False)
        assert not run.activated
        assert not world.vectors.activated
        packed = (world.folder / "t" / run.version / "items.bin").read_bytes()
        found = []
        while packed:
            length, packed = packed[0], packed[1:]  # one byte is enough for these
            found.append(common_pb2.Item.FromString(packed[:length]))
            packed = packed[length:]
        by_key = dict(zip(KEYS, ITEMS, strict=True))
        assert found == [by_key[key] for key in sorted(KEYS)]

    @pytest.mark.parametrize(("seed", "message"), [(13, "too few users"), (14, "ended with 3")])
    async def test_a_failed_training_says_why_and_leaves_nothing(self, world: World, seed: int, message: str) -> None:
        run = await world.train(seed=seed)
        assert run.state == pb.TRAINING_STATE_FAILED
        assert message in run.message
        assert not await world.models()
        assert (await world.train(seed=2)).activated

    async def test_one_training_of_a_tenant_at_a_time_and_only_with_enough_data(self, world: World) -> None:
        training_id = await world.start()
        with pytest.raises(FailedPreconditionError, match="is running"):
            await world.start()
        with pytest.raises(FailedPreconditionError, match="at least 50"):
            await world.start(tenant="empty")
        await world.wiring.training.close()
        assert not await world.models()
        assert (await world.get(training_id)).state != pb.TRAINING_STATE_SUCCEEDED
        with pytest.raises(NotFoundError):
            await world.get("unknown")
        world.profiles.interactions = 6
        with pytest.raises(ServiceError, match="at least 50"):
            await world.start()
