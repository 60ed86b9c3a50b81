"""A replica's cache learns from the log what another replica applies to the store that they share."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from graph_service.adapters.memory import MemoryGraphStore
from graph_service.application.queries import RelatedQuery
from graph_service.bootstrap import Graph, make_graph, open_tail
from graph_service.convert.records import GROUP, TOPICS, read_record
from graph_service.domain.graph import ItemFacts, Keys, Mutation
from graph_service.settings import GraphServiceSettings
from recommendation.common.v1 import common_pb2
from recommendation.events.v1 import events_pb2
from servicekit.clock import ManualClock
from servicekit.errors import ServiceError, UnavailableError
from servicekit.eventlog.memory import MemoryEventLog
from servicekit.eventlog.port import EventConsumer, NewRecord, TopicPartition
from servicekit.eventlog.topics import CONTENT_CHANGED, USER_INTERACTIONS, default_specs
from servicekit.identity import item_key
from servicekit.tasks import BackgroundTasks
from servicekit.testing import eventually

NOW_MS = 1_700_000_000_000


class OtherReplica:
    """Applies the log to the store, as the group's only member, when it is told to."""

    def __init__(self, log: MemoryEventLog, store: MemoryGraphStore, graph: Graph) -> None:
        self._consumer: EventConsumer = log.consumer(TOPICS, group=GROUP, member="other")
        self._store = store
        self._reader = graph.reader

    async def apply(self) -> None:
        await self.commit(await self.write())

    async def write(self) -> dict[TopicPartition, int]:
        ends: dict[TopicPartition, int] = {}
        changes: list[Mutation] = []
        while records := await self._consumer.poll(max_records=100, timeout_s=0.05):
            for record in records:
                ends[TopicPartition(record.topic, record.partition)] = record.offset + 1
                if record.value != b"\xff":
                    changes.append(read_record(self._reader, record))
        await self._store.apply(changes)
        return ends

    async def commit(self, ends: dict[TopicPartition, int]) -> None:
        await self._consumer.commit(ends)


@pytest.fixture
async def log(clock: ManualClock) -> MemoryEventLog:
    log = MemoryEventLog(clock=clock)
    await log.ensure_topics(default_specs())
    return log


@pytest.fixture
def shared(settings: GraphServiceSettings) -> GraphServiceSettings:
    return settings.model_copy(update={"graph_store_url": "bolt://shared"})


@pytest.fixture
async def replica(
    shared: GraphServiceSettings, store: MemoryGraphStore, clock: ManualClock, log: MemoryEventLog
) -> AsyncIterator[Graph]:
    graph = make_graph(shared, store, clock)
    tail = await open_tail(shared, graph, log)
    async with BackgroundTasks(asyncio.Event()) as tasks:
        graph.start(tasks)
        tasks.start(tail.run(), name="tail")
        yield graph


@pytest.fixture
def other(log: MemoryEventLog, store: MemoryGraphStore, replica: Graph) -> OtherReplica:
    return OtherReplica(log, store, replica)


def key(name: str) -> int:
    return item_key("t", "film", name)


def described(name: str, *genres: str, hidden: bool = False, at_ms: int = NOW_MS) -> NewRecord:
    item = common_pb2.Item(tenant="t", item_type="film", item_id=name, updated_at_ms=at_ms, hidden=hidden)
    item.attributes["genres"].texts.values.extend(genres)
    event = events_pb2.ContentChanged(event_id=f"{name}{at_ms}", occurred_at_ms=at_ms, put=item)
    return NewRecord(CONTENT_CHANGED, f"t/film/{name}", event.SerializeToString())


def viewed(user: str, name: str) -> NewRecord:
    event = events_pb2.InteractionRecorded(
        event_id=f"{user}{name}",
        occurred_at_ms=NOW_MS,
        tenant="t",
        user_id=user,
        item_type="film",
        item_id=name,
        interaction_type="view",
    )
    return NewRecord(USER_INTERACTIONS, f"t/{user}", event.SerializeToString())


