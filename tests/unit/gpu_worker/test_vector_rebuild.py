"""Vectors made anew beside those that serve: complete, without embedding twice, and never half."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import grpc
import numpy as np
import pytest

from gpu_worker.adapters.log_items import LogItems
from gpu_worker.adapters.vector_search_rebuild import GrpcRebuiltIndex
from gpu_worker.api import GpuWorkerServicer
from gpu_worker.application.rebuilding import VectorRebuilds
from gpu_worker.convert import item_from_message
from gpu_worker.domain.items import Item, TextRules, hash_of
from gpu_worker.domain.rebuilding import Rebuild, RebuildState, Source
from recommendation.common.v1 import common_pb2
from recommendation.events.v1 import events_pb2
from recommendation.gpu_worker.v1 import gpu_worker_pb2 as worker_pb
from recommendation.gpu_worker.v1 import gpu_worker_pb2_grpc as worker_grpc
from recommendation.vector_search.v1 import vector_search_pb2 as pb
from servicekit.arrays import Floats, pack_keys
from servicekit.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, UnavailableError
from servicekit.eventlog.memory import MemoryEventLog
from servicekit.eventlog.port import NewRecord
from servicekit.eventlog.topics import CONTENT_CHANGED, CONTENT_EMBEDDED, default_specs
from servicekit.testing import eventually, served
from vector_search.adapters.exact_collections import ExactDenseStore
from vector_search.testing import COUNT, TENANT, Replica, draft, film, key, running

RULES = TextRules(("genres",), 20)
MODEL = "counting/1"


class CountingEncoder:
    model_id = MODEL
    dimensions = 8

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.broken = False

    async def encode(self, texts: Sequence[str]) -> Floats:
        if self.broken:
            raise UnavailableError("the encoder is broken")
        self.texts += texts
        rows = [np.random.default_rng(list(text.encode())).standard_normal(8) for text in texts]
        matrix = np.array(rows, np.float32).reshape(-1, 8)
        return np.asarray(matrix / np.linalg.norm(matrix, axis=1, keepdims=True), np.float32)


class FakeCatalogue:
    """Items in memory; `after_page` happens each time a page was read."""

    def __init__(self, *items: common_pb2.Item) -> None:
        self.items = {item.item_id: item for item in items}
        self.after_page: Callable[[], Awaitable[None]] | None = None

    async def export_items(self, tenant: str) -> AsyncIterator[Sequence[Item]]:
        assert tenant == TENANT
        items = list(self.items.values())
        for first in range(0, len(items), 7):
            yield [item_from_message(item) for item in items[first : first + 7]]
            if self.after_page is not None:
                await self.after_page()


class Bench:
    """A running vector_search, and what rebuilds its vectors."""

    def __init__(self, replica: Replica, log: MemoryEventLog) -> None:
        self.replica = replica
        self.encoder = CountingEncoder()
        self.catalogue = FakeCatalogue(*(film(number) for number in range(COUNT)))
        self.index = GrpcRebuiltIndex(replica.channel)
        self.rebuilds = VectorRebuilds(
            encoder=self.encoder,
            index=self.index,
            sources={Source.PROFILE_STORE: self.catalogue, Source.LOG: LogItems(log)},
            rules=RULES,
            new_token=iter("abcdefgh").__next__,
            settle_s=0.0,
        )

    async def embed(self, *items: common_pb2.Item) -> None:
        """Do what the embedding of changes does."""
        texts = [RULES.text_of(item_from_message(item)) for item in items]
        matrix = await self.encoder.encode(texts)
        embeddings = [
            pb.UpsertItemsRequest.Embedding(item=item, vector=row.tobytes(), model_id=MODEL, content_hash=hash_of(text))
            for item, row, text in zip(items, matrix, texts, strict=True)
        ]
        answer = await self.replica.stub.UpsertItems(pb.UpsertItemsRequest(embeddings=embeddings))
        assert not any(result.HasField("error") for result in answer.results)

    async def rebuild(self, source: Source = Source.PROFILE_STORE) -> Rebuild:
        """Rebuild and give how it ended."""
        rebuild_id = await self.rebuilds.start(TENANT, source)

        def ended() -> bool:
            return self.rebuilds.get(rebuild_id).state is not RebuildState.RUNNING

        await eventually(ended, timeout_s=30.0)
        return self.rebuilds.get(rebuild_id)

    async def stored(self) -> dict[int, str]:
        """Give the hash of each item's stored text."""
        keys = [key(f"f{number}") for number in range(COUNT)] + [key("fresh")]
        marks = [mark for mark, _ in await self.index.stored(TENANT, np.array(keys, np.int64))]
        return {each: mark.content_hash for each, mark in zip(keys, marks, strict=True) if mark.content_hash}

    async def collection(self) -> str:
        """Give the collection that serves."""
        serving = self.replica.service.content.serving(TENANT, MODEL)
        assert serving is not None
        return serving.stored.name


