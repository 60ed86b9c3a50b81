"""Wires gpu_worker and runs it until it is told to stop."""

import asyncio
from contextlib import AsyncExitStack
from secrets import token_hex

from gpu_worker.adapters.encoders import open_encoder
from gpu_worker.adapters.event_log import LogAnnouncer
from gpu_worker.adapters.gpu_gauge import show_gpus
from gpu_worker.adapters.log_items import LogItems
from gpu_worker.adapters.model_stores import open_model_store
from gpu_worker.adapters.profile_store import GrpcCatalogue
from gpu_worker.adapters.training_choice import choose_methods
from gpu_worker.adapters.training_process import ProcessTrainer
from gpu_worker.adapters.use_encoder import UseTextEncoder
from gpu_worker.adapters.vector_search import GrpcVectorIndex
from gpu_worker.adapters.vector_search_rebuild import GrpcRebuiltIndex
from gpu_worker.api import SERVICE_NAME, GpuWorkerServicer
from gpu_worker.application.embedding import ContentEmbedder
from gpu_worker.application.encoding import TextEncoding
from gpu_worker.application.gathering import AttributeRoles
from gpu_worker.application.rebuilding import VectorRebuilds
from gpu_worker.application.registry import ModelRegistry
from gpu_worker.application.schedule import TrainingSchedule
from gpu_worker.application.training import TrainingRules, TrainingService
from gpu_worker.consumer import GROUP, ContentConsumer, InteractionCounter
from gpu_worker.domain.items import TextRules
from gpu_worker.domain.ports import ModelStore, TextEncoder, Trainer
from gpu_worker.domain.rebuilding import Source
from gpu_worker.settings import GpuWorkerSettings
from recommendation.gpu_worker.v1 import gpu_worker_pb2_grpc as pb_grpc
from servicekit.clock import Clock, SystemClock
from servicekit.costs import show_costs
from servicekit.eventlog.open import event_log_of, topics_of
from servicekit.eventlog.port import EventLog, Start, TopicPartition
from servicekit.eventlog.runner import ConsumerRunner
from servicekit.eventlog.topics import CONTENT_CHANGED, USER_INTERACTIONS
from servicekit.metrics import serve_metrics
from servicekit.rpc.client import RpcChannel
from servicekit.rpc.server import GrpcServer
from servicekit.tasks import BackgroundTasks


