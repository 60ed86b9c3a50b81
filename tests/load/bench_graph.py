"""Measures graph_service in this process: writing, filling the cache, answering.

The store is SQLite in a temporary folder, or the Neo4j that GRAPH_STORE_URL names (with NEO4J_USERNAME and
NEO4J_PASSWORD): its schema is there and its graph is empty, or the catalogue was loaded before and --loaded says so.

Two made-up catalogues: `films` has the size of MovieLens-100K (1,682 items, 943 users, 100,000 edges, people and
genres), `shop` has 100,000 nodes and a million edges. Popularity and activity follow a power law. CPU is that of the
measuring thread, or of the process where the work is done on others; of the repetitions of each batch the best counts,
since the others measure the neighbours.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil

from graph_service.api import GraphServicer
from graph_service.application.queries import Expansion, ExplanationQuery
from graph_service.bootstrap import Graph, make_graph, make_rebuilder, open_store
from graph_service.domain.composition import Candidates
from graph_service.domain.graph import (
    NEVER_MS,
    FilterableItem,
    Interaction,
    ItemFacts,
    Keys,
    Mutation,
    NodeKind,
    NodeRule,
    PutItem,
)
from graph_service.settings import GraphServiceSettings
from recommendation.graph_service.v1 import graph_service_pb2 as pb
from servicekit.arrays import pack_floats, pack_keys
from servicekit.clock import SystemClock
from servicekit.eventlog.memory import MemoryEventLog
from servicekit.filters import AttributeValue, Operator, Predicate
from servicekit.rpc.client import RpcChannel

TENANT = "bench"
NODES = NodeRule({NodeKind.PERSON: ("people",), NodeKind.GENRE: ("genres",)})


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a catalogue."""

    items: int
    users: int
    interactions: int
    people: int
    people_per_item: int
    genres: int
    genres_per_item: int


