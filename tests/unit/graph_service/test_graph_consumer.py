"""The event log's way in."""

import numpy as np
import pytest
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from graph_service.adapters.memory import MemoryGraphStore
from graph_service.bootstrap import Graph
from graph_service.consumer import GraphConsumer
from graph_service.domain.graph import NEVER_MS
from recommendation.common.v1 import common_pb2
from recommendation.events.v1 import events_pb2
from servicekit.clock import ManualClock
from servicekit.errors import UnavailableError
from servicekit.eventlog.port import Record
from servicekit.eventlog.topics import CONTENT_CHANGED, USER_ERASED, USER_INTERACTIONS
from servicekit.identity import item_key, user_key

AT_MS = 1_600_000_000_000
FILM = item_key("t", "film", "1")


def record(topic: str, message: Message, *, as_json: bool = False) -> Record:
    value = MessageToJson(message).encode() if as_json else message.SerializeToString()
    return Record(topic, 0, 0, "key", value, {"content-type": b"application/json"} if as_json else {}, AT_MS)


def did(item_id: str, kind: str = "view", value: float | None = None, at_ms: int = AT_MS) -> Record:
    event = events_pb2.InteractionRecorded(
        event_id="e",
        occurred_at_ms=at_ms,
        tenant="t",
        user_id="ann",
        item_type="film",
        item_id=item_id,
        interaction_type=kind,
        value=value,
    )
    return record(USER_INTERACTIONS, event)


def put(*, at_ms: int = AT_MS, updated_at_ms: int = 0, as_json: bool = False, **fields: object) -> Record:
    item = common_pb2.Item(tenant="t", item_type="film", item_id="1", updated_at_ms=updated_at_ms, **fields)  # type: ignore[arg-type]
    item.attributes["genres"].texts.values.extend(["Drama", "Noir"])
    return record(
        CONTENT_CHANGED, events_pb2.ContentChanged(event_id="e", occurred_at_ms=at_ms, put=item), as_json=as_json
    )


@pytest.fixture
def consumer(graph: Graph) -> GraphConsumer:
    return GraphConsumer(graph.use_cases, graph.reader)


async def facts(store: MemoryGraphStore) -> tuple[int, int]:
    (found,) = (await store.facts(np.array([FILM]))).values()
    return found.visible_from_ms, found.visible_until_ms


def weight_of(store: MemoryGraphStore, item_id: str) -> float:
    return store._users_of[item_key("t", "film", item_id)][user_key("t", "ann")].weight


@pytest.mark.parametrize("as_json", [False, True])
async def test_it_applies_items_in_both_encodings(
    consumer: GraphConsumer, store: MemoryGraphStore, *, as_json: bool
) -> None:
    assert await consumer.handle([put(as_json=as_json, available_from_ms=5, available_until_ms=9)]) == []
    assert await facts(store) == (5, 9)
    assert [node.name for node in store._nodes(FILM)] == ["Drama", "Noir"]


async def test_hidden_items_are_never_visible(consumer: GraphConsumer, store: MemoryGraphStore) -> None:
    await consumer.handle([put(hidden=True)])
    assert await facts(store) == (NEVER_MS, NEVER_MS)


async def test_an_items_own_time_decides_before_the_events(consumer: GraphConsumer, store: MemoryGraphStore) -> None:
    await consumer.handle([put(updated_at_ms=AT_MS + 5)])
    await consumer.handle([put(at_ms=AT_MS + 4, hidden=True)])
    assert await facts(store) == (0, NEVER_MS)
    await consumer.handle([put(at_ms=AT_MS + 6, hidden=True)])
    assert await facts(store) == (NEVER_MS, NEVER_MS)


async def test_it_deletes_items(consumer: GraphConsumer, store: MemoryGraphStore) -> None:
    deleted = common_pb2.ItemRef(tenant="t", item_type="film", item_id="1")
    event = events_pb2.ContentChanged(event_id="e", occurred_at_ms=AT_MS + 1, deleted=deleted)
    await consumer.handle([put(), record(CONTENT_CHANGED, event)])
    assert await facts(store) == (NEVER_MS, NEVER_MS)


async def test_it_weighs_interactions(consumer: GraphConsumer, store: MemoryGraphStore) -> None:
    kinds = [("view", None), ("like", None), ("add_to_cart", None), ("purchase", 3.0), ("rating", 1.0), ("waved", None)]
    assert await consumer.handle([did(str(n), kind, value) for n, (kind, value) in enumerate(kinds)]) == []
    assert [weight_of(store, str(n)) for n in range(6)] == [1, 2, 3, 5, -1.5, 1]


async def test_it_forgets_users(consumer: GraphConsumer, store: MemoryGraphStore) -> None:
    erased = events_pb2.UserErased(event_id="e", occurred_at_ms=AT_MS, tenant="t", user_id="ann")
    await consumer.handle([did("1"), did("2", at_ms=AT_MS + 1), record(USER_ERASED, erased)])
    edges = store._items_of[user_key("t", "ann")]
    assert list(edges) == [item_key("t", "film", "2")]


async def test_bad_records_are_given_back_and_the_others_applied(
    consumer: GraphConsumer, store: MemoryGraphStore, clock: ManualClock
) -> None:
    bad = [
        did("2", "rating"),
        did("2", value=float("nan")),
        did("2", at_ms=0),
        did("2", at_ms=clock.now_ms() + 600_000),
        did(""),
        did("x" * 256),
        did("2", kind=""),
        Record(USER_INTERACTIONS, 0, 0, "key", b"\xff\xff", {}, AT_MS),
        record(CONTENT_CHANGED, events_pb2.ContentChanged(event_id="e", occurred_at_ms=AT_MS)),
        record(USER_ERASED, events_pb2.UserErased(event_id="e", tenant="t", user_id="ann")),
    ]
    failures = await consumer.handle([did("1"), *bad])
    assert [failure.record for failure in failures] == bad
    assert weight_of(store, "1") == 1
    assert consumer.is_settled


async def test_a_store_that_is_gone_is_for_the_runner_to_bear(
    consumer: GraphConsumer, store: MemoryGraphStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: object) -> None:
        raise UnavailableError("the store is gone")

    monkeypatch.setattr(store, "apply", fail)
    with pytest.raises(UnavailableError):
        await consumer.handle([did("1")])
    assert not consumer.is_settled


async def test_a_replay_changes_nothing(consumer: GraphConsumer, graph: Graph) -> None:
    records = [put(), did("1"), did("2")]
    await consumer.handle(records)
    before = graph.use_cases._cache.changes
    await consumer.handle(records)
    assert graph.use_cases._cache.changes == before
