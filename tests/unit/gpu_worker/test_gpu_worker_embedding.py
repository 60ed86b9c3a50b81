"""Embedding from the log to vector_search: what is new is embedded, nothing is embedded twice, nothing is lost."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from gpu_worker.adapters.event_log import LogAnnouncer
from gpu_worker.adapters.vector_search import GrpcVectorIndex
from gpu_worker.application.embedding import ContentEmbedder
from gpu_worker.consumer import ContentConsumer
from gpu_worker.convert import change_from_message, item_from_message
from gpu_worker.domain.items import TextRules, hash_of, shorten
from recommendation.common.v1 import common_pb2
from recommendation.events.v1 import events_pb2
from recommendation.vector_search.v1 import vector_search_pb2 as pb
from recommendation.vector_search.v1 import vector_search_pb2_grpc as pb_grpc
from servicekit.arrays import Floats, pack_floats, pack_keys, unpack_floats, unpack_keys
from servicekit.clock import ManualClock, SystemClock
from servicekit.errors import InvalidArgumentError, UnavailableError
from servicekit.eventlog.memory import MemoryEventLog
from servicekit.eventlog.port import NewRecord, Record
from servicekit.eventlog.runner import ConsumerRunner, RecordFailure
from servicekit.eventlog.topics import CONTENT_CHANGED, CONTENT_EMBEDDED, default_specs, dlq
from servicekit.identity import item_key
from servicekit.testing import eventually, served
from vector_search.adapters.exact_collections import ExactDenseStore
from vector_search.testing import Replica, running

RULES = TextRules(("genres",), 20)


class CountingEncoder:
    model_id = "counting/1"
    dimensions = 4

    def __init__(self) -> None:
        self.texts: list[str] = []

    async def encode(self, texts: Sequence[str]) -> Floats:
        self.texts += texts
        return np.array([[len(text), 1, 0, 0] for text in texts], np.float32)


@dataclass
class Stored:
    item: common_pb2.Item
    vector: bytes
    mark: tuple[str, str]


@dataclass
class FakeVectorSearch(pb_grpc.VectorSearchServiceServicer):
    stored: dict[int, Stored] = field(default_factory=dict)
    down: bool = False
    forgets_after_lookup: bool = False

    def _check(self) -> None:
        if self.down:
            raise UnavailableError("down")

    async def LookupEmbeddings(self, request: pb.LookupEmbeddingsRequest, _: object) -> pb.LookupEmbeddingsResponse:  # noqa: N802 - the proto names it
        self._check()
        marks = [
            self.stored[key].mark if key in self.stored else ("", "")
            for key in unpack_keys(request.item_keys, field="item_keys").tolist()
        ]
        if self.forgets_after_lookup:
            self.stored.clear()
        return pb.LookupEmbeddingsResponse(
            marks=(pb.LookupEmbeddingsResponse.Mark(model_id=model, content_hash=text) for model, text in marks)
        )

    async def UpsertItems(self, request: pb.UpsertItemsRequest, _: object) -> pb.UpsertItemsResponse:  # noqa: N802 - the proto names it
        self._check()
        assert request.neighbours == 100
        return pb.UpsertItemsResponse(results=map(self._store, request.embeddings))

    def _store(self, embedding: pb.UpsertItemsRequest.Embedding) -> pb.UpsertItemsResponse.Result:
        item = embedding.item
        key = item_key(item.tenant, item.item_type, item.item_id)
        if item.item_id == "refused":
            error = common_pb2.ElementError(code="invalid_argument", message="I do not like it")
            return pb.UpsertItemsResponse.Result(error=error)
        if not embedding.vector and key not in self.stored:
            return pb.UpsertItemsResponse.Result(error=common_pb2.ElementError(code="not_found", message="no vector"))
        vector = embedding.vector or self.stored[key].vector
        self.stored[key] = Stored(item, vector, (embedding.model_id, embedding.content_hash))
        return pb.UpsertItemsResponse.Result(
            neighbour_keys=pack_keys([7, 8]), neighbour_scores=pack_floats([0.5, 0.25])
        )

    async def DeleteItems(self, request: pb.DeleteItemsRequest, _: object) -> pb.DeleteItemsResponse:  # noqa: N802 - the proto names it
        self._check()
        for key in unpack_keys(request.item_keys, field="item_keys").tolist():
            self.stored.pop(key, None)
        return pb.DeleteItemsResponse()


@pytest.fixture
def vector_search() -> FakeVectorSearch:
    return FakeVectorSearch()  # type: ignore[abstract]  # the calls that embedding makes


@pytest.fixture
def encoder() -> CountingEncoder:
    return CountingEncoder()


@pytest.fixture
async def log() -> MemoryEventLog:
    log = MemoryEventLog()
    await log.ensure_topics(default_specs(1))
    return log


@pytest.fixture
async def consumer(
    vector_search: FakeVectorSearch, encoder: CountingEncoder, log: MemoryEventLog
) -> AsyncIterator[ContentConsumer]:
    def register(server: object) -> None:
        pb_grpc.add_VectorSearchServiceServicer_to_server(vector_search, server)  # type: ignore[arg-type]

    async with served(register) as (_, channel):
        announcer = LogAnnouncer(log, ManualClock())
        yield ContentConsumer(ContentEmbedder(encoder, GrpcVectorIndex(channel), announcer, rules=RULES))


def item(item_id: str, title: str = "A title", *, hidden: bool = False, tenant: str = "t") -> common_pb2.Item:
    genres = common_pb2.AttributeValue(texts=common_pb2.AttributeValue.StringList(values=["Drama", "War"]))
    year = common_pb2.AttributeValue(number=1999)
    return common_pb2.Item(
        tenant=tenant,
        item_type="film",
        item_id=item_id,
        title=title,
        attributes={"genres": genres, "year": year},
        hidden=hidden,
    )


def put(message: common_pb2.Item, at_ms: int = 1) -> NewRecord:
    event = events_pb2.ContentChanged(event_id=f"{message.item_id}.{at_ms}", occurred_at_ms=at_ms, put=message)
    return NewRecord(CONTENT_CHANGED, message.item_id, event.SerializeToString())


def delete(item_id: str, at_ms: int = 1) -> NewRecord:
    ref = common_pb2.ItemRef(tenant="t", item_type="film", item_id=item_id)
    event = events_pb2.ContentChanged(event_id=f"{item_id}.{at_ms}", occurred_at_ms=at_ms, deleted=ref)
    return NewRecord(CONTENT_CHANGED, item_id, event.SerializeToString())


def key(item_id: str, tenant: str = "t") -> int:
    return item_key(tenant, "film", item_id)


async def apply(consumer: ContentConsumer, *records: NewRecord) -> Sequence[RecordFailure]:
    return await consumer.handle(
        [Record(r.topic, 0, number, r.key, r.value, r.headers, 0) for number, r in enumerate(records)]
    )


async def announced(log: MemoryEventLog) -> list[events_pb2.ContentEmbedded]:
    records = await log.consumer([CONTENT_EMBEDDED], group=None).poll(max_records=100, timeout_s=0)
    return [events_pb2.ContentEmbedded.FromString(record.value) for record in records]


async def test_a_new_item_is_embedded_stored_and_announced(
    consumer: ContentConsumer, vector_search: FakeVectorSearch, encoder: CountingEncoder, log: MemoryEventLog
) -> None:
    assert not await apply(consumer, put(item("1")), put(item("1", tenant="other")))
    assert encoder.texts == ["A title. Drama, War"]
    stored = vector_search.stored[key("1")]
    assert unpack_floats(stored.vector, field="").tolist() == [19, 1, 0, 0]
    assert stored.mark == ("counting/1", hash_of("A title. Drama, War"))
    assert stored.item.attributes["year"].number == 1999
    assert stored.item.updated_at_ms == 1
    first, _ = await announced(log)
    assert first.item == stored.item
    assert (first.model_id, first.content_hash) == stored.mark
    assert unpack_keys(first.neighbour_keys, field="").tolist() == [7, 8]
    assert unpack_floats(first.neighbour_scores, field="").tolist() == [0.5, 0.25]


async def test_an_unchanged_text_is_not_embedded_again_but_its_attributes_are_written(
    consumer: ContentConsumer, vector_search: FakeVectorSearch, encoder: CountingEncoder, log: MemoryEventLog
) -> None:
    await apply(consumer, put(item("1")))
    vector = vector_search.stored[key("1")].vector
    await apply(consumer, put(item("1", hidden=True), at_ms=2))
    assert len(encoder.texts) == 1
    stored = vector_search.stored[key("1")]
    assert stored.item.hidden
    assert stored.vector == vector
    assert [event.item.hidden for event in await announced(log)] == [False, True]


async def test_a_changed_text_is_embedded(
    consumer: ContentConsumer, vector_search: FakeVectorSearch, encoder: CountingEncoder
) -> None:
    await apply(consumer, put(item("1")))
    await apply(consumer, put(item("1", "Another"), at_ms=2))
    assert encoder.texts == ["A title. Drama, War", "Another. Drama, War"]
    assert vector_search.stored[key("1")].mark[1] == hash_of("Another. Drama, War")


async def test_only_the_last_change_of_an_item_counts(
    consumer: ContentConsumer, vector_search: FakeVectorSearch, encoder: CountingEncoder
) -> None:
    await apply(
        consumer, put(item("1", "new"), 5), put(item("1", "old"), 4), delete("1", 3), put(item("2")), delete("2")
    )
    assert vector_search.stored.keys() == {key("1")}
    assert encoder.texts == ["new. Drama, War"]


async def test_a_deleted_item_goes(consumer: ContentConsumer, vector_search: FakeVectorSearch) -> None:
    await apply(consumer, put(item("1")), put(item("2")))
    await apply(consumer, delete("1", at_ms=2), delete("never there", at_ms=2))
    assert vector_search.stored.keys() == {key("2")}


async def test_a_repetition_is_announced_again_as_the_same_event(
    consumer: ContentConsumer, encoder: CountingEncoder, log: MemoryEventLog
) -> None:
    await apply(consumer, put(item("1")))
    await apply(consumer, put(item("1")))
    assert len(encoder.texts) == 1
    assert len({event.event_id for event in await announced(log)}) == 1


async def test_a_batch_that_is_tried_again_is_not_encoded_again(
    consumer: ContentConsumer,
    vector_search: FakeVectorSearch,
    encoder: CountingEncoder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise UnavailableError("the log is down")

    with monkeypatch.context() as patch:
        patch.setattr(LogAnnouncer, "announce_embedded", fail)
        vector_search.stored.clear()
        with pytest.raises(UnavailableError):
            await apply(consumer, put(item("1")))
    vector_search.stored.clear()
    await apply(consumer, put(item("1")))
    assert len(encoder.texts) == 1


async def test_a_vector_lost_in_between_is_made_again(
    consumer: ContentConsumer, vector_search: FakeVectorSearch
) -> None:
    await apply(consumer, put(item("1")))
    vector_search.forgets_after_lookup = True
    assert not await apply(consumer, put(item("1"), at_ms=2))
    assert vector_search.stored[key("1")].vector


async def test_a_text_without_words_is_no_vector_and_no_error(
    consumer: ContentConsumer, vector_search: FakeVectorSearch, encoder: CountingEncoder
) -> None:
    blank = common_pb2.Item(tenant="t", item_type="film", item_id="1", title=" ?! ")
    assert not await apply(consumer, put(blank))
    assert not vector_search.stored
    assert not encoder.texts


async def test_what_cannot_be_applied_is_given_back_and_the_others_go_in(
    consumer: ContentConsumer, vector_search: FakeVectorSearch
) -> None:
    nameless = common_pb2.Item(tenant="t", item_type="film", title="x")
    records = [
        NewRecord(CONTENT_CHANGED, "k", b"\xff"),
        put(item("1")),
        put(nameless),
        put(item("refused")),
        NewRecord(CONTENT_CHANGED, "k", events_pb2.ContentChanged(event_id="e").SerializeToString()),
    ]
    failures = await apply(consumer, *records)
    assert sorted(failure.record.offset for failure in failures) == [0, 2, 3, 4]
    assert vector_search.stored.keys() == {key("1")}


async def test_through_the_log_while_vector_search_is_away(
    consumer: ContentConsumer, vector_search: FakeVectorSearch, log: MemoryEventLog
) -> None:
    vector_search.down = True
    await log.producer().append([put(item("1")), NewRecord(CONTENT_CHANGED, "k", b"\xff")])
    stop = asyncio.Event()
    reader = log.consumer([CONTENT_CHANGED], group="gpu_worker")
    run = asyncio.create_task(ConsumerRunner(reader, consumer.handle, log.producer(), name="gpu_worker").run(stop))
    await asyncio.sleep(0.1)
    vector_search.down = False
    await eventually(lambda: key("1") in vector_search.stored)
    await eventually(lambda: sum(reader.position().values()) == 2)
    stop.set()
    await run
    assert sum((await log.end_offsets([dlq(CONTENT_CHANGED)])).values()) == 1


async def test_a_change_that_comes_late_changes_no_vector_and_is_announced_to_nobody(
    encoder: CountingEncoder, log: MemoryEventLog, tmp_path: Path
) -> None:
    x, z = np.array([key("x")], np.int64), np.array([key("z")], np.int64)
    unheard = MemoryEventLog()
    await unheard.ensure_topics(default_specs(1))
    async with running(Replica(tmp_path / "models", unheard, ExactDenseStore())) as replica:
        index = GrpcVectorIndex(replica.channel)

        async def restarted() -> ContentConsumer:
            return ContentConsumer(ContentEmbedder(encoder, index, LogAnnouncer(log, ManualClock()), rules=RULES))

        for record in (
            put(item("x", "A spaceship"), 200),
            put(item("x", "Cooking pasta"), 100),
            delete("x", 150),
            put(item("z"), 200),
            delete("z", 300),
            put(item("z"), 100),
            delete("z", 50),
        ):
            assert not await apply(await restarted(), record)
        assert (await index.marks("t", x))[0].content_hash == hash_of("A spaceship. Drama, War")
        assert (await index.marks("t", z))[0].content_hash == ""
        assert [(each.item.item_id, each.item.updated_at_ms) for each in await announced(log)] == [
            ("x", 200),
            ("z", 200),
        ]
        assert not await apply(await restarted(), put(item("z"), 301))
        assert (await index.marks("t", z))[0].content_hash


async def test_a_time_that_lies_ahead_is_refused(consumer: ContentConsumer, vector_search: FakeVectorSearch) -> None:
    await apply(consumer, put(item("2")))
    ahead_ms = 60_000 * 6 + SystemClock().now_ms()
    records = [put(item("1"), ahead_ms), delete("2", ahead_ms), put(item("3"), ahead_ms - 120_000)]
    assert sorted(failure.record.offset for failure in await apply(consumer, *records)) == [0, 1]
    assert vector_search.stored.keys() == {key("2"), key("3")}


async def test_the_last_of_several_changes_is_known_by_the_times_of_its_states(
    consumer: ContentConsumer, encoder: CountingEncoder
) -> None:
    new, old = item("1", "new"), item("1", "old")
    new.updated_at_ms, old.updated_at_ms = 20, 10
    await apply(consumer, put(new, 1), put(old, 2))
    assert encoder.texts == ["new. Drama, War"]


def test_the_text_of_an_item_is_short() -> None:
    message = item("1", "One two")
    message.description = "word " * 100
    assert RULES.text_of(item_from_message(message)).split() == ["One", "two.", "Drama,", "War."] + ["word"] * 16
    assert shorten("x" * 10_000, 5) == "x" * 100
    assert TextRules((), 5).text_of(item_from_message(item("1", ""))) == ""


def test_a_change_needs_an_identity() -> None:
    with pytest.raises(InvalidArgumentError, match="tenant"):
        change_from_message(events_pb2.ContentChanged(deleted=common_pb2.ItemRef(item_type="a", item_id="b")))