@pytest.fixture
async def log() -> AsyncIterator[MemoryEventLog]:
    memory = MemoryEventLog()
    await memory.ensure_topics(default_specs())
    yield memory
    await memory.close()


@pytest.fixture
async def bench(tmp_path: Path, log: MemoryEventLog) -> AsyncIterator[Bench]:
    async with running(Replica(tmp_path / "models", log, ExactDenseStore())) as replica:
        each = Bench(replica, log)
        yield each
        await each.rebuilds.close()


def hashes(*items: common_pb2.Item) -> dict[int, str]:
    return {key(item.item_id): hash_of(RULES.text_of(item_from_message(item))) for item in items}


async def test_what_is_stored_is_taken_over_and_what_is_lost_is_embedded(bench: Bench) -> None:
    films = list(bench.catalogue.items.values())
    await bench.embed(*films[:25])
    before = await bench.collection()
    bench.encoder.texts.clear()
    done = await bench.rebuild()
    assert (done.state, done.message) == (RebuildState.SUCCEEDED, "")
    assert (done.items, done.encoded, done.vectors, done.previous_vectors) == (COUNT, COUNT - 25, COUNT, 25)
    assert (done.sampled, done.differing, done.recall_at_10, done.progress) == (COUNT, 0, 1.0, 1.0)
    assert len(bench.encoder.texts) == COUNT - 25 + done.sampled
    assert await bench.stored() == hashes(*films)
    assert await bench.collection() != before
    again = await bench.rebuild()
    assert (again.encoded, again.vectors, again.previous_vectors) == (0, COUNT, COUNT)


async def test_a_changed_text_is_embedded_and_one_without_words_is_left_out(bench: Bench) -> None:
    films = list(bench.catalogue.items.values())
    await bench.embed(*films)
    changed = film(3)
    changed.title = "Another title"
    empty = common_pb2.Item(tenant=TENANT, item_type="film", item_id="f4")
    bench.catalogue.items |= {"f3": changed, "f4": empty}
    done = await bench.rebuild()
    assert (done.items, done.encoded, done.vectors) == (COUNT - 1, 1, COUNT - 1)
    assert await bench.stored() == hashes(*films[:3], changed, *films[5:])


async def test_what_happens_meanwhile_is_in_the_new_vectors(bench: Bench) -> None:
    films = list(bench.catalogue.items.values())
    await bench.embed(*films)
    changed, fresh = film(0), film(0)
    changed.title, fresh.item_id = "Another title", "fresh"
    happened: list[str] = []

    async def happen() -> None:
        """After the first page was read and before it is stored, as a customer's changes come."""
        bench.catalogue.after_page = None
        bench.catalogue.items |= {"f0": changed, "fresh": fresh}
        del bench.catalogue.items["f1"]
        del bench.catalogue.items["f30"]
        await bench.embed(changed, fresh)
        await bench.replica.stub.DeleteItems(
            pb.DeleteItemsRequest(tenant=TENANT, item_keys=pack_keys([key("f1"), key("f30")]))
        )
        happened.append("all")

    bench.catalogue.after_page = happen
    done = await bench.rebuild()
    assert happened
    assert done.state is RebuildState.SUCCEEDED, done.message
    kept = [each for each in films if each.item_id not in {"f0", "f1", "f30"}]
    assert await bench.stored() == hashes(changed, fresh, *kept)
    assert (done.vectors, done.differing) == (COUNT - 1, 0)


async def test_a_rebuild_that_fails_leaves_the_old_vectors(bench: Bench) -> None:
    films = list(bench.catalogue.items.values())
    await bench.embed(*films[:25])
    before = await bench.collection()
    bench.encoder.broken = True
    done = await bench.rebuild()
    assert (done.state, done.message) == (RebuildState.FAILED, "the encoder is broken")
    assert await bench.collection() == before
    assert len(await bench.stored()) == 25
    bench.encoder.broken = False
    done = await bench.rebuild()
    assert (done.state, done.vectors) == (RebuildState.SUCCEEDED, COUNT)
    names = await bench.replica.dense.names(TENANT)
    assert len(names) == 2, "the broken one is gone, the one before is kept for going back"


