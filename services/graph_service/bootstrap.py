"""Wires graph_service and runs it until it is told to stop."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from graph_service.adapters.event_log import LoggedChanges
from graph_service.adapters.profile_store import GrpcCatalogue
from graph_service.api import SERVICE_NAME, GraphServicer
from graph_service.application.expansion import ExpansionRule
from graph_service.application.filling import ListFiller
from graph_service.application.rebuild import GraphRebuilder, RebuildWatch
from graph_service.application.use_cases import GraphUseCases
from graph_service.application.warming import Warmer
from graph_service.consumer import TAIL_TOPICS, GraphConsumer, GraphTail
from graph_service.convert.changes import MutationReader
from graph_service.convert.records import GROUP, TOPICS
from graph_service.domain.graph import InteractionWeights, NodeKind, NodeRule
from graph_service.domain.graph_cache import GraphCache
from graph_service.domain.ports import GraphStore, RelatednessRule
from graph_service.domain.related_lists import FreshnessRule
from graph_service.settings import GraphServiceSettings
from graph_service.warm import warm
from recommendation.graph_service.v1 import graph_service_pb2_grpc as pb_grpc
from servicekit.clock import Clock, SystemClock
from servicekit.costs import show_costs
from servicekit.eventlog.open import event_log_of, topics_of
from servicekit.eventlog.port import EventConsumer, EventLog
from servicekit.eventlog.runner import ConsumerRunner
from servicekit.logs import get_logger
from servicekit.metrics import serve_metrics
from servicekit.migrations import MigrationTarget
from servicekit.rpc.client import RpcChannel
from servicekit.rpc.server import GrpcServer
from servicekit.tasks import BackgroundTasks

if TYPE_CHECKING:
    from graph_service.adapters.neo4j.client import Neo4jOptions

_BUILT_IN_WEIGHTS: Final = {"view": 1.0, "like": 2.0, "add_to_cart": 3.0, "purchase": 5.0}
_LOOK_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Graph:
    """The use cases and what has to run beside them."""

    use_cases: GraphUseCases
    store: GraphStore
    cache: GraphCache
    filler: ListFiller
    warmer: Warmer
    reader: MutationReader
    relatedness: RelatednessRule

    def start(self, tasks: BackgroundTasks) -> None:
        """Start what computes lists."""
        tasks.start(self.filler.answer_waiting(), name="fill the cache")
        tasks.start(self.filler.renew(), name="renew the cache")
        tasks.start(self.warmer.run(), name="warm the cache")


async def open_store(settings: GraphServiceSettings) -> GraphStore:
    """Open the store that the settings name; the other one's driver is not even imported.

    Raises:
        StartupError: Neo4j refuses us, is not there in time, or its schema is behind.
    """
    if settings.graph_store_url:
        from graph_service.adapters.neo4j.store import Neo4jGraphStore  # noqa: PLC0415 - see the docstring

        return await Neo4jGraphStore.open(
            _neo4j_options(settings),
            known_degrees=settings.neo4j_known_degrees,
            known_for_s=settings.list_max_age_s,
            patience_s=settings.store_wait_s,
        )
    from graph_service.adapters.sqlite import SqliteGraphStore  # noqa: PLC0415 - see the docstring

    path = settings.data_dir / "graph_service" / "graph.sqlite"
    return SqliteGraphStore(path, synchronous=settings.sqlite_synchronous)


@asynccontextmanager
async def migration_target(settings: GraphServiceSettings) -> AsyncIterator[MigrationTarget]:
    """Connect to Neo4j in order to migrate its schema.

    Raises:
        StartupError: It refuses us or is not there in time.
    """
    from graph_service.adapters.neo4j.client import Neo4jClient  # noqa: PLC0415 - see open_store
    from graph_service.adapters.neo4j.schema import Neo4jMigrationTarget  # noqa: PLC0415 - see open_store

    client = Neo4jClient(_neo4j_options(settings))
    try:
        await client.wait_until_there(settings.store_wait_s)
        yield Neo4jMigrationTarget(client)
    finally:
        await client.close()


def _neo4j_options(settings: GraphServiceSettings) -> "Neo4jOptions":
    from graph_service.adapters.neo4j.client import Neo4jOptions  # noqa: PLC0415 - see open_store

    return Neo4jOptions(
        settings.graph_store_url,
        settings.neo4j_username,
        settings.neo4j_password.get_secret_value(),
        database=settings.neo4j_database,
        pool_size=settings.neo4j_pool_size,
        read_timeout_s=settings.neo4j_read_timeout_s,
        write_timeout_s=settings.neo4j_write_timeout_s,
        connect_timeout_s=settings.neo4j_connect_timeout_s,
    )


def make_graph(settings: GraphServiceSettings, store: GraphStore, clock: Clock) -> Graph:
    """Give the use cases on a store; where several replicas share it, a GraphTail has to tell them what is new."""
    relatedness = RelatednessRule(
        person_damping=settings.person_damping,
        genre_damping=settings.genre_damping,
        user_damping=settings.user_damping,
        person_max_degree=settings.person_max_degree,
        genre_max_degree=settings.genre_max_degree,
        users_per_item=settings.users_per_item,
        items_per_user=settings.items_per_user,
        kept_per_path=settings.related_per_path,
        explained_users=settings.explained_users,
    )
    cache = GraphCache(
        capacity=settings.cached_lists,
        max_items=settings.cached_items,
        rule=FreshnessRule(settings.list_max_age_s, settings.list_max_new_edges, settings.list_min_age_s),
    )
    filler = ListFiller(store, cache, relatedness, timeout_s=settings.fill_timeout_s)
    expansion = ExpansionRule(
        history_items=settings.history_items,
        half_life_items=settings.history_half_life_items,
        kept_per_item=settings.composed_per_item,
        path_weights=(settings.person_weight, settings.genre_weight, settings.user_weight),
    )
    nodes = {
        NodeKind.PERSON: settings.person_attributes,
        NodeKind.GENRE: settings.genre_attributes,
        NodeKind.COUNTRY: settings.country_attributes,
    }
    weights = InteractionWeights(_BUILT_IN_WEIGHTS | settings.interaction_weights, settings.rating_centre)
    return Graph(
        GraphUseCases(
            store,
            cache,
            filler,
            relatedness=relatedness,
            expansion=expansion,
            clock=clock,
            counts_edges=not settings.graph_store_url,
        ),
        store,
        cache,
        filler,
        Warmer(store, cache, filler, limit=min(settings.warm_lists, settings.cached_lists)),
        MutationReader(NodeRule(nodes), weights, clock),
        relatedness,
    )


def make_rebuilder(graph: Graph, profile_store: RpcChannel, log: EventLog) -> GraphRebuilder:
    """Give what builds the graph again from the other services' truth."""
    return GraphRebuilder(
        graph.store,
        graph.cache,
        GrpcCatalogue(profile_store, graph.reader),
        LoggedChanges(log, graph.reader),
        rule=graph.relatedness,
    )