SHAPES = {
    "films": Shape(1_682, 943, 100_000, 12_000, 12, 19, 2),
    "shop": Shape(37_900, 60_000, 850_000, 2_080, 3, 20, 1),
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report."""

    name: str
    value: float
    unit: str


class Catalogue:
    """Made-up items and interactions; the same for the same seed."""

    def __init__(self, shape: Shape, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._shape = shape
        self.item_keys: Keys = np.unique(rng.integers(1, 1 << 62, shape.items))
        self.user_keys: Keys = np.unique(rng.integers(1, 1 << 62, shape.users))
        self._genres = rng.integers(0, shape.genres, (shape.items, shape.genres_per_item))
        self._people = (shape.people * rng.random((shape.items, shape.people_per_item)) ** 2).astype(int)
        popularity = rng.permutation(1.0 / np.arange(10, 10 + len(self.item_keys)) ** 0.8)
        activity = 1.0 / np.arange(10, 10 + len(self.user_keys)) ** 0.6
        users = rng.choice(len(self.user_keys), 2 * shape.interactions, p=activity / activity.sum())
        items = rng.choice(len(self.item_keys), 2 * shape.interactions, p=popularity / popularity.sum())
        pairs = rng.permutation(np.unique(users * len(self.item_keys) + items))[: shape.interactions]
        self.users, self.items = np.divmod(pairs, len(self.item_keys))

    def put_items(self) -> list[Mutation]:
        """Give all items."""
        return [self._put(number, key) for number, key in enumerate(self.item_keys.tolist())]

    def interactions(self) -> list[Mutation]:
        """Give all interactions, in random order."""
        users, items = self.user_keys[self.users].tolist(), self.item_keys[self.items].tolist()
        pairs = enumerate(zip(users, items, strict=True), start=1_000_000)
        return [Interaction(user, item, 1.0, at_ms) for at_ms, (user, item) in pairs]

    def histories(self, count: int, length: int, rng: np.random.Generator) -> Iterator[Keys]:
        """Give what some users touched last, as far as they have touched enough."""
        order = np.argsort(self.users, kind="stable")
        starts = np.searchsorted(self.users[order], np.arange(len(self.user_keys) + 1))
        lengths = np.diff(starts)
        busy = np.flatnonzero(lengths >= min(length, int(np.sort(lengths)[-count:].min())))
        for user in rng.choice(busy, count):
            yield self.item_keys[self.items[order[starts[user] : starts[user + 1]][-length:][::-1]]]

    def _put(self, number: int, key: int) -> PutItem:
        attributes: dict[str, AttributeValue] = {
            "genres": tuple(f"genre {genre}" for genre in dict.fromkeys(self._genres[number].tolist())),
            "people": tuple(f"person {person}" for person in dict.fromkeys(self._people[number].tolist())),
            "year": float(1950 + number % 70),
        }
        return PutItem(
            key,
            ItemFacts(TENANT, 0, NEVER_MS),
            FilterableItem("film", 0, attributes),
            NODES.nodes_of(TENANT, attributes),
            1_000,
        )


class Bench:
    """Runs the measurements of one catalogue and prints each as soon as it is there."""

    def __init__(self, name: str, shape: Shape, folder: Path, options: argparse.Namespace) -> None:
        self.figures: list[Figure] = []
        self._name = name
        self._folder = folder
        self._options = options
        self._catalogue = Catalogue(shape, options.seed)
        self._rng = np.random.default_rng(options.seed)

    async def run(self) -> None:
        """Measure everything."""
        store = await open_store(self._settings())
        graph = make_graph(self._settings(), store, SystemClock())
        async with asyncio.TaskGroup() as tasks:
            loops = [tasks.create_task(graph.filler.answer_waiting()), tasks.create_task(graph.filler.renew())]
            if not self._options.loaded:
                await self._write("items", graph, self._catalogue.put_items())
                await self._write("interactions", graph, self._catalogue.interactions())
            await self._answer_cold()
            await self._warm(graph)
            await self._miss(graph)
            await self._answer(graph)
            for each in loops:
                each.cancel()
        await store.close()

    def _settings(self) -> GraphServiceSettings:
        return GraphServiceSettings(
            data_dir=self._folder,
            neo4j_read_timeout_s=120.0,
            fill_timeout_s=60.0,
            warm_lists=self._options.warm,
            cached_lists=100_000,
        )

    async def _write(self, what: str, graph: Graph, mutations: Sequence[Mutation]) -> None:
        batches = [mutations[start : start + 10_000] for start in range(0, len(mutations), 10_000)]
        wall_s, _ = await _timed(lambda: _in_turn([lambda b=batch: graph.use_cases.apply(b) for batch in batches]))  # type: ignore[misc]  # mypy cannot type a lambda's default
        self._say(f"{what} written in batches of 10,000", len(mutations) / wall_s, "/s")

    async def _miss(self, graph: Graph) -> None:
        """Measure lists computed from the store, whose items are drawn by chance or as often as they are touched.

        The cache is warm, as the service warms it at its start; what is asked for is dropped from it first.
        """
        touched = self._catalogue.item_keys[self._catalogue.items]
        for name, drawn in (("any", self._catalogue.item_keys), ("as touched", touched)):
            for size in (1, 8, 64):
                waits, cpu = [], []
                for _ in range(max(10, self._options.misses // size)):
                    keys = self._rng.choice(drawn, size, replace=False).tolist()
                    for key in keys:
                        graph.cache.contents.lists.drop(key)
                    wall_s, cpu_s = await _timed(lambda k=keys: graph.filler.ensure(k, 60.0))  # type: ignore[misc]  # mypy cannot type a lambda's default
                    waits.append(wall_s)
                    cpu.append(cpu_s / size)
                what = f"misses in batches of {size}, items {name}"
                self._say(f"{what}, a batch: median", 1e3 * float(np.median(waits)), "ms")
                self._say(f"{what}, a batch: p99", 1e3 * float(np.percentile(waits, 99)), "ms")
                self._say(f"{what}, an item: median", 1e3 * float(np.median(waits)) / size, "ms")
                self._say(f"{what}, an item: CPU here", 1e3 * float(np.median(cpu)), "ms")

    async def _answer_cold(self) -> None:
        """Measure answers from an empty cache, each with a fresh one."""
        for users in (1, 64):
            waits = []
            for _ in range(self._options.repeat):
                store = await open_store(self._settings())
                graph = make_graph(self._settings(), store, SystemClock())
                filling = asyncio.get_running_loop().create_task(graph.filler.answer_waiting())
                queries = self._queries(users)
                wall_s, _ = await _timed(lambda g=graph, q=queries: g.use_cases.expand_users(q))  # type: ignore[misc]  # as above
                waits.append(wall_s)
                filling.cancel()
                await store.close()
            self._say(f"ExpandUsers, {users} user(s), nothing cached, median", 1e3 * float(np.median(waits)), "ms")

    async def _warm(self, graph: Graph) -> None:
        busiest = self._catalogue.item_keys[np.argsort(-np.bincount(self._catalogue.items))]
        for name, keys in (("most touched", busiest[:1]), ("median", busiest[len(busiest) // 2 :][:1])):
            wall_s, cpu_s = await _timed(lambda k=keys: graph.filler.ensure(k.tolist(), 60.0))  # type: ignore[misc]  # as above
            self._say(f"related items of the {name} item", 1e3 * wall_s, "ms")
        before = psutil.Process().memory_info().rss
        limit = min(self._options.warm, len(busiest))
        wall_s, cpu_s = await _timed(
            lambda: _in_turn(
                [
                    lambda s=start: graph.filler.ensure(busiest[s : min(s + 1024, limit)].tolist(), 60.0)  # type: ignore[misc]  # as above
                    for start in range(0, limit, 1024)
                ]
            )
        )
        self._say(f"{limit:,} lists filled in batches of 1,024", wall_s, "s")
        self._say("CPU a list", 1e3 * cpu_s / limit, "ms")
        self._say("memory a list", (psutil.Process().memory_info().rss - before) / limit / 1024, "KiB")

    async def _answer(self, graph: Graph) -> None:
        condition = (Predicate("year", Operator.GTE, (1990.0,)),)
        for users in (1, 8, 64):
            for conditions in ((), condition):
                rounds = [self._queries(users, conditions) for _ in range(max(1, 512 // users))]
                # After this all are hits.
                await graph.use_cases.expand_users([query for queries in rounds for query in queries])
                tries = [await _cpu_s(graph, rounds) for _ in range(self._options.repeat)]
                best_s = float(np.min(tries, axis=0).sum())
                name = f"ExpandUsers, batches of {users}{', with a filter' if conditions else ''}, CPU a user, all hits"
                self._say(name, 1e6 * best_s / (users * len(rounds)), "µs")
        await self._answer_calls(graph)
        answers = await graph.use_cases.expand_users(self._queries(64))
        lengths = [len(answer.keys) for answer in answers if isinstance(answer, Candidates)]
        self._say("candidates a user, of 100 asked for", float(np.mean(lengths)), "")
        history = next(self._catalogue.histories(1, 20, self._rng))
        items = self._rng.choice(self._catalogue.item_keys, 10)
        wall_s, _ = await _timed(lambda: graph.use_cases.explain(ExplanationQuery(TENANT, history, items, 3)))
        self._say("ExplainRecommendations, 20 history items, 10 items", 1e3 * wall_s, "ms")

    async def _answer_calls(self, graph: Graph) -> None:
        """Measure the call as the server sees it, from bytes to bytes, without the network."""
        async with RpcChannel("127.0.0.1:1", name="nobody") as nobody:
            rebuilder = make_rebuilder(graph, nobody, MemoryEventLog(clock=SystemClock()))
        servicer = GraphServicer(graph.use_cases, graph.reader, rebuilder)
        requests = [_request(self._queries(64)).SerializeToString() for _ in range(8)]
        tries = np.zeros((self._options.repeat, len(requests)))
        for turn in range(self._options.repeat):
            for number, request in enumerate(requests):
                started = time.thread_time()
                answer = await servicer.ExpandUsers(pb.ExpandUsersRequest.FromString(request), None)
                answer.SerializeToString()
                tries[turn, number] = time.thread_time() - started
        best_s = float(tries.min(axis=0).sum())
        self._say("the same from bytes to bytes, batches of 64, CPU a user", 1e6 * best_s / (64 * len(requests)), "µs")

    def _queries(self, users: int, conditions: tuple[Predicate, ...] = ()) -> list[Expansion]:
        return [
            Expansion(
                TENANT,
                history,
                np.ones(len(history), dtype=np.float32),
                self._rng.choice(self._catalogue.item_keys, 100),
                100,
                None,
                conditions,
            )
            for history in self._catalogue.histories(users, 20, self._rng)
        ]

    def _say(self, name: str, value: float, unit: str) -> None:
        figure = Figure(f"{self._name}: {name}", round(value, 3), unit)
        self.figures.append(figure)
        sys.stdout.write(f"{figure.name:86} {value:12,.2f} {unit}\n")
        sys.stdout.flush()


def _request(queries: Sequence[Expansion]) -> pb.ExpandUsersRequest:
    return pb.ExpandUsersRequest(
        queries=[
            pb.ExpandUsersRequest.Query(
                tenant=query.tenant,
                history_keys=pack_keys(query.history_keys),
                history_weights=pack_floats(query.history_weights),
                exclude_keys=pack_keys(query.exclude_keys),
                limit=query.limit,
            )
            for query in queries
        ]
    )


async def _in_turn(calls: Sequence[Callable[[], Awaitable[object]]]) -> None:
    for call in calls:
        await call()


async def _timed(call: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Give the seconds and the process's CPU seconds that a call takes."""
    cpu, started = time.process_time(), time.perf_counter()
    await call()
    return time.perf_counter() - started, time.process_time() - cpu


async def _cpu_s(graph: Graph, rounds: Sequence[Sequence[Expansion]]) -> list[float]:
    """Give the CPU seconds of each batch."""
    took = []
    for queries in rounds:
        started = time.thread_time()
        await graph.use_cases.expand_users(queries)
        took.append(time.thread_time() - started)
    return took


def main() -> None:
    """Read the command line, measure, write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=[*SHAPES, "all"], default="all", help="which catalogue")
    parser.add_argument("--warm", type=int, default=2_000, help="lists to fill (default: %(default)s)")
    parser.add_argument("--misses", type=int, default=500, help="misses measured of each kind (default: %(default)s)")
    parser.add_argument("--loaded", action="store_true", help="the store has the catalogue")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions of each measurement (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the catalogues (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write the figures as JSON to this file too")
    options = parser.parse_args()
    figures: list[Figure] = []
    for name in SHAPES if options.shape == "all" else (options.shape,):
        with TemporaryDirectory() as folder:
            bench = Bench(name, SHAPES[name], Path(folder), options)
            asyncio.run(bench.run())
            figures += bench.figures
    if options.out:
        options.out.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")


if __name__ == "__main__":
    main()
