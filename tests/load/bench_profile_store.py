"""Measures profile_store over gRPC: a real process, one client, one call at a time unless it says otherwise.

The store is SQLite in a temporary folder; with --url cql://host:port/keyspace it is that keyspace, which the migration
makes where it does not exist. Every run has a tenant of its own.

CPU is that of the service's process alone, so the numbers hold whatever the client costs.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from subprocess import Popen, TimeoutExpired, run
from tempfile import TemporaryDirectory
from typing import TypeVar

import psutil

from recommendation.common.v1 import common_pb2
from recommendation.profile_store.v1 import profile_store_pb2 as pb
from recommendation.profile_store.v1 import profile_store_pb2_grpc as pb_grpc
from servicekit.rpc.client import RpcChannel
from servicekit.testing import free_port

T = TypeVar("T")

TENANT = f"bench {time.time_ns():x}"
DAY_MS = 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class Figure:
    """What one measurement gave."""

    name: str
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """CPU microseconds of the service for each unit."""


class Service:
    """A running profile_store with a stub to it."""

    def __init__(self, process: psutil.Process, stub: pb_grpc.ProfileStoreServiceStub) -> None:
        self.stub = stub
        self._process = process

    def cpu_s(self) -> float:
        """CPU seconds that the process has used so far."""
        times = self._process.cpu_times()
        return times.user + times.system

    async def measure(
        self, name: str, call: Callable[[T], Awaitable[object]], requests: Sequence[T], *, units: int
    ) -> Figure:
        """Make a call for each request, one after the other; `units` is how many things they handle together."""
        took: list[float] = []
        cpu, started = self.cpu_s(), time.perf_counter()
        for request in requests:
            before = time.perf_counter()
            await call(request)
            took.append(time.perf_counter() - before)
        wall, cpu = time.perf_counter() - started, self.cpu_s() - cpu
        took.sort()
        return Figure(
            name, units / wall, took[len(took) // 2] * 1e3, took[int(len(took) * 0.99)] * 1e3, cpu / units * 1e6
        )

    def resident_mb(self) -> float:
        """Resident megabytes of the process."""
        return float(self._process.memory_info().rss) / 1e6


@contextmanager
def profile_store(folder: Path, **settings: str) -> Iterator[tuple[int, psutil.Process]]:
    """Run the service on a free port."""
    port = free_port()
    environment = {"DATA_DIR": str(folder), "GRPC_PORT": str(port), "METRICS_PORT": "0", "LOG_LEVEL": "WARNING"}
    environment["AGENTDB_PORT"] = "0"
    process = Popen([sys.executable, "-m", "profile_store"], env={**os.environ, **environment, **settings})
    try:
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(15)
        except TimeoutExpired:
            process.kill()
            process.wait()


def store_settings(url: str) -> dict[str, str]:
    """Give the settings that name the store."""
    return {"PROFILE_STORE_URL": url, "CQL_REPLICATION_FACTOR": "1"} if url else {}


async def bench(arguments: argparse.Namespace) -> list[Figure]:
    """Load, then ask; give the figures."""
    figures: list[Figure] = []
    random = Random(arguments.seed)
    store = store_settings(arguments.url)
    with TemporaryDirectory() as name:
        folder = Path(name)
        with profile_store(folder, **store) as (port, process):
            async with RpcChannel(f"127.0.0.1:{port}", name="bench") as channel:
                await channel.wait_ready(20)
                service = Service(process, pb_grpc.ProfileStoreServiceStub(channel.channel))
                figures += await load(service, arguments, random)
                figures += await ask(service, arguments, random)
                sys.stdout.write(f"resident after it: {service.resident_mb():.0f} MB\n")
        with profile_store(folder, CONTEXT_CACHE_MB="0", **store) as (port, process):
            async with RpcChannel(f"127.0.0.1:{port}", name="bench") as channel:
                await channel.wait_ready(20)
                service = Service(process, pb_grpc.ProfileStoreServiceStub(channel.channel))
                figures.append(await contexts(service, arguments, random, "cold"))
    return figures


async def load(service: Service, arguments: argparse.Namespace, random: Random) -> list[Figure]:
    """Put the items and append every interaction, then append a part of them again, then single ones."""
    stub, size = service.stub, arguments.append_batch
    items = [an_item(number) for number in range(arguments.items)]
    puts = [pb.PutItemsRequest(items=items[at : at + 1_000]) for at in range(0, len(items), 1_000)]
    deeds = [a_deed(random, arguments) for _ in range(arguments.users * arguments.history)]
    appends = [pb.AppendInteractionsRequest(interactions=deeds[at : at + size]) for at in range(0, len(deeds), size)]
    again = appends[:50]
    single, parallel = (
        [pb.AppendInteractionsRequest(interactions=[a_deed(random, arguments)]) for _ in range(512)] for _ in range(2)
    )

    async def at_once(requests: Sequence[pb.AppendInteractionsRequest]) -> None:
        await asyncio.gather(*(stub.AppendInteractions(request) for request in requests))

    sixteens = [parallel[at : at + 16] for at in range(0, len(parallel), 16)]
    return [
        await service.measure("put items, 1,000 a call", stub.PutItems, puts, units=len(items)),
        await service.measure(f"append, {size:,} a call", stub.AppendInteractions, appends, units=len(deeds)),
        await service.measure("append what is there", stub.AppendInteractions, again, units=len(again) * size),
        await service.measure("append, one a call", stub.AppendInteractions, single, units=len(single)),
        await service.measure("append, one a call, 16 at once", at_once, sixteens, units=len(parallel)),
    ]


async def contexts(service: Service, arguments: argparse.Namespace, random: Random, temperature: str) -> Figure:
    """Read contexts of different users in one call each."""

    def request(users: Iterable[int]) -> pb.GetUserContextsRequest:
        queries = (pb.GetUserContextsRequest.Query(tenant=TENANT, user_id=f"user-{user}") for user in users)
        return pb.GetUserContextsRequest(queries=queries)

    if temperature == "warm":
        for start in range(0, arguments.users, 256):
            await service.stub.GetUserContexts(request(range(start, min(start + 256, arguments.users))))
    size = arguments.context_batch
    requests = [request(random.randrange(arguments.users) for _ in range(size)) for _ in range(arguments.calls)]
    name = f"contexts {temperature}, {size} a call, {arguments.history:,} interactions each"
    return await service.measure(name, service.stub.GetUserContexts, requests, units=size * len(requests))


async def contexts_at_once(service: Service, arguments: argparse.Namespace, random: Random) -> Figure:
    """Read contexts as a busy gateway does: four calls under way."""

    def request() -> pb.GetUserContextsRequest:
        users = (random.randrange(arguments.users) for _ in range(arguments.context_batch))
        queries = (pb.GetUserContextsRequest.Query(tenant=TENANT, user_id=f"user-{user}") for user in users)
        return pb.GetUserContextsRequest(queries=queries)

    async def four(requests: Sequence[pb.GetUserContextsRequest]) -> None:
        await asyncio.gather(*(service.stub.GetUserContexts(each) for each in requests))

    fours = [[request() for _ in range(4)] for _ in range(arguments.calls // 4)]
    units = len(fours) * 4 * arguments.context_batch
    return await service.measure(
        f"contexts, {arguments.context_batch} a call, 4 calls at once", four, fours, units=units
    )


async def ask(service: Service, arguments: argparse.Namespace, random: Random) -> list[Figure]:
    """Read contexts, popular items, items and exports."""
    stub = service.stub
    genre = common_pb2.Predicate(
        field="genres", operator=common_pb2.FILTER_OPERATOR_EQ, values=[common_pb2.AttributeValue(text="g3")]
    )
    query = pb.GetPopularityRequest.Query(tenant=TENANT, item_type="film", limit=100)
    plain = pb.GetPopularityRequest(queries=[query] * 64)
    query.filter.predicates.append(genre)
    filtered = pb.GetPopularityRequest(queries=[query] * 64)
    top = await stub.GetPopularity(
        pb.GetPopularityRequest(queries=[pb.GetPopularityRequest.Query(tenant=TENANT, limit=500)])
    )
    get = pb.GetItemsRequest(item_keys=top.results[0].item_keys)
    await stub.GetPopularity(filtered)  # the first one evaluates the filter

    async def drain(pages: AsyncIterable[object]) -> None:
        async for _ in pages:
            pass

    interactions = pb.ExportInteractionsRequest(tenant=TENANT)
    items = pb.ExportItemsRequest(tenant=TENANT)
    return [
        await contexts(service, arguments, random, "warm"),
        await contexts_at_once(service, arguments, random),
        await service.measure("popularity, top 100", stub.GetPopularity, [plain] * 20, units=20 * 64),
        await service.measure("popularity, top 100, filtered", stub.GetPopularity, [filtered] * 20, units=20 * 64),
        await service.measure("get items, 500 a call", stub.GetItems, [get] * 20, units=20 * len(get.item_keys) // 8),
        await service.measure(
            "export interactions",
            lambda request: drain(stub.ExportInteractions(request)),
            [interactions],
            units=arguments.users * arguments.history,
        ),
        await service.measure(
            "export items", lambda request: drain(stub.ExportItems(request)), [items], units=arguments.items
        ),
    ]


def an_item(number: int) -> common_pb2.Item:
    """Give an item with a few attributes."""
    value = common_pb2.AttributeValue
    genres = value.StringList(values=[f"g{number % 18}", f"g{number % 7}"])
    return common_pb2.Item(
        tenant=TENANT,
        item_type="film",
        item_id=f"{number}",
        title=f"Film {number}",
        description="Nothing happens, twice. " * 8,
        attributes={
            "year": value(number=1950 + number % 70),
            "genres": value(texts=genres),
            "country": value(text=f"c{number % 40}"),
        },
        created_at_ms=now_ms() - DAY_MS,
        updated_at_ms=now_ms() - DAY_MS,
    )


def a_deed(random: Random, arguments: argparse.Namespace) -> pb.Interaction:
    """Give a rating of the last month, half of them of popular items."""
    popular = min(int(random.paretovariate(0.7)), arguments.items) - 1
    return pb.Interaction(
        event_id=f"{random.getrandbits(128):032x}",
        tenant=TENANT,
        user_id=f"user-{random.randrange(arguments.users)}",
        item_type="film",
        item_id=f"{popular if random.random() < 0.5 else random.randrange(arguments.items)}",
        interaction_type="rating",
        value=float(random.randrange(1, 6)),
        occurred_at_ms=now_ms() - random.randrange(30 * DAY_MS),
    )


def now_ms() -> int:
    """Give Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="", help="PROFILE_STORE_URL of a CQL keyspace (default: SQLite)")
    parser.add_argument("--users", type=int, default=1_000, help="how many users (default: %(default)s)")
    parser.add_argument("--history", type=int, default=100, help="interactions of each user (default: %(default)s)")
    parser.add_argument("--items", type=int, default=3_600, help="size of the catalogue (default: %(default)s)")
    parser.add_argument("--append-batch", type=int, default=1_000, help="events of one append (default: %(default)s)")
    parser.add_argument("--context-batch", type=int, default=64, help="users of one read (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=200, help="context reads (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of everything random (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON to this file")
    arguments = parser.parse_args()
    if arguments.url:
        environment = {**os.environ, **store_settings(arguments.url)}
        run([sys.executable, "-m", "profile_store.migrate"], env=environment, check=True)
    figures = asyncio.run(bench(arguments))
    sys.stdout.write(f"{'what':60} {'per second':>12} {'p50 ms':>9} {'p99 ms':>9} {'CPU µs each':>12}\n")
    for figure in figures:
        numbers = f"{figure.per_second:12,.0f} {figure.p50_ms:9.2f} {figure.p99_ms:9.2f} {figure.cpu_us:12.1f}"
        sys.stdout.write(f"{figure.name:60} {numbers}\n")
    if arguments.out:
        arguments.out.write_text(json.dumps([asdict(figure) for figure in figures], indent=1))


if __name__ == "__main__":
    main()
