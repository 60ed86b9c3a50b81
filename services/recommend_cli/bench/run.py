"""Loads a running stack in several ways, beside a yardstick, and collects the figures."""

import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from urllib.parse import quote

from rich.progress import Progress

from recommend_cli.bench.answers import count_degraded, find_wrong_answers
from recommend_cli.bench.events import EventBench, Item
from recommend_cli.bench.freshness import BENCH_VISITOR, measure_freshness
from recommend_cli.bench.load import LoadResult, Target, run_load
from recommend_cli.bench.processes import CpuMeter
from recommend_cli.bench.yardstick import hello_served
from recommend_cli.clients.gateway import Gateway, authorization
from recommend_cli.clients.profiles import read_touched_items
from recommend_cli.clients.services import connected
from recommend_cli.clients.vectors import VectorIndex
from recommend_cli.console import share_progress
from recommend_cli.environment import describe_environment
from recommend_cli.errors import CommandError
from recommend_cli.stack.folder import StackState
from recommend_cli.stack.leftovers import process_of
from recommend_cli.stack.plan import GATEWAY
from recommend_cli.stack.usage import usage_of
from servicekit.eventlog.port import EventLog

CONNECTIONS: Final = (1, 16, 64)
MOST: Final = str(max(CONNECTIONS))
LIMIT: Final = 10
MAX_LIMIT: Final = 100
_WARM_UP_S: Final = 2.0
_TURNS: Final = 4
"""A shared machine is faster in one second than in another; the yardstick and the stack have both kinds in turn."""
_OPEN_LOOP_CONNECTIONS: Final = 256
_FIRST_RATE: Final = 50.0
_RATE_GROWTH: Final = 2**0.5
_MOST_RATES: Final = 16
_OVERLOADED_MS: Final = 500.0  # at the 99th percentile: rising further would show the length of a queue
_FRESHNESS_TRIES: Final = 200
_EXTERNAL_TRIES: Final = 100
_SEED: Final = 1
"""Shuffles the users, and draws the vectors of the recall."""


@dataclass(frozen=True, slots=True)
class Visitors:
    """Who asks: the users in the order of the requests, what each has touched, and what a stranger gets."""

    tenant: str
    users: Sequence[str]
    touched: dict[str, frozenset[int]]
    trending: tuple[str, ...]


@dataclass(slots=True)
class _Side:
    """One of two servers that are loaded in turn."""

    target: Target
    requests: Sequence[str]
    meter: CpuMeter
    turns: list[LoadResult] = field(default_factory=list)

    async def take_turn(self, *, seconds: float, connections: int) -> None:
        with self.meter.running():
            load = await run_load(self.target, self.requests, seconds=seconds, connections=connections)
        self.turns.append(load)

    def measured(self) -> tuple[LoadResult, dict[str, float]]:
        """Give all turns as one, and the CPU milliseconds a request of each process."""
        result = LoadResult.joined(self.turns)
        return result, self.meter.milliseconds_per(result.count)


