import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest
from prometheus_client import Counter, start_http_server
from prometheus_client.registry import CollectorRegistry
from rich.console import Console

from recommend_cli.bench import events as events_module
from recommend_cli.bench.events import EventBench, Item
from recommend_cli.bench.report import comparison_table
from recommend_cli.clients.gateway import Gateway
from recommend_cli.errors import CommandError
from recommend_cli.stack.folder import ServiceState, StackState
from recommend_cli.stack.ports import free_ports
from recommendation.events.v1 import events_pb2
from servicekit.clock import SystemClock
from servicekit.eventlog.decode import decode
from servicekit.eventlog.memory import MemoryEventLog
from servicekit.eventlog.port import Record
from servicekit.eventlog.topics import USER_ERASED, USER_INTERACTIONS, default_specs

ITEMS = tuple(Item("film", f"film-{number}") for number in range(30))


class Shop:
    """A gateway and a store in one: applies the log, recommends what a visitor has not seen yet."""

    def __init__(self, log: MemoryEventLog, *, applies: bool = True) -> None:
        self._log = log
        self._applies = applies
        self._seen: dict[str, set[str]] = {}
        self.content_types: list[bytes] = []
        registry = CollectorRegistry()
        self._counter = Counter("consumer_records_total", "", ["topic"], registry=registry)
        (self.metrics_port,) = free_ports(1)
        self.server, self.thread = start_http_server(self.metrics_port, "127.0.0.1", registry=registry)

    async def answer(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)  # as a network would
        if request.method == "POST":
            body = orjson.loads(request.content)
            views = body.get("interactions", [body])
            for view in views:
                self._seen.setdefault(view["user_id"], set()).add(view["item_id"])
            return httpx.Response(201, json={"accepted": len(views), "applied": len(views), "errors": []})
        seen = self._seen.get(request.url.params["user_id"], set())
        left = [item for item in ITEMS if item.item_id not in seen][:10]
        return httpx.Response(
            200, json={"model_version": "", "strategy": "", "degraded": [], "items": list(map(_listed, left))}
        )

    async def run(self) -> None:
        consumer = self._log.consumer([USER_INTERACTIONS], group="shop")
        while True:
            for record in await consumer.poll(max_records=1_000, timeout_s=1.0):
                self._apply(record)

    def _apply(self, record: Record) -> None:
        self.content_types.append(record.headers.get("content-type", b""))
        view = decode(record, events_pb2.InteractionRecorded)
        if self._applies:
            self._seen.setdefault(view.user_id, set()).add(view.item_id)
            self._counter.labels(USER_INTERACTIONS).inc()


def _listed(item: Item) -> dict[str, Any]:
    said = {"item_id": item.item_id, "item_type": item.item_type, "title": "", "score": 1.0}
    return {**said, "attributes": {}, "reasons": []}


@pytest.fixture
async def log() -> AsyncIterator[MemoryEventLog]:
    log = MemoryEventLog(clock=SystemClock())
    await log.ensure_topics(default_specs())
    yield log
    await log.close()


@pytest.fixture(autouse=True)
def few_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "EVENTS", 2_000)


async def _with_shop(log: MemoryEventLog, shop: Shop, use: Any) -> None:
    applying = asyncio.create_task(shop.run())
    state = StackState(1, 1.0, "ready", ("http://gateway",), auth=False)
    state.services["profile_store"] = ServiceState("profile_store", 1, 1.0, "h:1", "grpc", shop.metrics_port)
    try:
        async with Gateway("http://gateway", "", transport=httpx.MockTransport(shop.answer)) as gateway:
            await use(EventBench(state, gateway, log, ITEMS))
    finally:
        applying.cancel()
        shop.server.shutdown()
        shop.server.server_close()
        shop.thread.join()


async def test_outside_events_are_json_and_protobuf_in_turn_and_taken_back(log: MemoryEventLog) -> None:
    shop = Shop(log)

    async def use(bench: EventBench) -> None:
        times = await bench.external_to_list(tries=4, on_try=lambda: None)
        assert 0 < times["p50"] <= times["p99"]
        assert shop.content_types == [b"application/json", b"", b"application/json", b""]
        await bench.erase()
        erased = sum((await log.end_offsets([USER_ERASED])).values())
        assert erased == 4

    await _with_shop(log, shop, use)


async def test_ingest_counts_what_was_applied(log: MemoryEventLog) -> None:
    shop = Shop(log)

    async def use(bench: EventBench) -> None:
        assert await bench.ingest_over_rest() > 0
        rates = await bench.ingest_from_log()
        assert rates["appended"] >= rates["applied"] > 0
        assert len(shop.content_types) == 2_000

    await _with_shop(log, shop, use)


async def test_events_that_nobody_applies_end_the_bench(log: MemoryEventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "_STALLS_S", 0.1)

    async def use(bench: EventBench) -> None:
        with pytest.raises(CommandError, match="2000 events were not applied"):
            await bench.ingest_from_log()

    await _with_shop(log, Shop(log, applies=False), use)


def test_stores_are_compared_figure_by_figure() -> None:
    def figures(rps: float, cpu_ms: dict[str, float]) -> dict[str, Any]:
        return {
            "personalised": {"64": {"rps": rps, "p50_ms": 1.5, "p99_ms": 2.5, "cpu_ms": cpu_ms}},
            "freshness_ms": {"p50": 3.5, "p99": 4.5},
            "external_event_to_list_ms": {"p50": 5.5, "p99": 6.5},
            "ingest_events_per_s": {"rest_bulk": 7000.0, "appended": 8000.0, "applied": 9000.0},
        }

    table = comparison_table({"embedded": figures(1000.0, {"a": 0.25}), "servers": figures(500.0, {"b": 0.5})})
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table)
    rows = [line.split() for line in capture.get().splitlines()]
    assert ["personalised", "requests/s,", "64", "connections", "1,000", "500"] in rows
    assert ["CPU", "ms", "a", "request,", "a", "0.25"] in rows
    assert ["CPU", "ms", "a", "request,", "b", "0.50"] in rows
    assert ["events/s", "through", "the", "log,", "applied", "9,000", "9,000"] in rows
