import asyncio
from collections.abc import Mapping, Sequence

import pytest
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from profile_store.adapters.memory import MemoryProfileStore
from profile_store.application.profiles import ProfileService
from profile_store.consumer import GROUP, TOPICS, ProfileStoreConsumer
from profile_store.domain.contexts import ContextQuery
from profile_store.domain.interactions import Interaction, InteractionType
from recommendation.common.v1 import common_pb2
from recommendation.events.v1 import events_pb2
from servicekit.clock import ManualClock
from servicekit.errors import UnavailableError
from servicekit.eventlog.memory import MemoryEventLog
from servicekit.eventlog.port import NewRecord, Record
from servicekit.eventlog.runner import ConsumerRunner
from servicekit.eventlog.topics import CONTENT_CHANGED, USER_ERASED, USER_INTERACTIONS, default_specs
from servicekit.identity import item_key
from servicekit.testing import eventually

NOW = 1_700_000_000_000


class FailingStore(MemoryProfileStore):
    """Cannot be reached the first few times."""

    failures = 0

    async def append(self, interactions: Sequence[Interaction]) -> Sequence[bool]:
        if self.failures:
            self.failures -= 1
            raise UnavailableError("not now")
        return await super().append(interactions)


@pytest.fixture
def store() -> FailingStore:
    return FailingStore()


@pytest.fixture
def service(store: FailingStore) -> ProfileService:
    return ProfileService(
        items=store,
        interactions=store,
        types=store,
        popularity=store,
        policies=store.policies,
        clock=ManualClock(NOW),
    )


@pytest.fixture
def consumer(service: ProfileService) -> ProfileStoreConsumer:
    return ProfileStoreConsumer(service)


def record(topic: str, message: Message, *, as_json: bool = False) -> Record:
    if as_json:
        return Record(topic, 0, 0, "key", MessageToJson(message).encode(), {"content-type": b"application/json"}, NOW)
    return Record(topic, 0, 0, "key", message.SerializeToString(), {}, NOW)


def deed(event_id: str, *, kind: str = "view", user_id: str = "ann", value: float | None = None) -> Message:
    return events_pb2.InteractionRecorded(
        event_id=event_id,
        occurred_at_ms=NOW,
        tenant="t",
        user_id=user_id,
        item_type="film",
        item_id="a",
        interaction_type=kind,
        value=value,
    )


def put(occurred_at_ms: int = NOW, *, updated_at_ms: int = 0, title: str = "A") -> Message:
    item = common_pb2.Item(tenant="t", item_type="film", item_id="a", title=title, updated_at_ms=updated_at_ms)
    return events_pb2.ContentChanged(event_id="c", occurred_at_ms=occurred_at_ms, put=item)


def deletion(occurred_at_ms: int = NOW, item_id: str = "a") -> Message:
    ref = common_pb2.ItemRef(tenant="t", item_type="film", item_id=item_id)
    return events_pb2.ContentChanged(event_id="c", occurred_at_ms=occurred_at_ms, deleted=ref)


def erasure(user_id: str = "ann") -> Message:
    return events_pb2.UserErased(event_id="x", occurred_at_ms=NOW, tenant="t", user_id=user_id)


async def weights(store: FailingStore) -> list[float]:
    (context,) = await store.user_contexts([ContextQuery("t", "ann", 10)])
    return [float(weight) for weight in context.history_weights]


async def titles(store: FailingStore) -> list[str]:
    return [item.title for item in await store.get_items([item_key("t", "film", "a")])]


async def test_each_kind_of_record_is_applied(consumer: ProfileStoreConsumer, store: FailingStore) -> None:
    records = [
        record(CONTENT_CHANGED, put()),
        record(USER_INTERACTIONS, deed("1")),
        record(USER_INTERACTIONS, deed("2", kind="rating", value=0.0), as_json=True),
        record(USER_INTERACTIONS, deed("3", user_id="bob")),
    ]
    assert await consumer.handle(records) == []
    assert await weights(store) == [1.0 - 2.5]
    assert await titles(store) == ["A"]
    assert await consumer.handle([record(USER_ERASED, erasure()), record(CONTENT_CHANGED, deletion())]) == []
    assert await consumer.handle(records) == []
    assert await weights(store) == []
    assert await titles(store) == ["A"]  # a put with the deletion's time that comes later stays