def member_name(settings: GraphServiceSettings) -> str:
    """Name this process in its consumer group: only one can have the SQLite file open, of others each has a host."""
    if settings.consumer_member:
        return settings.consumer_member
    return f"{GROUP}-{socket.gethostname()}" if settings.graph_store_url else GROUP


def make_server(settings: GraphServiceSettings, graph: Graph, rebuilder: GraphRebuilder) -> GrpcServer:
    """Give the server of the use cases, not yet started."""
    return GrpcServer(
        host=settings.host,
        port=settings.grpc_port,
        service_names=(SERVICE_NAME,),
        register=lambda server: pb_grpc.add_GraphServiceServicer_to_server(
            GraphServicer(graph.use_cases, graph.reader, rebuilder), server
        ),
        shutdown_grace_s=settings.shutdown_grace_s,
        tls=settings.tls,
    )


def make_runner(
    settings: GraphServiceSettings, applied: GraphConsumer, log: EventLog, consumer: EventConsumer
) -> ConsumerRunner:
    """Give what applies the event log to the use cases."""
    return ConsumerRunner(
        consumer,
        applied.handle,
        log.producer(),
        name=GROUP,
        max_batch=settings.consumer_max_batch,
        max_failures_in_a_row=settings.consumer_max_failures_in_a_row,
    )


async def open_tail(settings: GraphServiceSettings, graph: Graph, log: EventLog) -> GraphTail:
    """Give what tells the cache what other replicas apply, from where the group is now."""
    consumer = log.consumer(TAIL_TOPICS, group=None, start=await log.committed_offsets(GROUP, TAIL_TOPICS))
    return GraphTail(log, consumer, graph.use_cases, graph.reader, max_batch=settings.consumer_max_batch)


async def run(settings: GraphServiceSettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set; ready once the store is open and what was in the log at the start is applied."""
    async with AsyncExitStack() as opened:
        log = event_log_of(settings)
        opened.push_async_callback(log.close)
        store = await open_store(settings)
        opened.push_async_callback(store.close)
        graph = make_graph(settings, store, SystemClock())
        await log.ensure_topics(topics_of(settings))
        await asyncio.to_thread(warm)
        tasks = await opened.enter_async_context(BackgroundTasks(stop))
        profile_store = await opened.enter_async_context(
            RpcChannel(settings.agentdb_endpoint, name="profile_store", tls=settings.tls)
        )
        rebuilder = make_rebuilder(graph, profile_store, log)
        server = await opened.enter_async_context(make_server(settings, graph, rebuilder))
        show_costs("graph_service", settings)
        opened.enter_context(serve_metrics(settings.metrics_port, settings.host))
        # The cache is empty yet: whatever is put into it from now on, the tail tells what happens to it afterwards.
        tail = await open_tail(settings, graph, log) if settings.graph_store_url else None
        graph.start(tasks)
        consumer = log.consumer(TOPICS, group=GROUP, member=member_name(settings))
        applied = GraphConsumer(graph.use_cases, graph.reader)
        tasks.start(make_runner(settings, applied, log, consumer).run(stop), name="consumer")
        if tail is not None:
            tasks.start(tail.run(), name="tail")
            watch = RebuildWatch(graph.store, graph.cache, interval_s=settings.rebuilt_look_s)
            tasks.start(watch.run(), name="watch for a rebuilt graph")
        if not await _catch_up(log, tail or applied, tail.consumer if tail else consumer, settings.ready_wait_s):
            get_logger(__name__).warning("ready before the log is read to its end", waited_s=settings.ready_wait_s)
        if settings.graph_store_url:
            # A file answers in time what the cache lacks; a server, asked by many who come at once, does not.
            await graph.warmer.warm_at_once(settings.ready_warm_s)
        server.set_serving(True)
        await stop.wait()


async def _catch_up(
    log: EventLog, reader: GraphConsumer | GraphTail, consumer: EventConsumer, patience_s: float
) -> bool:
    """Wait until everything that is in the log now is applied, at most `patience_s`; say whether it is."""
    ends = await log.end_offsets(reader.topics)
    try:
        async with asyncio.timeout(patience_s):
            while True:
                positions = consumer.position()
                was_read = positions and all(positions[where] >= ends[where] for where in positions)
                # By the next look the consumer has been handed what was read before this one.
                await asyncio.sleep(_LOOK_S)
                if was_read and reader.is_settled:
                    return True
    except TimeoutError:
        return False