async def test_a_later_rebuild_takes_the_place_of_an_earlier_one(bench: Bench) -> None:
    films = list(bench.catalogue.items.values())
    await bench.embed(*films)

    async def begin_another() -> None:
        bench.catalogue.after_page = None
        await bench.index.begin(TENANT, MODEL, 8)

    bench.catalogue.after_page = begin_another
    done = await bench.rebuild()
    assert done.state is RebuildState.FAILED
    assert "it has ended" in done.message
    assert len(await bench.stored()) == COUNT


async def test_a_collection_that_is_not_whole_never_serves(bench: Bench) -> None:
    await bench.embed(*bench.catalogue.items.values())
    begun = await bench.index.begin(TENANT, MODEL, 8)
    assert begun.serving_vectors == COUNT
    with pytest.raises(FailedPreconditionError, match="0 vectors"):
        await bench.index.finish(TENANT, begun.collection, least_vectors=1)
    with pytest.raises(NotFoundError):
        await bench.index.finish(TENANT, "content.nobody.7", least_vectors=0)
    with pytest.raises(FailedPreconditionError, match="8 numbers, not 9"):
        await bench.index.begin(TENANT, MODEL, 9)
    with pytest.raises(InvalidArgumentError):
        await bench.index.begin(TENANT, "", 8)
    assert len(await bench.stored()) == COUNT


async def test_one_can_go_back_and_finds_what_happened_since(bench: Bench) -> None:
    films = list(bench.catalogue.items.values())
    await bench.embed(*films[:25])
    before = await bench.collection()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await bench.replica.stub.RollBackRebuild(pb.RollBackRebuildRequest(tenant=TENANT))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    await bench.rebuild()
    fresh = film(0)
    fresh.item_id = "fresh"
    await bench.embed(fresh)
    await bench.replica.stub.RollBackRebuild(pb.RollBackRebuildRequest(tenant=TENANT))
    assert await bench.collection() == before
    assert await bench.stored() == hashes(*films[:25], fresh)
    await bench.replica.stub.RollBackRebuild(pb.RollBackRebuildRequest(tenant=TENANT))
    assert await bench.stored() == hashes(*films, fresh)


async def test_the_log_tells_the_last_state_of_each_item(log: MemoryEventLog) -> None:
    films = [film(number) for number in range(12)]
    changed, other = film(2), film(3)
    changed.title, other.tenant = "Another title", "other"
    old, early, late = film(0, year=1.0), film(6, year=2.0), film(7, year=2.0)
    for each in (*films, changed, other, old):
        each.updated_at_ms = 0  # the state's time is the event's
    early.updated_at_ms, late.updated_at_ms = 9, 11
    events = [events_pb2.ContentChanged(event_id="e", occurred_at_ms=10, put=each) for each in films]
    events += [
        events_pb2.ContentChanged(event_id="e", occurred_at_ms=20, put=changed),
        events_pb2.ContentChanged(event_id="e", occurred_at_ms=20, put=other),
        events_pb2.ContentChanged(event_id="e", occurred_at_ms=5, put=old),
        events_pb2.ContentChanged(event_id="e", occurred_at_ms=50, put=early),
        events_pb2.ContentChanged(event_id="e", occurred_at_ms=1, put=late),
        events_pb2.ContentChanged(event_id="e", occurred_at_ms=30, deleted=ref(films[4])),
        events_pb2.ContentChanged(event_id="e", occurred_at_ms=30, deleted=ref(films[5])),
        events_pb2.ContentChanged(event_id="e", occurred_at_ms=40, put=films[5]),
    ]
    records = [NewRecord(CONTENT_CHANGED, name_of(event), event.SerializeToString()) for event in events]
    await log.producer().append([*records, NewRecord(CONTENT_CHANGED, f"{TENANT}/film/f1", b"\xff")])
    pages = [page async for page in LogItems(log).export_items(TENANT)]
    items = [item for page in pages for item in page]
    for each, at_ms in ((changed, 20), *((each, 10) for each in films), (films[5], 40)):
        each.updated_at_ms = at_ms
    wanted = [*films[:2], changed, films[3], *films[5:7], late, *films[8:]]
    assert sorted(item.packed for item in items) == sorted(
        each.SerializeToString(deterministic=True) for each in wanted
    )
    assert [page async for page in LogItems(log).export_items("nobody")] == []