async def test_a_state_without_a_time_has_that_of_its_event(
    consumer: ProfileStoreConsumer, store: FailingStore
) -> None:
    await consumer.handle([record(CONTENT_CHANGED, put(NOW, title="new"))])
    await consumer.handle([record(CONTENT_CHANGED, put(NOW - 5, title="old"))])
    await consumer.handle([record(CONTENT_CHANGED, put(NOW, updated_at_ms=NOW - 1, title="older"))])
    assert await titles(store) == ["new"]


async def test_bad_records_are_given_back_and_the_others_applied(
    consumer: ProfileStoreConsumer, store: FailingStore
) -> None:
    garbage = Record(USER_INTERACTIONS, 0, 0, "key", b"\xff", {}, NOW)
    bad = [
        garbage,
        record(USER_INTERACTIONS, deed("2", kind="dance")),
        record(USER_INTERACTIONS, deed("3", kind="rating")),
        record(CONTENT_CHANGED, events_pb2.ContentChanged(event_id="c", occurred_at_ms=NOW)),
        record(CONTENT_CHANGED, put(0)),
        record(CONTENT_CHANGED, deletion(item_id="")),
        record(USER_ERASED, erasure("")),
    ]
    good = [record(USER_INTERACTIONS, deed("1")), record(USER_INTERACTIONS, deed("4", kind="like"))]
    failures = await consumer.handle([good[0], *bad, good[1]])
    assert sorted(bad.index(failure.record) for failure in failures) == list(range(len(bad)))
    assert await weights(store) == [3.0]


@pytest.mark.parametrize(
    "bad",
    [
        Record(USER_INTERACTIONS, 0, 0, "key", b"", {}, NOW),
        record(USER_INTERACTIONS, deed("")),
        record(USER_INTERACTIONS, deed("e" * 65)),
        record(USER_INTERACTIONS, deed("1", user_id="")),
        Record(USER_ERASED, 0, 0, "key", b"", {}, NOW),
        Record(CONTENT_CHANGED, 0, 0, "key", b"", {}, NOW),
    ],
)
async def test_a_record_that_does_not_say_what_it_is_about_never_reaches_the_store(
    consumer: ProfileStoreConsumer, store: FailingStore, monkeypatch: pytest.MonkeyPatch, bad: Record
) -> None:
    asked: list[str] = []
    types = store.interaction_types

    async def interaction_types(tenant: str) -> Mapping[str, InteractionType]:
        if not tenant:
            raise ValueError("Key may not be empty")  # as a server says it, for the whole batch
        asked.append(tenant)
        return await types(tenant)

    monkeypatch.setattr(store, "interaction_types", interaction_types)
    (failure,) = await consumer.handle([record(USER_INTERACTIONS, deed("1")), bad])
    assert failure.record is bad
    assert asked == ["t"]
    assert await weights(store) == [1.0]


async def test_an_order_of_writes_and_deletions_is_kept(consumer: ProfileStoreConsumer, store: FailingStore) -> None:
    changes = [put(title="1"), deletion(), put(title="2"), put(title="3"), deletion(), put(title="4")]
    await consumer.handle([record(CONTENT_CHANGED, change) for change in changes])
    assert await titles(store) == ["4"]


async def test_a_store_out_of_reach_is_tried_again(service: ProfileService, store: FailingStore) -> None:
    log = MemoryEventLog()
    await log.ensure_topics(default_specs())
    consumer = log.consumer(TOPICS, group=GROUP)
    runner = ConsumerRunner(consumer, ProfileStoreConsumer(service).handle, log.producer(), name=GROUP)
    store.failures = 3
    stop = asyncio.Event()
    running = asyncio.create_task(runner.run(stop))
    await log.producer().append([NewRecord(USER_INTERACTIONS, "t/ann", deed("1").SerializeToString())])

    async def applied() -> bool:
        return await weights(store) == [1.0]

    await eventually(applied)
    assert store.failures == 0
    stop.set()
    await running
    await log.close()
