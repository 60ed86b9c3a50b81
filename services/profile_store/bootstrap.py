"""Wires profile_store and runs it until it is told to stop."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from importlib import import_module
from random import SystemRandom
from typing import Any, Protocol

from profile_store.adapters.sqlite import SqliteProfileStore
from profile_store.api import policies, profiles
from profile_store.application.policies import PolicyService
from profile_store.application.profiles import ProfileService
from profile_store.consumer import GROUP, TOPICS, ProfileStoreConsumer
from profile_store.domain.ports import InteractionStore, InteractionTypeStore, ItemStore, PolicyStore, PopularityStore
from profile_store.settings import ProfileStoreSettings
from recommendation.profile_store.v1 import policy_store_pb2_grpc, profile_store_pb2_grpc
from servicekit.clock import Clock, SystemClock
from servicekit.costs import show_costs
from servicekit.eventlog.heartbeats import Heartbeats
from servicekit.eventlog.open import event_log_of, kafka_options_of, open_event_log, topics_of
from servicekit.eventlog.port import EventLog
from servicekit.eventlog.runner import ConsumerRunner
from servicekit.metrics import serve_metrics
from servicekit.migrations import Migration, MigrationTarget
from servicekit.rpc.server import GrpcServer
from servicekit.tasks import BackgroundTasks

_SQLITE_MEMBER = "profile_store"  # always the same, since only one process can have the SQLite file open
_DAY_S = 24 * 3600


class Store(ItemStore, InteractionStore, InteractionTypeStore, PopularityStore, Protocol):
    """All ports at once."""

    @property
    def policies(self) -> PolicyStore:
        """What agents keep, in the same place."""
        ...


async def open_store(settings: ProfileStoreSettings, clock: Clock) -> AbstractAsyncContextManager[Store]:
    """Open the store that the settings name.

    Raises:
        StartupError: The settings are wrong, or the store cannot be reached.
    """
    if settings.profile_store_url:
        return await _open_cql_store(settings, clock)
    return await SqliteProfileStore.open(
        settings.data_dir / "profile_store" / "profile_store.db",
        synchronous=settings.sqlite_synchronous,
        context_cache_bytes=settings.context_cache_mb * 1_000_000,
        item_cache_size=settings.item_cache_size,
    )


def make_service(store: Store, clock: Clock) -> ProfileService:
    """Give the use cases on a store."""
    return ProfileService(
        items=store, interactions=store, types=store, popularity=store, policies=store.policies, clock=clock
    )


def make_server(settings: ProfileStoreSettings, service: ProfileService) -> GrpcServer:
    """Give the server of the use cases, not yet started."""
    return GrpcServer(
        host=settings.host,
        port=settings.grpc_port,
        service_names=(profiles.SERVICE_NAME,),
        register=lambda server: profile_store_pb2_grpc.add_ProfileStoreServiceServicer_to_server(
            profiles.ProfileStoreServicer(service), server
        ),
        shutdown_grace_s=settings.shutdown_grace_s,
        tls=settings.tls,
    )


def make_policy_server(settings: ProfileStoreSettings, service: PolicyService) -> GrpcServer:
    """Give the server of what agents keep, not yet started; on a port of its own, by which a network tells it apart."""
    return GrpcServer(
        host=settings.host,
        port=settings.agentdb_port,
        service_names=(policies.SERVICE_NAME,),
        register=lambda server: policy_store_pb2_grpc.add_PolicyStoreServiceServicer_to_server(
            policies.PolicyStoreServicer(service), server
        ),
        shutdown_grace_s=settings.shutdown_grace_s,
        tls=settings.tls,
    )


def make_runner(settings: ProfileStoreSettings, service: ProfileService, log: EventLog) -> ConsumerRunner:
    """Give what applies the event log to the use cases."""
    return ConsumerRunner(
        log.consumer(TOPICS, group=GROUP, member=_member(settings)),
        ProfileStoreConsumer(service).handle,
        log.producer(),
        name=GROUP,
        max_batch=settings.consumer_max_batch,
        max_failures_in_a_row=settings.consumer_max_failures_in_a_row,
        hold_s=settings.consumer_hold_s,
    )


def open_heartbeats(settings: ProfileStoreSettings, clock: Clock, opened: AsyncExitStack) -> Heartbeats | None:
    """Give what tells how far this region lags, where it mirrors another one; its log is closed with `opened`."""
    if not settings.heartbeats_topic:
        return None
    # Who mirrors gives the topic its name, so it has no prefix of ours.
    log = open_event_log(settings.event_log_url, kafka=kafka_options_of(settings))
    opened.push_async_callback(log.close)
    return Heartbeats(log, settings.heartbeats_topic, clock=clock)


async def run(settings: ProfileStoreSettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set; ready once the store is open and migrated and the consumer runs."""
    async with AsyncExitStack() as opened:
        log = event_log_of(settings)
        opened.push_async_callback(log.close)
        clock = SystemClock()
        store = await opened.enter_async_context(await open_store(settings, clock))
        service = make_service(store, clock)
        await log.ensure_topics(topics_of(settings))
        heartbeats = open_heartbeats(settings, clock, opened)
        tasks = await opened.enter_async_context(BackgroundTasks(stop))
        policy_service = PolicyService(policies=store.policies, clock=clock)
        policy_server = await opened.enter_async_context(make_policy_server(settings, policy_service))
        server = await opened.enter_async_context(make_server(settings, service))
        show_costs("profile_store", settings)
        opened.enter_context(serve_metrics(settings.metrics_port, settings.host))
        tasks.start(make_runner(settings, service, log).run(stop), name="consumer")
        if heartbeats is not None:
            tasks.start(heartbeats.run(stop), name="heartbeats")
        policy_server.set_serving(True)
        server.set_serving(True)
        await stop.wait()


