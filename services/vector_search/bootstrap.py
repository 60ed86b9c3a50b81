"""Wires vector_search and runs it until it is told to stop."""

import asyncio
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from recommendation.vector_search.v1 import vector_search_pb2_grpc as pb_grpc
from servicekit.clock import Clock, SystemClock
from servicekit.costs import show_costs
from servicekit.errors import ServiceError
from servicekit.eventlog.open import event_log_of, topics_of
from servicekit.eventlog.port import EventLog
from servicekit.eventlog.topics import MODEL_PUBLISHED
from servicekit.logs import get_logger
from servicekit.metrics import MODEL_AGE, serve_metrics
from servicekit.migrations import MigrationTarget
from servicekit.rpc.server import GrpcServer
from servicekit.tasks import BackgroundTasks
from vector_search.adapters import dense_stores
from vector_search.adapters.dense_stores import QdrantOptions, open_dense_store
from vector_search.adapters.model_stores import open_model_store
from vector_search.api import SERVICE_NAME, VectorSearchServicer
from vector_search.application.content import ContentVectors
from vector_search.application.embeddings import Embeddings
from vector_search.application.rebuild import VectorRebuild
from vector_search.application.retrieval import Retrieval
from vector_search.application.tenants import Tenants
from vector_search.application.versions import Versions
from vector_search.consumer import LogFollower, LogTail
from vector_search.domain.changes import Change, VersionPublished
from vector_search.domain.ports import DenseStore, ModelStore
from vector_search.settings import VectorSearchSettings
from vector_search.warm import warm

_AGE_INTERVAL_S = 10.0
_REFRESH_INTERVAL_S = 0.4
_ACTIVATE_AGAIN_S = 2.0
_LONGEST_PAUSE_S = 600.0


class VectorSearch:
    """The whole service over its collaborators; `start`, then `follow` in the background, `close` at the end."""

    def __init__(
        self,
        *,
        models: ModelStore,
        dense: DenseStore,
        log: EventLog,
        clock: Clock,
        kernel_threads: int = 1,
        least_recall: float = 0.95,
        trained_elsewhere: bool = False,
    ) -> None:
        self._trained_elsewhere = trained_elsewhere
        self._models = models
        self._dense = dense
        self._log = log
        self._clock = clock
        self.tenants = Tenants(clock)
        content = ContentVectors(dense)
        self.retrieval = Retrieval(self.tenants, content, threads=kernel_threads)
        self.embeddings = Embeddings(self.tenants, content)
        self.rebuild = VectorRebuild(content, least_recall=least_recall, clock=clock)
        self.content = content
        self.versions = Versions(
            self.tenants,
            models=models,
            content=content,
            tail=LogTail(log),
            clock=clock,
            least_recall=least_recall,
        )
        self.published: asyncio.Queue[tuple[VersionPublished, float]] = asyncio.Queue()
        self._latest: dict[str, str] = {}
        self.follower: LogFollower | None = None

    async def start(self) -> LogFollower:
        """Bring up every tenant's active version and give what follows the log from there."""
        # Taken before the model store is asked, so that no version is published unheard in between.
        published = await self._log.end_offsets((MODEL_PUBLISHED,))
        for tenant in {*await self._models.tenants(), *await self._dense.survey()}:
            await self.versions.start(tenant)
        known = {tenant.name: tenant.active.version.log_position for tenant in self.tenants}
        self.follower = LogFollower(self._log, self._apply, known=known, published=published)
        return self.follower

    def is_ready(self) -> bool:
        """Tell whether everything that was in the log at the start has been applied."""
        return self.follower is not None and self.follower.caught_up.is_set()

    def servicer(self) -> VectorSearchServicer:
        """Give the RPCs."""
        return VectorSearchServicer(
            tenants=self.tenants,
            retrieval=self.retrieval,
            embeddings=self.embeddings,
            rebuild=self.rebuild,
            versions=self.versions,
            ready=self.is_ready,
        )

    async def activate_published(self) -> None:
        """Switch to versions as they are announced; one that cannot be served is told and left out.

        It is tried again after ever longer pauses, until another one is announced: its store may not answer, or its
        files may be on their way from another region.
        """
        log = get_logger(__name__)
        while True:
            published, pause_s = await self.published.get()
            if self._latest[published.tenant] != published.version:
                continue
            try:
                await self.versions.activate(
                    published.tenant, published.version, verified_by_another=not self._trained_elsewhere
                )
            except ServiceError as error:
                log.error(  # noqa: TRY400 - said for people, no bug to trace
                    "the published version cannot be served",
                    tenant=published.tenant,
                    version=published.version,
                    error=error.message,
                    again_in_s=pause_s,
                )
                again = (published, min(2 * pause_s, _LONGEST_PAUSE_S))
                asyncio.get_running_loop().call_later(pause_s, self.published.put_nowait, again)

    async def follow_collections(self) -> None:
        """Take over what other replicas do with the collections that all of them share."""
        log = get_logger(__name__)
        reached = True
        while True:
            await asyncio.sleep(_REFRESH_INTERVAL_S)
            try:
                await self.content.refresh()
            except ServiceError as error:
                if reached:
                    log.warning("the collections cannot be looked at, trying again", error=error.message)
                reached = False
            else:
                reached = True

    async def tell_age(self) -> None:
        """Keep the metric of the oldest active model's age."""
        while True:
            trained = [each.active.version.trained_at_ms for each in self.tenants if each.active.version.name]
            if trained:
                MODEL_AGE.set((self._clock.now_ms() - min(trained)) / 1000)
            await asyncio.sleep(_AGE_INTERVAL_S)

    def close(self) -> None:
        """End the threads."""
        self.retrieval.close()

    def _apply(self, change: Change) -> None:
        if isinstance(change, VersionPublished):
            self._latest[change.tenant] = change.version
            self.published.put_nowait((change, _ACTIVATE_AGAIN_S))
        else:
            self.tenants.get(change.tenant).apply(change)


