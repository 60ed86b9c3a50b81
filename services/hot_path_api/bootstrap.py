"""Wires the gateway."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

from hot_path_api.adapters.event_log import EventLogSink
from hot_path_api.adapters.gpu_worker import GpuWorkerClient
from hot_path_api.adapters.graph_service import GraphServiceClient
from hot_path_api.adapters.local_answer_cache import LocalAnswerCache
from hot_path_api.adapters.local_rate_limiter import LocalRateLimiter
from hot_path_api.adapters.no_graph import NoGraph
from hot_path_api.adapters.peers import GrpcPeer
from hot_path_api.adapters.profile_store import ProfileStoreClient
from hot_path_api.adapters.vector_search import VectorSearchClient
from hot_path_api.api.answers import Answer
from hot_path_api.api.app import create_app
from hot_path_api.api.gate import Gate
from hot_path_api.api.health import HealthRoutes
from hot_path_api.api.interactions import InteractionRoutes
from hot_path_api.api.items import ItemRoutes
from hot_path_api.api.kept_lists import PublicLists
from hot_path_api.api.problems import WriteFencedError
from hot_path_api.api.recommendations import RecommendationRoutes
from hot_path_api.application.attributes import KnownAttributes
from hot_path_api.application.catalogue import Catalogue
from hot_path_api.application.catalogue_epoch import CatalogueEpoch
from hot_path_api.application.descriptions import Descriptions
from hot_path_api.application.explanations import Explanations
from hot_path_api.application.health import Health
from hot_path_api.application.idempotency import RepeatedWrites
from hot_path_api.application.interaction_types import KnownInteractionTypes
from hot_path_api.application.models import ServingModels
from hot_path_api.application.pipeline import Pipeline
from hot_path_api.application.popularity import PopularityLists
from hot_path_api.application.rate_limits import Rate, RateLimits
from hot_path_api.application.reserve import Reserve
from hot_path_api.application.retrieval import Limits, Retrieval
from hot_path_api.application.selector import Selector
from hot_path_api.application.served import ServedLists
from hot_path_api.application.shared_answers import SharedAnswers
from hot_path_api.application.similar import SimilarItems, TextSearch
from hot_path_api.application.sources import CandidateSource, GraphSource, TrendingSource, VectorSource
from hot_path_api.application.stock import Stock
from hot_path_api.application.writing import InteractionWriter, ItemWriter, WriteTimeouts
from hot_path_api.consumer import TOPICS, ChangeListener
from hot_path_api.domain.ports import AnswerCache, Graph, RateLimiter, VectorIndex
from hot_path_api.server import HttpServer
from hot_path_api.settings import Settings
from servicekit.clock import Clock, SystemClock
from servicekit.eventlog.open import event_log_of, topics_of
from servicekit.eventlog.port import EventLog, Start
from servicekit.eventlog.topics import CONTENT_CHANGED
from servicekit.rpc.breaker import CircuitBreaker
from servicekit.rpc.client import RpcChannel

_READ_S = 1.0
_SIMILAR_S = 0.5
_SEARCH_S = 2.0
_POPULAR_ITEMS = 2_000
_HEALTH_EVERY_S = 1.0
_RESERVE_EVERY_S = 2.0


def _breaker(name: str) -> CircuitBreaker:
    """Make the breaker of one service: slow to open, because budgets are short and a busy moment is no outage."""
    return CircuitBreaker(name, failure_threshold=30, open_s=0.5)


class _Shared(NamedTuple):
    """What all gateways share."""

    answers: AnswerCache
    limiter: RateLimiter
    close: Callable[[], Awaitable[None]]


async def _open_shared(settings: Settings) -> _Shared | None:
    if not settings.redis_url:
        return None
    # Here and not above: the driver takes longer to import than anything else, and few need it.
    from hot_path_api.adapters.redis_answer_cache import RedisAnswerCache  # noqa: PLC0415
    from hot_path_api.adapters.redis_client import RedisSecrets, open_redis  # noqa: PLC0415
    from hot_path_api.adapters.redis_rate_limiter import RedisRateLimiter  # noqa: PLC0415

    redis = await open_redis(
        settings.redis_url,
        secrets=RedisSecrets(
            settings.redis_password.get_secret_value(),
            settings.redis_sentinel_password.get_secret_value(),
            settings.redis_ca_file,
        ),
        timeout_s=settings.redis_timeout_ms / 1000,
    )
    prefix = settings.redis_prefix
    return _Shared(RedisAnswerCache(redis, prefix=prefix), RedisRateLimiter(redis, prefix=prefix), redis.close)


def _rate_limits(settings: Settings, shared: _Shared | None) -> RateLimits | None:
    tenant = Rate(settings.rate_limit_rps, settings.rate_limit_burst)
    user = Rate(settings.rate_limit_user_rps, settings.rate_limit_user_burst)
    if not tenant.per_s and not user.per_s:
        return None
    limiter = shared.limiter if shared is not None else None
    return RateLimits(tenant=tenant, user=user, local=LocalRateLimiter(), shared=limiter)


def _shared_answers(
    settings: Settings, shared: _Shared | None, models: ServingModels, epoch: CatalogueEpoch
) -> SharedAnswers | None:
    if shared is None:
        return None
    return SharedAnswers(
        local=LocalAnswerCache(),
        shared=shared.answers,
        models=models,
        epoch=epoch,
        fresh_s=settings.shared_list_s,
    )


def _fence(settings: Settings) -> WriteFencedError | None:
    if not settings.writes_fenced:
        return None
    here = f"region {settings.region}" if settings.region else "this region"
    return WriteFencedError(f"{here} takes no writes; send them to {settings.primary_url or 'the primary region'}")


def _graph_and_sources(
    settings: Settings, index: VectorIndex, channels: Mapping[str, RpcChannel]
) -> tuple[Graph, list[CandidateSource]]:
    if not settings.graph_enabled:
        return NoGraph(), [VectorSource(index)]
    graph = GraphServiceClient(channels["graph_service"], candidates=settings.graph_candidates)
    return graph, [VectorSource(index), GraphSource(graph)]


class Gateway:
    """The running gateway: its server, and what goes on beside it."""

    def __init__(
        self,
        server: HttpServer,
        *,
        health: Health,
        models: ServingModels,
        served: ServedLists,
        listener: ChangeListener,
        reserve: Reserve,
        model_refresh_s: float,
    ) -> None:
        self.server = server
        self._health = health
        self._models = models
        self._served = served
        self._listener = listener
        self._reserve = reserve
        self._model_refresh_s = model_refresh_s

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until stopped; when something beside the server breaks, stop and raise it."""
        ended = asyncio.Event()
        async with asyncio.TaskGroup() as beside:
            beside.create_task(self._health.run(ended, every_s=_HEALTH_EVERY_S))
            beside.create_task(self._models.run(ended, refresh_s=self._model_refresh_s))
            beside.create_task(self._served.run(ended))
            beside.create_task(self._listener.run(ended))
            beside.create_task(self._reserve.run(ended, every_s=_RESERVE_EVERY_S))
            await self.server.start()
            try:
                await stop.wait()
            finally:
                await self.server.stop()
                ended.set()


