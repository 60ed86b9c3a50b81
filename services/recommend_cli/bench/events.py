"""How fast events come in, and how soon a list knows of one that an outside producer wrote to the log."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

import httpx
import numpy as np
from google.protobuf.json_format import MessageToJson

from recommend_cli.bench.freshness import BENCH_VISITOR, wait_until_changed
from recommend_cli.clients.gateway import Gateway
from recommend_cli.clients.metrics import read_metric
from recommend_cli.datasets.files import Record
from recommend_cli.errors import CommandError
from recommend_cli.loading import send_all
from recommend_cli.populating import numbered
from recommend_cli.stack.folder import StackState
from recommendation.events.v1 import events_pb2
from servicekit.eventlog.decode import CONTENT_TYPE_HEADER, JSON_CONTENT_TYPE
from servicekit.eventlog.port import EventLog, NewRecord
from servicekit.eventlog.topics import USER_ERASED, USER_INTERACTIONS

EVENTS: Final = 20_000
_VISITORS: Final = 200
_BATCH: Final = 1_000
_BATCHES_AT_ONCE: Final = 4
_POLL_S: Final = 0.02
_STALLS_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Item:
    """What the made-up visitors view."""

    item_type: str
    item_id: str


class EventBench:
    """Writes views of visitors that it makes up, by REST and as an outside producer does, and erases them at the end.

    Args:
        state: The running stack.
        gateway: Its gateway.
        log: Its event log.
        items: What is viewed.
    """

    def __init__(self, state: StackState, gateway: Gateway, log: EventLog, items: Sequence[Item]) -> None:
        self._state = state
        self._tenant = state.tenant
        self._gateway = gateway
        self._log = log
        self._items = items
        self._visitors: list[str] = []

    async def ingest_over_rest(self) -> float:
        """Give the events a second that the gateway takes in bulks, each of them readable when it is acknowledged."""
        views = [_json_view(view) for view in self._views(EVENTS)]
        started = time.perf_counter()
        outcome = await send_all(numbered(views), self._gateway.append_interactions, stream_key="user_id")
        seconds = time.perf_counter() - started
        if outcome.bad:
            raise CommandError(f"{len(outcome.bad)} interactions were refused: {next(iter(outcome.bad.values()))}")
        return EVENTS / seconds

    async def ingest_from_log(self) -> dict[str, float]:
        """Give the events a second that a producer can append, and those that profile_store has applied by the end."""
        records = [_record(view, as_json=False) for view in self._views(EVENTS)]
        batches = [records[at : at + _BATCH] for at in range(0, len(records), _BATCH)]
        producer, slots = self._log.producer(), asyncio.Semaphore(_BATCHES_AT_ONCE)

        async def append(batch: Sequence[NewRecord]) -> None:
            async with slots:
                await producer.append(batch)

        async with httpx.AsyncClient(trust_env=False) as client:
            before = await self._applied(client)
            started = time.perf_counter()
            await asyncio.gather(*map(append, batches))
            appended = time.perf_counter()
            await self._wait_until_applied(client, before + EVENTS)
            applied = time.perf_counter()
        return {"appended": EVENTS / (appended - started), "applied": EVENTS / (applied - started)}

    async def external_to_list(self, *, tries: int, on_try: Callable[[], None]) -> dict[str, float]:
        """Give milliseconds from an outside producer's event to the list that knows it; JSON and protobuf in turn."""
        producer = self._log.producer()
        times_ms = []
        for number in range(tries):
            visitor = self._new_visitor()
            first_seen = self._items[number % len(self._items)]
            await self._gateway.append_interaction(_json_view(self._view(visitor, first_seen)))
            first = (await self._gateway.recommend(visitor)).items[0]
            view = self._view(visitor, Item(first.item_type, first.item_id))
            started = time.perf_counter()
            await producer.append([_record(view, as_json=number % 2 == 0)])
            await wait_until_changed(self._gateway, visitor, first.item_id, since=started)
            times_ms.append((time.perf_counter() - started) * 1000)
            on_try()
        return {"p50": float(np.percentile(times_ms, 50)), "p99": float(np.percentile(times_ms, 99))}

    async def erase(self) -> None:
        """Take back what the visitors did."""
        now_ms = time.time_ns() // 1_000_000
        events = [
            events_pb2.UserErased(event_id=uuid4().hex, occurred_at_ms=now_ms, tenant=self._tenant, user_id=visitor)
            for visitor in self._visitors
        ]
        await self._log.producer().append(
            [NewRecord(USER_ERASED, f"{event.tenant}/{event.user_id}", event.SerializeToString()) for event in events]
        )

    def _views(self, count: int) -> list[events_pb2.InteractionRecorded]:
        visitors = [self._new_visitor() for _ in range(_VISITORS)]
        return [
            self._view(visitors[number % _VISITORS], self._items[number // _VISITORS % len(self._items)])
            for number in range(count)
        ]

    def _view(self, visitor: str, item: Item) -> events_pb2.InteractionRecorded:
        return events_pb2.InteractionRecorded(
            event_id=uuid4().hex,
            occurred_at_ms=time.time_ns() // 1_000_000,
            tenant=self._tenant,
            user_id=visitor,
            item_type=item.item_type,
            item_id=item.item_id,
            interaction_type="view",
        )

    def _new_visitor(self) -> str:
        self._visitors.append(f"{BENCH_VISITOR}{uuid4().hex[:12]}")
        return self._visitors[-1]

    async def _applied(self, client: httpx.AsyncClient) -> float:
        counts = [
            await read_metric(client, process, "consumer_records_total", topic=USER_INTERACTIONS)
            for process in self._state.replicas("profile_store")
        ]
        return sum(counts)

    async def _wait_until_applied(self, client: httpx.AsyncClient, count: float) -> None:
        applied, moved = await self._applied(client), time.monotonic()
        while applied < count:
            if time.monotonic() - moved > _STALLS_S:
                raise CommandError(f"{count - applied:.0f} events were not applied, and none was for {_STALLS_S:.0f} s")
            await asyncio.sleep(_POLL_S)
            before, applied = applied, await self._applied(client)
            moved = time.monotonic() if applied > before else moved


def _record(view: events_pb2.InteractionRecorded, *, as_json: bool) -> NewRecord:
    key = f"{view.tenant}/{view.user_id}"
    if as_json:
        return NewRecord(USER_INTERACTIONS, key, MessageToJson(view).encode(), {CONTENT_TYPE_HEADER: JSON_CONTENT_TYPE})
    return NewRecord(USER_INTERACTIONS, key, view.SerializeToString())


def _json_view(view: events_pb2.InteractionRecorded) -> Record:
    names = ("event_id", "user_id", "item_type", "item_id", "interaction_type")
    return {name: getattr(view, name) for name in names}