class Bench:
    """All measurements on one running stack with a model; `seconds` is how long each of them takes."""

    def __init__(
        self, state: StackState, gateway: Gateway, log: EventLog, api_key: str, *, seconds: float
    ) -> None:  # fmt: skip
        self._state = state
        self._gateway = gateway
        self._log = log
        self._seconds = seconds
        host, _, port = state.replicas(GATEWAY)[0].endpoint.rpartition(":")
        self._target = Target(host, int(port), (authorization(api_key),))

    async def run(self) -> dict[str, Any]:
        """Measure, and give the report.

        Raises:
            CommandError: There is no model or no data, or a measurement cannot be made.
        """
        visitors = await self._visitors()
        requests = [
            self._target.get(f"/api/recommendations?user_id={quote(user, safe='')}&limit={LIMIT}")
            for user in visitors.users
        ]
        with share_progress() as progress:
            closed = await self._closed_loops(requests, visitors, progress)
            open_loop = await self._open_loop(requests, visitors, progress)
            freshness = await self._freshness(visitors, progress)
            recall = await self._recall(progress)
            events = await self._events(progress)
        hello, personalised = closed
        return {
            "hello": hello,
            "personalised": personalised,
            "open_loop": open_loop,
            "ratio_to_hello": personalised[MOST]["rps"] / hello[MOST]["rps"],
            "freshness_ms": freshness,
            "recall_at_10": recall,
            **events,
            "memory_bytes": {
                name: usage_of(process_of(service)).memory_bytes for name, service in self._state.services.items()
            },
            "environment": describe_environment(),
        }

    async def _visitors(self) -> Visitors:
        async with connected(self._state, "vector_search") as channel:
            if not (await VectorIndex(channel, self._state.tenant).describe()).version:
                raise CommandError("No model serves on this stack", hint="`make demo ONCE=1` loads data and trains one")
        async with connected(self._state, "profile_store") as channel:
            touched = await read_touched_items(channel, self._state.tenant)
        users = [user for user, items in touched.items() if items and not user.startswith(BENCH_VISITOR)]
        random.Random(_SEED).shuffle(users)
        return Visitors(self._state.tenant, users, touched, (await self._gateway.trending(limit=LIMIT)).ids)

    async def _closed_loops(
        self, requests: Sequence[str], visitors: Visitors, progress: Progress
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Ask at each number of connections, the yardstick and the stack in short turns, after both have warmed up."""
        hello: dict[str, Any] = {}
        personalised: dict[str, Any] = {}
        task = progress.add_task("Closed loop", total=2 * len(CONNECTIONS) * _TURNS + 2)
        async with hello_served() as (hello_target, hello_process):
            hello_request = [hello_target.get("/")]
            await run_load(hello_target, hello_request, seconds=_WARM_UP_S, connections=max(CONNECTIONS))
            progress.advance(task)
            await run_load(self._target, requests, seconds=_WARM_UP_S, connections=max(CONNECTIONS))
            progress.advance(task)
            for connections in CONNECTIONS:
                yardstick = _Side(hello_target, hello_request, CpuMeter({"hello": hello_process}))
                stack = _Side(self._target, requests, CpuMeter.of_stack(self._state))
                for _ in range(_TURNS):
                    for side in (yardstick, stack):
                        await side.take_turn(seconds=self._seconds / _TURNS, connections=connections)
                        progress.advance(task)
                result, cpu_ms = yardstick.measured()
                hello[str(connections)] = {
                    **_speed(result),
                    "cpu_ms": cpu_ms["total"],
                    "failures": result.failures(),
                }
                result, cpu_ms = stack.measured()
                personalised[str(connections)] = {**_speed(result), "cpu_ms": cpu_ms, **_verdict(result, visitors)}
        return hello, personalised

    async def _open_loop(self, requests: Sequence[str], visitors: Visitors, progress: Progress) -> list[dict[str, Any]]:
        """Ask at rising rates until the stack does not keep up."""
        task = progress.add_task("Open loop", total=_MOST_RATES)
        steps = []
        for step in range(_MOST_RATES):
            rate = _FIRST_RATE * _RATE_GROWTH**step
            meter = CpuMeter.of_stack(self._state)
            with meter.running():
                result = await run_load(
                    self._target,
                    requests,
                    seconds=self._seconds / 2,
                    connections=_OPEN_LOOP_CONNECTIONS,
                    requests_per_s=rate,
                )
            steps.append(
                {
                    "offered_rps": rate,
                    **_speed(result),
                    "cpu_ms": meter.milliseconds_per(result.count),
                    **_verdict(result, visitors),
                }
            )
            progress.advance(task)
            if steps[-1]["p99_ms"] > _OVERLOADED_MS:
                break
        progress.update(task, total=len(steps))
        return steps

    async def _freshness(self, visitors: Visitors, progress: Progress) -> dict[str, float]:
        task = progress.add_task("POST to changed list", total=_FRESHNESS_TRIES)
        return await measure_freshness(
            self._gateway, visitors.users, tries=_FRESHNESS_TRIES, on_try=lambda: progress.advance(task)
        )

    async def _events(self, progress: Progress) -> dict[str, Any]:
        """Write events in bulk and one by one, as the gateway's callers do and as outside producers do."""
        task = progress.add_task("Events", total=2 + _EXTERNAL_TRIES)
        popular = await self._gateway.trending(limit=MAX_LIMIT)
        items = [Item(each.item_type, each.item_id) for each in popular.items]
        bench = EventBench(self._state, self._gateway, self._log, items)
        try:
            external = await bench.external_to_list(tries=_EXTERNAL_TRIES, on_try=lambda: progress.advance(task))
            over_rest = await bench.ingest_over_rest()
            progress.advance(task)
            from_log = await bench.ingest_from_log()
            progress.advance(task)
        finally:
            await bench.erase()
        return {
            "external_event_to_list_ms": external,
            "ingest_events_per_s": {"rest_bulk": over_rest, **from_log},
        }

    async def _recall(self, progress: Progress) -> list[dict[str, float]]:
        task = progress.add_task("Recall of the dense search", total=1)
        async with connected(self._state, "vector_search") as channel:
            measured = await VectorIndex(channel, self._state.tenant).measure_recall(seed=_SEED)
        progress.advance(task)
        return [asdict(each) for each in measured]


def _speed(result: LoadResult) -> dict[str, float]:
    return {
        "requests": result.count,
        "rps": result.requests_per_s,
        "p50_ms": result.latency_ms(50),
        "p99_ms": result.latency_ms(99),
        "generator_cpu_ms": result.generator_cpu_s * 1000 / result.count,
    }


def _verdict(result: LoadResult, visitors: Visitors) -> dict[str, Any]:
    """Say how many answers were wrong, why, and how many said that they lack something."""
    wrong = find_wrong_answers(
        result, visitors.users, visitors.touched, visitors.trending, tenant=visitors.tenant, limit=LIMIT
    )
    return {"wrong_answers": wrong.total(), "wrong_because": dict(wrong), "degraded": count_degraded(result)}