async def related(graph: Graph, name: str) -> set[int]:
    (answer,) = await graph.use_cases.related_items([RelatedQuery("t", key(name), 100)])
    assert not isinstance(answer, ServiceError)
    return set(answer.keys.tolist())


async def becomes(graph: Graph, name: str, *expected: str) -> None:
    async def is_so() -> bool:
        return await related(graph, name) == {key(each) for each in expected}

    await eventually(is_so)


async def tell(log: MemoryEventLog, *records: NewRecord) -> None:
    await log.producer().append(records)


async def test_items_that_another_replica_changes_are_known(
    replica: Graph, log: MemoryEventLog, other: OtherReplica
) -> None:
    await tell(log, described("a", "Drama"), described("b", "Drama"))
    await other.apply()
    await becomes(replica, "a", "b")
    await tell(log, described("c", "Drama"))
    await other.apply()
    await becomes(replica, "a", "b", "c")
    await tell(log, described("b", "Drama", hidden=True, at_ms=NOW_MS + 1))
    await other.apply()
    await becomes(replica, "a", "c")
    await tell(log, described("a", at_ms=NOW_MS + 1))
    await other.apply()
    await becomes(replica, "a")


async def test_nothing_is_learned_before_it_is_applied(
    replica: Graph, log: MemoryEventLog, other: OtherReplica
) -> None:
    await tell(log, described("a", "Drama"), described("b", "Drama"))
    await other.apply()
    await becomes(replica, "a", "b")
    await tell(log, described("b", "Drama", hidden=True, at_ms=NOW_MS + 1))
    ends = await other.write()
    changes = replica.cache.changes
    await asyncio.sleep(0.2)  # a tail that did not wait for the commit would have learned by now
    assert replica.cache.changes == changes
    await other.commit(ends)
    await becomes(replica, "a")


async def test_interactions_make_lists_older(replica: Graph, log: MemoryEventLog, other: OtherReplica) -> None:
    await tell(log, described("a", "Drama"), described("b"))
    await other.apply()
    await becomes(replica, "a")
    await tell(log, *(viewed("ann", name) for name in "ab"))
    await other.apply()
    await becomes(replica, "a", "b")


async def test_its_own_writes_count_once(replica: Graph) -> None:
    reader = replica.reader
    changes = [
        reader.interaction(events_pb2.InteractionRecorded.FromString(viewed("ann", name).value)) for name in "ab"
    ]
    await related(replica, "a")
    await replica.use_cases.apply(changes)
    found = replica.cache.contents.lists.find(key("a"))
    assert found is not None
    assert found.new_edges == 0, "the tail counts them"
    await replica.use_cases.learn(changes)
    assert found.new_edges == 1


async def test_a_record_that_nobody_can_read_holds_nothing_up(
    replica: Graph, log: MemoryEventLog, other: OtherReplica
) -> None:
    await tell(log, NewRecord(CONTENT_CHANGED, "t/film/a", b"\xff"), described("a", "Drama"), described("b", "Drama"))
    await other.apply()
    await becomes(replica, "a", "b")


class FailingOnce(MemoryGraphStore):
    """Cannot be reached the first time that it is asked to look again."""

    failures = 1

    async def look_again(self, described: Keys, taken: Keys) -> Mapping[int, ItemFacts]:
        if self.failures:
            self.failures -= 1
            raise UnavailableError("gone")
        return await super().look_again(described, taken)


class TestAStoreThatFails:
    @pytest.fixture
    def store(self) -> MemoryGraphStore:
        return FailingOnce()

    async def test_is_asked_again(
        self, replica: Graph, store: FailingOnce, log: MemoryEventLog, other: OtherReplica
    ) -> None:
        await tell(log, described("a", "Drama"), described("b", "Drama"))
        await related(replica, "a")
        await other.apply()
        await becomes(replica, "a", "b")
        assert store.failures == 0