def read_migrations(_: ProfileStoreSettings) -> Sequence[Migration]:
    """Read the migrations of the store on CQL."""
    migrations: Sequence[Migration] = _cql("migration_target").schema()
    return migrations


@asynccontextmanager
async def open_migration_target(settings: ProfileStoreSettings) -> AsyncIterator[MigrationTarget]:
    """Connect to the store on CQL; the migration makes its keyspace where there is none.

    Raises:
        StartupError: The settings are wrong, or the store cannot be reached.
    """
    connection_module = _cql("connection")
    address = connection_module.CqlAddress.parse(settings.profile_store_url)
    async with await connection_module.CqlConnection.open(address, _cql_options(settings)) as connection:
        yield _cql("migration_target").CqlMigrationTarget(
            connection, scylla=settings.cql_scylla, replication_factor=settings.cql_replication_factor
        )


async def _open_cql_store(settings: ProfileStoreSettings, clock: Clock) -> AbstractAsyncContextManager[Store]:
    store_module = _cql("store")
    store: AbstractAsyncContextManager[Store] = await store_module.CqlProfileStore.open(
        _cql("connection").CqlAddress.parse(settings.profile_store_url),
        _cql_options(settings),
        clock=clock,
        random=SystemRandom(),
        retention=store_module.Retention(
            interactions_s=settings.cql_interactions_ttl_days * _DAY_S,
            event_ids_s=settings.cql_event_ids_ttl_days * _DAY_S,
            episodes_s=settings.cql_episodes_ttl_days * _DAY_S,
        ),
    )
    return store


def _cql_options(settings: ProfileStoreSettings) -> Any:
    return _cql("connection").CqlOptions(
        username=settings.scylladb_username,
        password=settings.scylladb_password.get_secret_value(),
        datacenter=settings.cql_datacenter,
        timeout_s=settings.cql_timeout_s,
        speculative_delay_s=settings.cql_speculative_delay_ms / 1_000,
        max_in_flight=settings.cql_max_in_flight,
        scylla=settings.cql_scylla,
        wait_s=settings.store_wait_s,
    )


def _cql(module: str) -> Any:
    """Import a part of the adapter when it is asked for: who runs on SQLite needs no driver."""
    return import_module(f"profile_store.adapters.cql.{module}")


def _member(settings: ProfileStoreSettings) -> str:
    return settings.consumer_member or (socket.gethostname() if settings.profile_store_url else _SQLITE_MEMBER)