@asynccontextmanager
async def gateway(
    settings: Settings, *, event_log: EventLog | None = None, clock: Clock | None = None
) -> AsyncIterator[Gateway]:
    """Connect to everything, and take it apart again at the end.

    Args:
        settings: What to connect to.
        event_log: Used instead of the one that the settings name; stays open.
        clock: Used instead of the machine's.
    """
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        if event_log is None:
            event_log = event_log_of(settings, clock=clock)
            stack.push_async_callback(event_log.close)
        await event_log.ensure_topics(topics_of(settings))
        producer = event_log.producer()
        stack.push_async_callback(producer.close)
        consumer = event_log.consumer(TOPICS, group=None, start=Start.LATEST)
        stack.push_async_callback(consumer.close)
        sink = EventLogSink(producer)
        stack.push_async_callback(sink.close)

        endpoints = {
            "profile_store": settings.agentdb_endpoint,
            "vector_search": settings.vector_db_endpoint,
            "gpu_worker": settings.gpu_worker_endpoint,
        }
        if settings.graph_enabled:
            endpoints["graph_service"] = settings.graph_db_endpoint
        channels, peers = {}, {}
        for name, endpoint in endpoints.items():
            channels[name] = await stack.enter_async_context(
                RpcChannel(endpoint, name=name, breaker=_breaker(name), tls=settings.tls)
            )
            peers[name] = GrpcPeer(
                await stack.enter_async_context(RpcChannel(endpoint, name=f"{name}.health", tls=settings.tls))
            )
        in_flight = settings.batches_in_flight
        profiles = ProfileStoreClient(channels["profile_store"], history_limit=settings.history_limit)
        index = VectorSearchClient(channels["vector_search"], in_flight=in_flight)
        graph, sources = _graph_and_sources(settings, index, channels)
        encoder = GpuWorkerClient(channels["gpu_worker"])
        for client in (profiles, index, encoder):
            stack.push_async_callback(client.close)

        shared = await _open_shared(settings)
        rate_limits = _rate_limits(settings, shared)
        epoch = CatalogueEpoch()
        if shared is not None:
            stack.push_async_callback(shared.close)
            epoch.start_at(await event_log.end_offsets((CONTENT_CHANGED,)))

        catalogue = Catalogue(profiles, capacity=settings.item_cache_size, timeout_s=_READ_S)
        models = ServingModels(index, catalogue, tenants=(settings.tenant,))
        answers = _shared_answers(settings, shared, models, epoch)
        selector = Selector(catalogue, clock=clock)
        served = ServedLists(sink)
        types = KnownInteractionTypes(profiles, timeout_s=_READ_S)
        attributes = KnownAttributes(profiles, catalogue, timeout_s=_READ_S)
        health = Health(peers, is_prepared=lambda: models.are_known)
        stock = Stock(profiles, clock=clock, timeout_s=_READ_S)
        popularity = PopularityLists(profiles, stock, length=_POPULAR_ITEMS, timeout_s=_READ_S)
        repeated: RepeatedWrites[Answer] = RepeatedWrites()
        timeouts = WriteTimeouts()
        limits = Limits(budget_s=settings.time_budget_ms / 1000, candidates=settings.candidates)
        retrieval = Retrieval(profiles, sources, clock=clock, limits=limits, in_flight=in_flight)
        stack.push_async_callback(retrieval.close)
        pipeline = Pipeline(
            retrieval=retrieval,
            trending=TrendingSource(popularity),
            models=models,
            selector=selector,
            descriptions=Descriptions(selector, Explanations(index, graph, selector)),
            served=served,
            clock=clock,
            limits=limits,
        )
        app = create_app(
            [
                RecommendationRoutes(
                    pipeline=pipeline,
                    similar_items=SimilarItems(
                        index=index,
                        graph=graph,
                        catalogue=catalogue,
                        models=models,
                        selector=selector,
                        timeout_s=_SIMILAR_S,
                    ),
                    text_search=TextSearch(
                        encoder=encoder, index=index, models=models, selector=selector, timeout_s=_SEARCH_S
                    ),
                    attributes=attributes,
                    types=types,
                    public_lists=PublicLists(answers),
                    limits=rate_limits,
                    clock=clock,
                ),
                InteractionRoutes(
                    interactions=profiles,
                    types=types,
                    writer=InteractionWriter(interactions=profiles, types=types, sink=sink, timeouts=timeouts),
                    repeated=repeated,
                    clock=clock,
                    timeout_s=_READ_S,
                ),
                ItemRoutes(
                    items=profiles,
                    catalogue=catalogue,
                    writer=ItemWriter(items=profiles, catalogue=catalogue, sink=sink, clock=clock, timeouts=timeouts),
                    repeated=repeated,
                    clock=clock,
                    timeout_s=_READ_S,
                ),
                HealthRoutes(
                    health=health,
                    models=models,
                    tenant=settings.tenant,
                    with_metrics=settings.metrics_port == 0 or settings.environment != "production",
                ),
            ],
            keys={settings.api_key.get_secret_value(): settings.tenant} if settings.auth_required else None,
            open_tenant=settings.tenant,
            gate=Gate(rate_limits) if rate_limits is not None else None,
            fence=_fence(settings),
        )
        server = HttpServer(
            app,
            health=health,
            host=settings.host,
            port=settings.http_port,
            drain_s=settings.drain_s,
            grace_s=settings.shutdown_grace_s,
        )
        yield Gateway(
            server,
            health=health,
            models=models,
            served=served,
            listener=ChangeListener(consumer, catalogue=catalogue, models=models, epoch=epoch),
            reserve=Reserve(popularity, catalogue, types, models, tenant=settings.tenant, timeout_s=_READ_S),
            model_refresh_s=settings.model_refresh_s,
        )