def qdrant_options(settings: VectorSearchSettings) -> QdrantOptions:
    """Give what the settings say about a Qdrant server."""
    return QdrantOptions(
        api_key=settings.qdrant_api_key.get_secret_value(),
        rest_port=settings.qdrant_rest_port,
        prefix=settings.qdrant_prefix,
        timeout_s=settings.qdrant_timeout_s,
        shard_number=settings.qdrant_shard_number,
        replication_factor=settings.qdrant_replication_factor,
        write_consistency_factor=settings.qdrant_write_consistency_factor,
        write_ordering=settings.qdrant_write_ordering,
    )


def migration_target(settings: VectorSearchSettings) -> AbstractAsyncContextManager[MigrationTarget]:
    """Connect to Qdrant in order to migrate its collections; raises as `dense_stores.migration_target`."""
    return dense_stores.migration_target(
        settings.vector_store_url, qdrant=qdrant_options(settings), wait_s=settings.store_wait_s
    )


async def run(settings: VectorSearchSettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set; ready once every active version is mapped and the log is caught up with."""
    async with AsyncExitStack() as opened:
        log = event_log_of(settings)
        opened.push_async_callback(log.close)
        await log.ensure_topics(topics_of(settings))
        folder = settings.data_dir / "vector_search"
        dense = await open_dense_store(
            settings.vector_store_url,
            folder=folder / "dense",
            qdrant=qdrant_options(settings),
            build_timeout_s=settings.build_timeout_s,
            wait_s=settings.store_wait_s,
        )
        opened.push_async_callback(dense.close)
        models = await open_model_store(
            settings.model_store_url,
            s3_endpoint_url=settings.s3_endpoint_url,
            folder=folder,
            wait_s=settings.store_wait_s,
        )
        opened.push_async_callback(models.close)
        service = VectorSearch(
            models=models,
            dense=dense,
            log=log,
            clock=SystemClock(),
            kernel_threads=settings.kernel_threads,
            least_recall=settings.least_recall,
            trained_elsewhere=settings.trained_elsewhere,
        )
        opened.callback(service.close)
        tasks = await opened.enter_async_context(BackgroundTasks(stop))
        server = GrpcServer(
            host=settings.host,
            port=settings.grpc_port,
            service_names=(SERVICE_NAME,),
            register=lambda server: pb_grpc.add_VectorSearchServiceServicer_to_server(service.servicer(), server),
            shutdown_grace_s=settings.shutdown_grace_s,
            tls=settings.tls,
        )
        await opened.enter_async_context(server)
        show_costs("vector_search", settings)
        opened.enter_context(serve_metrics(settings.metrics_port, settings.host))
        await asyncio.to_thread(warm)
        follower = await service.start()
        tasks.start(follower.run(stop), name="log")
        tasks.start(service.activate_published(), name="published versions")
        tasks.start(service.tell_age(), name="model age")
        if dense.is_shared:
            tasks.start(service.follow_collections(), name="collections")
        await _first(follower.caught_up, stop)
        await service.versions.restore_content()
        server.set_serving(True)
        await stop.wait()


async def _first(*events: asyncio.Event) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()