class Wiring:
    """What the service is made of.

    Args:
        encoder: Makes vectors of texts.
        trainer: Makes versions.
    """

    def __init__(
        self,
        settings: GpuWorkerSettings,
        *,
        log: EventLog,
        vectors: RpcChannel,
        profiles: RpcChannel,
        encoder: TextEncoder,
        trainer: Trainer,
        store: ModelStore,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._log = log
        self._store = store
        self._clock = clock
        self._changes = log.consumer([CONTENT_CHANGED], group=GROUP, member=settings.member)
        announcer = LogAnnouncer(log, clock)
        index = GrpcVectorIndex(vectors)
        self._encoding = TextEncoding(encoder)
        rules = TextRules(settings.embedded_attributes, settings.embedded_words)
        self._embedder = ContentEmbedder(
            encoder,
            index,
            announcer,
            rules=rules,
            neighbours=settings.embedded_neighbours,
        )
        self.registry = ModelRegistry(store, index, announcer, kept=settings.kept_versions)
        catalogue = GrpcCatalogue(profiles)
        self.rebuilds = VectorRebuilds(
            encoder=encoder,
            index=GrpcRebuiltIndex(vectors),
            sources={Source.PROFILE_STORE: catalogue, Source.LOG: LogItems(log)},
            rules=rules,
            new_token=lambda: token_hex(8),
        )
        self.training = TrainingService(
            catalogue=catalogue,
            index=index,
            announcer=announcer,
            trainer=trainer,
            store=store,
            registry=self.registry,
            encoder={"model_id": encoder.model_id, "dimensions": encoder.dimensions},
            rules=TrainingRules(
                AttributeRoles(settings.person_attributes, settings.genre_attributes),
                min_interactions=settings.training_min_interactions,
                revision=settings.git_revision,
            ),
            clock=clock,
            new_token=lambda: token_hex(8),
        )

    def make_server(self) -> GrpcServer:
        """Give the server of the use cases, not yet started."""
        servicer = GpuWorkerServicer(self._encoding, self.training, self.registry, self.rebuilds)
        return GrpcServer(
            host=self._settings.host,
            port=self._settings.grpc_port,
            service_names=(SERVICE_NAME,),
            register=lambda server: pb_grpc.add_GpuWorkerServiceServicer_to_server(servicer, server),
            shutdown_grace_s=self._settings.shutdown_grace_s,
            tls=self._settings.tls,
        )

    def make_content_runner(self) -> ConsumerRunner:
        """Give what embeds changes of the catalogue."""
        return ConsumerRunner(
            self._changes,
            ContentConsumer(self._embedder).handle,
            self._log.producer(),
            name=GROUP,
            max_batch=self._settings.embed_max_batch,
            max_failures_in_a_row=self._settings.consumer_max_failures_in_a_row,
            linger_s=self._settings.embed_linger_s,
        )

    def make_schedule(self) -> TrainingSchedule:
        """Give what decides when to train; the replica that embeds the first partition trains for all."""
        return TrainingSchedule(
            self.training,
            every_interactions=self._settings.train_every_interactions,
            every_minutes=self._settings.train_every_minutes,
            hold_out=self._settings.training_hold_out,
            seed=self._settings.training_seed,
            trained_ms=self._newest_ms,
            leads=lambda: TopicPartition(CONTENT_CHANGED, 0) in self._changes.position(),
            clock=self._clock,
        )

    def make_interaction_runner(self, schedule: TrainingSchedule) -> ConsumerRunner:
        """Give what counts interactions for the schedule."""
        return ConsumerRunner(
            self._log.consumer([USER_INTERACTIONS], group=None, start=Start.LATEST),
            InteractionCounter(schedule).handle,
            self._log.producer(),
            name="gpu_worker.schedule",
            max_batch=5_000,
        )

    def _newest_ms(self, tenant: str) -> int:
        newest = self._store.versions(tenant)[:1]
        return max((int(self._store.manifest(tenant, version)["trained_at_ms"]) for version in newest), default=0)


async def run(settings: GpuWorkerSettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set; ready at once, since whoever encodes waits until the encoder is loaded."""
    async with AsyncExitStack() as opened:
        encoder = await open_encoder(
            settings.encoder,
            models_dir=settings.models_dir,
            model=settings.encoder_model,
            device=settings.torch_device,
            threads=settings.encoder_threads,
            max_words=settings.embedded_words,
        )
        opened.callback(encoder.close)
        methods = await asyncio.to_thread(
            choose_methods,
            settings.trainer_backend,
            factors=settings.factors_model,
            device=settings.torch_device,
            precision=settings.torch_precision,
            memory_bytes=int(settings.torch_memory_gib * 2**30),
            dense_items=settings.training_dense_items,
            threads=settings.training_threads,
        )
        log = event_log_of(settings)
        opened.push_async_callback(log.close)
        await log.ensure_topics(topics_of(settings))
        folder = settings.data_dir / "gpu_worker"
        store = await open_model_store(
            settings.model_store_url,
            s3_endpoint_url=settings.s3_endpoint_url,
            staging=folder / "staging",
            wait_s=settings.store_wait_s,
        )
        opened.callback(store.close)
        wiring = Wiring(
            settings,
            log=log,
            vectors=await opened.enter_async_context(
                RpcChannel(settings.vector_db_endpoint, name="vector_search", tls=settings.tls)
            ),
            profiles=await opened.enter_async_context(
                RpcChannel(settings.agentdb_endpoint, name="profile_store", tls=settings.tls)
            ),
            encoder=encoder,
            trainer=ProcessTrainer(
                folder / "training",
                model_store_url=settings.model_store_url,
                s3_endpoint_url=settings.s3_endpoint_url,
                methods=methods,
            ),
            store=store,
            clock=SystemClock(),
        )
        opened.push_async_callback(wiring.training.close)
        opened.push_async_callback(wiring.rebuilds.close)
        tasks = await opened.enter_async_context(BackgroundTasks(stop))
        server = await opened.enter_async_context(wiring.make_server())
        show_costs("gpu_worker", settings)
        show_gpus()
        opened.enter_context(serve_metrics(settings.metrics_port, settings.host))
        await wiring.training.clean_up()
        await wiring.registry.announce_again()
        tasks.start(wiring.make_content_runner().run(stop), name="embedding")
        if settings.vector_gap_interval_s:
            tasks.start(wiring.rebuilds.watch_gaps(settings.vector_gap_interval_s), name="lost vectors")
        if settings.train_every_interactions or settings.train_every_minutes:
            schedule = wiring.make_schedule()
            tasks.start(wiring.make_interaction_runner(schedule).run(stop), name="interactions")
            tasks.start(schedule.run(stop), name="schedule")
        server.set_serving(True)
        if isinstance(encoder, UseTextEncoder):  # the other one is loaded before it has an id
            encoder.load()
        await stop.wait()
