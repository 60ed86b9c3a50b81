"""Wires profile_store and runs it until it is told to stop."""

import asyncio
from contextlib import AsyncExitStack

from profile_store.adapters.sqlite import SqliteProfileStore
from profile_store.api import SERVICE_NAME, ProfileStoreServicer
from profile_store.application import ProfileService
from profile_store.consumer import GROUP, TOPICS, ProfileStoreConsumer
from profile_store.settings import ProfileStoreSettings
from recommendation.profile_store.v1 import profile_store_pb2_grpc as pb_grpc
from servicekit.clock import Clock, SystemClock
from servicekit.eventlog.open import open_event_log
from servicekit.eventlog.port import EventLog
from servicekit.eventlog.runner import ConsumerRunner
from servicekit.eventlog.topics import default_specs
from servicekit.metrics import serve_metrics
from servicekit.rpc.server import GrpcServer
from servicekit.tasks import BackgroundTasks

_MEMBER = "profile_store"  # always the same, since only one process can have the SQLite file open


async def open_store(settings: ProfileStoreSettings) -> SqliteProfileStore:
    """Open the store that the settings name."""
    return await SqliteProfileStore.open(
        settings.data_dir / "profile_store" / "profile_store.db",
        synchronous=settings.sqlite_synchronous,
        context_cache_bytes=settings.context_cache_mb * 1_000_000,
        item_cache_size=settings.item_cache_size,
    )


def make_service(store: SqliteProfileStore, clock: Clock) -> ProfileService:
    """Give the use cases on a store."""
    return ProfileService(items=store, interactions=store, types=store, popularity=store, clock=clock)


def make_server(settings: ProfileStoreSettings, service: ProfileService) -> GrpcServer:
    """Give the server of the use cases, not yet started."""
    return GrpcServer(
        host=settings.host,
        port=settings.grpc_port,
        service_names=(SERVICE_NAME,),
        register=lambda server: pb_grpc.add_ProfileStoreServiceServicer_to_server(
            ProfileStoreServicer(service), server
        ),
        shutdown_grace_s=settings.shutdown_grace_s,
    )


def make_runner(settings: ProfileStoreSettings, service: ProfileService, log: EventLog) -> ConsumerRunner:
    """Give what applies the event log to the use cases."""
    return ConsumerRunner(
        log.consumer(TOPICS, group=GROUP, member=_MEMBER),
        ProfileStoreConsumer(service).handle,
        log.producer(),
        name=GROUP,
        max_batch=settings.consumer_max_batch,
        max_failures_in_a_row=settings.consumer_max_failures_in_a_row,
        hold_s=settings.consumer_hold_s,
    )


async def run(settings: ProfileStoreSettings, stop: asyncio.Event) -> None:
    """Serve until `stop` is set; ready once the store is open and migrated and the consumer runs."""
    async with AsyncExitStack() as opened:
        log = open_event_log(settings.event_log_url)
        opened.push_async_callback(log.close)
        store = await opened.enter_async_context(await open_store(settings))
        service = make_service(store, SystemClock())
        await log.ensure_topics(default_specs())
        tasks = await opened.enter_async_context(BackgroundTasks(stop))
        server = await opened.enter_async_context(make_server(settings, service))
        opened.enter_context(serve_metrics(settings.metrics_port, settings.host))
        tasks.start(make_runner(settings, service, log).run(stop), name="consumer")
        server.set_serving(True)
        await stop.wait()