async def test_vectors_are_rebuilt_from_the_log(bench: Bench, log: MemoryEventLog) -> None:
    films = [film(number) for number in range(12)]
    records = [events_pb2.ContentChanged(event_id="e", occurred_at_ms=10, put=each) for each in films]
    await log.producer().append(
        [NewRecord(CONTENT_CHANGED, name_of(event), event.SerializeToString()) for event in records]
    )
    done = await bench.rebuild(Source.LOG)
    assert (done.state, done.vectors, done.encoded, done.differing) == (RebuildState.SUCCEEDED, 12, 12, 0)
    assert await bench.stored() == hashes(*films)


async def test_one_rebuild_of_a_tenant_at_a_time_and_an_unknown_one_is_not_found(bench: Bench) -> None:
    register = GpuWorkerServicer(None, None, None, bench.rebuilds)  # type: ignore[arg-type] # not asked for here

    async with served(lambda server: worker_grpc.add_GpuWorkerServiceServicer_to_server(register, server)) as (
        _,
        channel,
    ):
        stub = worker_grpc.GpuWorkerServiceStub(channel.channel)
        first = await stub.StartRebuild(worker_pb.StartRebuildRequest(tenant=TENANT))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.StartRebuild(worker_pb.StartRebuildRequest(tenant=TENANT))
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION

        async def ended() -> worker_pb.GetRebuildResponse | None:
            answer = await stub.GetRebuild(worker_pb.GetRebuildRequest(rebuild_id=first.rebuild_id))
            return answer if answer.state != worker_pb.REBUILD_STATE_RUNNING else None

        answer = await eventually(ended, timeout_s=30.0)
        assert answer is not None
        assert (answer.state, answer.vectors) == (worker_pb.REBUILD_STATE_SUCCEEDED, COUNT)
        for request in (worker_pb.StartRebuildRequest(tenant=TENANT, source=9), worker_pb.StartRebuildRequest()):  # type: ignore[arg-type] # of a later version
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.StartRebuild(request)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetRebuild(worker_pb.GetRebuildRequest(rebuild_id="nobody"))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_vectors_that_a_replica_has_lost_come_back(tmp_path: Path, log: MemoryEventLog) -> None:
    """Those that the version has come from there, those newer are embedded again."""
    encoder = CountingEncoder()
    films = [film(number) for number in range(COUNT)]
    matrix = await encoder.encode([RULES.text_of(item_from_message(each)) for each in films])
    draft(vectors=matrix, encoder=MODEL).write(tmp_path / "models", active=True)
    fresh = film(0)
    fresh.item_id = "fresh"
    put = events_pb2.ContentChanged(event_id="e", occurred_at_ms=10, put=fresh)
    embedded = events_pb2.ContentEmbedded(event_id="e", item=fresh, model_id=MODEL)
    await log.producer().append(
        [
            NewRecord(CONTENT_CHANGED, f"{TENANT}/film/fresh", put.SerializeToString()),
            NewRecord(CONTENT_EMBEDDED, f"{TENANT}/film/fresh", embedded.SerializeToString()),
        ]
    )
    async with running(Replica(tmp_path / "models", log, ExactDenseStore())) as replica:
        bench = Bench(replica, log)
        bench.catalogue.items["fresh"] = fresh
        await replica.settled()
        await replica.service.versions.restore_content()
        assert len(await bench.stored()) == 0, "the version's vectors are there, and have no hash"
        assert await bench.index.gaps() == {TENANT: 1}
        begun = await bench.index.begin(TENANT, MODEL, 8)
        await asyncio.sleep(0)
        assert await bench.index.gaps() == {}, f"somebody fills {begun.collection} just now"
        replica.clock.advance(60_000)
        assert await bench.index.gaps() == {TENANT: 1}, "he has stopped"

        await bench.rebuilds.fill_gaps()

        async def filled() -> bool:
            return bench.rebuilds.get("a").state is RebuildState.SUCCEEDED

        await eventually(filled, timeout_s=30.0)
        assert await bench.stored() == hashes(*films, fresh)
        assert await bench.index.gaps() == {}
        await bench.rebuilds.fill_gaps()
        with pytest.raises(NotFoundError):
            bench.rebuilds.get("b")
        await bench.rebuilds.close()


def ref(item: common_pb2.Item) -> common_pb2.ItemRef:
    return common_pb2.ItemRef(tenant=item.tenant, item_type=item.item_type, item_id=item.item_id)


def name_of(event: events_pb2.ContentChanged) -> str:
    item = event.put if event.HasField("put") else event.deleted
    return f"{item.tenant}/{item.item_type}/{item.item_id}"
