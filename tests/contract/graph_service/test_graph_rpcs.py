"""Every RPC on a real server, over the memory store and over SQLite."""
# ruff: noqa: N802 - the proto names the methods

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graph_service.adapters.memory import MemoryGraphStore
from graph_service.adapters.sqlite import SqliteGraphStore
from graph_service.api import SERVICE_NAME, GraphServicer
from graph_service.bootstrap import make_graph, make_rebuilder
from graph_service.domain.ports import GraphStore
from graph_service.settings import GraphServiceSettings
from recommendation.common.v1 import common_pb2
from recommendation.events.v1 import events_pb2
from recommendation.graph_service.v1 import graph_service_pb2 as pb
from recommendation.graph_service.v1 import graph_service_pb2_grpc as pb_grpc
from recommendation.profile_store.v1 import profile_store_pb2 as profile_pb
from recommendation.profile_store.v1 import profile_store_pb2_grpc as profile_grpc
from servicekit.arrays import pack_floats, pack_keys, unpack_floats, unpack_ints, unpack_keys
from servicekit.clock import SystemClock
from servicekit.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from servicekit.eventlog.memory import MemoryEventLog
from servicekit.eventlog.port import NewRecord
from servicekit.eventlog.topics import CONTENT_CHANGED, default_specs
from servicekit.identity import item_key
from servicekit.rpc.client import RpcChannel
from servicekit.tasks import BackgroundTasks
from servicekit.testing import eventually, served

AT_MS = 1_700_000_000_000
KEYS = {name: item_key("t", "film", name) for name in "abcdef"}


def film(name: str, at_ms: int = AT_MS, **fields: Any) -> pb.ApplyMutationsRequest.Mutation:
    texts = {field: fields.pop(field) for field in ("directors", "genres", "countries") if field in fields}
    item = common_pb2.Item(tenant="t", item_type="film", item_id=name, updated_at_ms=at_ms, **fields)
    for field, values in texts.items():
        item.attributes[field].texts.values.extend(values)
    return pb.ApplyMutationsRequest.Mutation(put_item=item)


def took(user: str, name: str, weight: float = 1.0, at_ms: int = AT_MS) -> pb.ApplyMutationsRequest.Mutation:
    return pb.ApplyMutationsRequest.Mutation(
        interaction=pb.ApplyMutationsRequest.Interaction(
            tenant="t", user_id=user, item_key=KEYS[name], weight=weight, occurred_at_ms=at_ms
        )
    )


class Exports(profile_grpc.ProfileStoreServiceServicer):
    """A profile_store of three films, whose interactions take their time for one tenant and fail for another."""

    async def ExportItems(self, request: profile_pb.ExportItemsRequest, _: object) -> AsyncIterator[Any]:
        if request.tenant == "t":
            items = [film(name, genres=["Drama"]).put_item for name in "aef"]
            yield profile_pb.ExportItemsResponse(items=items)

    async def ExportInteractions(self, request: profile_pb.ExportInteractionsRequest, _: object) -> AsyncIterator[Any]:
        if request.tenant == "broken":
            raise UnavailableError("gone")
        for _turn in range(3 if request.tenant == "slow" else 1):
            yield profile_pb.ExportInteractionsResponse(
                user_keys=pack_keys([1, 1, 2, 2]),
                item_keys=pack_keys([KEYS[name] for name in "aeaf"]),
                weights=pack_floats([1.0, 1.0, -1.0, 2.0]),
                times_ms=pack_keys([AT_MS] * 4),
            )
            if request.tenant == "slow":
                await asyncio.Event().wait()


def film_event(name: str, *, deleted: bool = False) -> NewRecord:
    event = events_pb2.ContentChanged(event_id=f"{name}{deleted}", occurred_at_ms=AT_MS - 10)
    if deleted:
        event.deleted.tenant, event.deleted.item_type, event.deleted.item_id = "t", "film", name
    else:
        event.put.CopyFrom(film(name, AT_MS - 20, genres=["Drama"]).put_item)
    return NewRecord(CONTENT_CHANGED, f"t/film/{name}", event.SerializeToString())


CATALOGUE = (
    film("a", directors=["Burton"], genres=["Fantasy"], countries=["France"]),
    film("b", directors=["Burton"], genres=["Crime"], countries=["France"]),
    film("c", directors=["Lynch"], genres=["Crime"]),
    film("d", directors=["Lynch"], genres=["Crime"]),
    took("ann", "a"),
    took("ann", "b"),
    took("bob", "a"),
    took("bob", "b"),
    took("bob", "c", weight=-1.0),
)


class Service:
    """The stub of a running service, with a timeout on each call."""

    def __init__(self, channel: RpcChannel) -> None:
        self._channel = channel
        self._stub = pb_grpc.GraphServiceStub(channel.channel)

    async def call(self, method: str, request: Any) -> Any:
        return await self._channel.unary(getattr(self._stub, method), request, timeout_s=5.0)

    def rebuilding(self, **fields: Any) -> AsyncGenerator[pb.RebuildGraphResponse, None]:
        request = pb.RebuildGraphRequest(**fields)
        told: Any = self._channel.stream(self._stub.RebuildGraph, request, timeout_s=20.0)
        return told  # type: ignore[no-any-return]  # a generator, which the channel does not say

    async def rebuild(self, **fields: Any) -> list[pb.RebuildGraphResponse]:
        return [each async for each in self.rebuilding(**fields)]

    async def rebuild_or_nothing(self, **fields: Any) -> list[pb.RebuildGraphResponse]:
        try:
            return await self.rebuild(**fields)
        except FailedPreconditionError:
            return []

    async def apply(self, *mutations: pb.ApplyMutationsRequest.Mutation) -> list[str]:
        answer = await self.call("ApplyMutations", pb.ApplyMutationsRequest(mutations=mutations))
        assert len(answer.errors) == len(mutations)
        return [error.field if error.code else "" for error in answer.errors]

    async def expand(self, *queries: pb.ExpandUsersRequest.Query) -> Any:
        answer = await self.call("ExpandUsers", pb.ExpandUsersRequest(queries=queries))
        assert len(answer.results) == len(queries)
        return answer.results

    async def related(self, *queries: pb.RelatedItemsRequest.Query) -> Any:
        answer = await self.call("RelatedItems", pb.RelatedItemsRequest(queries=queries))
        return answer.results

    async def explain(self, *queries: pb.ExplainRecommendationsRequest.Query) -> Any:
        answer = await self.call("ExplainRecommendations", pb.ExplainRecommendationsRequest(queries=queries))
        return answer.results


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[GraphStore]:
    store = MemoryGraphStore() if request.param == "memory" else SqliteGraphStore(tmp_path / "graph.sqlite")
    yield store
    await store.close()


@pytest.fixture
async def service(store: GraphStore) -> AsyncIterator[Service]:
    graph = make_graph(GraphServiceSettings(fill_timeout_s=4.0, list_min_age_s=0.0), store, SystemClock())
    log = MemoryEventLog(clock=SystemClock())
    exports = Exports()  # type: ignore[abstract]  # the other calls stay unimplemented
    await log.ensure_topics(default_specs())
    told = [film_event("a"), film_event("b"), film_event("b", deleted=True), film_event("e")]
    await log.producer().append([*told, NewRecord(CONTENT_CHANGED, "t/film/z", b"\xff")])
    async with (
        served(lambda server: profile_grpc.add_ProfileStoreServiceServicer_to_server(exports, server)) as (
            _,
            exporting,
        ),
        BackgroundTasks(asyncio.Event()) as tasks,
        served(
            lambda server: pb_grpc.add_GraphServiceServicer_to_server(
                GraphServicer(graph.use_cases, graph.reader, make_rebuilder(graph, exporting, log)), server
            ),
            (SERVICE_NAME,),
        ) as (_, channel),
    ):
        graph.start(tasks)
        yield Service(channel)


@pytest.fixture
async def films(service: Service) -> Service:
    assert await service.apply(*CATALOGUE) == [""] * len(CATALOGUE)
    return service


def user(*names: str, **fields: Any) -> pb.ExpandUsersRequest.Query:
    weights = fields.pop("weights", [1.0] * len(names))
    return pb.ExpandUsersRequest.Query(
        tenant="t",
        history_keys=pack_keys([KEYS[name] for name in names]),
        history_weights=pack_floats(weights),
        **fields,
    )


def names_of(packed: bytes) -> list[str]:
    by_key = {key: name for name, key in KEYS.items()}
    return [by_key[key] for key in unpack_keys(packed, field="keys").tolist()]


def only(path: Any, weight: float = 1.0) -> pb.MetaPathWeight:
    return pb.MetaPathWeight(meta_path=path, weight=weight)


# --- ExpandUsers ---


async def test_expand_users_answers_each_in_order(films: Service) -> None:
    first, second, nobody = await films.expand(user("a"), user("c", "a"), user())
    assert names_of(first.item_keys) == ["b"]
    assert unpack_floats(first.scores, field="scores")[0] > 0
    assert unpack_ints(first.because, field="because").tolist() == [0]
    assert sorted(names_of(second.item_keys)) == ["b", "d"]
    because = dict(zip(names_of(second.item_keys), unpack_ints(second.because, field="because").tolist(), strict=True))
    assert because == {"b": 1, "d": 0}
    assert nobody.item_keys == nobody.scores == nobody.because == b""
    assert not any(each.HasField("error") for each in (first, second, nobody))


async def test_expand_users_takes_limits_exclusions_weights_and_filters(films: Service) -> None:
    crime = common_pb2.Filter(
        predicates=[
            common_pb2.Predicate(
                field="genres",
                operator=common_pb2.FILTER_OPERATOR_IN,
                values=[common_pb2.AttributeValue(text="Crime"), common_pb2.AttributeValue(text="War")],
            )
        ]
    )
    never = common_pb2.Filter(
        predicates=[
            common_pb2.Predicate(
                field="item_type",
                operator=common_pb2.FILTER_OPERATOR_EQ,
                values=[common_pb2.AttributeValue(text="song")],
            )
        ]
    )
    answers = await films.expand(
        user("b", limit=1),
        user("b", exclude_keys=pack_keys([KEYS["a"], KEYS["c"]])),
        user("b", meta_path_weights=[only(pb.META_PATH_ITEM_GENRE_ITEM)]),
        user("b", filter=crime),
        user("b", filter=never),
        user("b", "c", weights=[1.0, -1.0]),
    )
    assert [names_of(answer.item_keys) for answer in answers[:2]] == [["a"], ["d"]]
    assert [sorted(names_of(answer.item_keys)) for answer in answers[2:]] == [["c", "d"], ["c", "d"], [], ["a"]]


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (pb.ExpandUsersRequest.Query(), "tenant"),
        (user("a", weights=[]), "history_weights"),
        (user("a", weights=[math.nan]), "history_weights"),
        (pb.ExpandUsersRequest.Query(tenant="t", history_keys=b"123"), "history_keys"),
        (user("a", exclude_keys=b"1"), "exclude_keys"),
        (user("a", limit=1_001), "limit"),
        (user("a", meta_path_weights=[only(pb.META_PATH_ITEM_COUNTRY_ITEM)]), "meta_path_weights"),
        (user("a", meta_path_weights=[only(pb.META_PATH_UNSPECIFIED)]), "meta_path_weights"),
        (user("a", meta_path_weights=[only(pb.META_PATH_ITEM_USER_ITEM, -1)]), "meta_path_weights"),
        (user("a", meta_path_weights=[only(pb.META_PATH_ITEM_USER_ITEM, math.inf)]), "meta_path_weights"),
        (user("a", filter=common_pb2.Filter(predicates=[common_pb2.Predicate(field="year")])), "year"),
        (
            user(
                "a",
                filter=common_pb2.Filter(
                    predicates=[common_pb2.Predicate(field="year", operator=common_pb2.FILTER_OPERATOR_GTE)]
                ),
            ),
            "year",
        ),
    ],
)
async def test_a_bad_element_fails_alone(films: Service, bad: pb.ExpandUsersRequest.Query, field: str) -> None:
    good, failed, also_good = await films.expand(user("a"), bad, user("c"))
    assert (failed.error.code, failed.error.field) == ("invalid_argument", field)
    assert names_of(good.item_keys) == ["b"]
    assert sorted(names_of(also_good.item_keys)) == ["b", "d"]


async def test_what_is_written_counts_in_the_next_answer(films: Service) -> None:
    await films.expand(user("a"), user("c"))
    await films.apply(film("b", AT_MS + 1, hidden=True, directors=["Burton"], genres=["Crime"]))
    (answer,) = await films.expand(user("a"))
    assert names_of(answer.item_keys) == []


# --- RelatedItems ---


async def test_related_items_come_best_first(films: Service) -> None:
    query = pb.RelatedItemsRequest.Query
    answers = await films.related(
        query(tenant="t", item_key=KEYS["b"]),
        query(tenant="t", item_key=KEYS["b"], limit=1),
        query(tenant="t", item_key=KEYS["c"], meta_path_weights=[only(pb.META_PATH_ITEM_PERSON_ITEM)]),
        query(tenant="t", item_key=12345),
        query(tenant="other", item_key=KEYS["b"]),
        query(tenant="t", item_key=KEYS["b"], limit=401),
    )
    assert names_of(answers[0].item_keys)[0] == "a"
    scores = unpack_floats(answers[0].scores, field="scores").tolist()
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert [names_of(answer.item_keys) for answer in answers[1:5]] == [["a"], ["d"], [], []]
    assert answers[5].error.field == "limit"


# --- ExplainRecommendations ---


async def test_explanations_say_through_what(films: Service) -> None:
    query = pb.ExplainRecommendationsRequest.Query
    history = pack_keys([KEYS["c"], KEYS["a"]])
    first, cut, bad = await films.explain(
        query(tenant="t", history_keys=history, item_keys=pack_keys([KEYS["d"], KEYS["b"]]), limit=20),
        query(tenant="t", history_keys=history, item_keys=pack_keys([KEYS["b"]]), limit=1),
        query(tenant="t", history_keys=history, item_keys=pack_keys(np.arange(101))),
    )
    told = {(path.item_key, path.history_key, path.meta_path, path.through) for path in first.paths}
    a, b, c, d = (KEYS[name] for name in "abcd")
    assert told == {
        (d, c, pb.META_PATH_ITEM_PERSON_ITEM, "Lynch"),
        (d, c, pb.META_PATH_ITEM_GENRE_ITEM, "Crime"),
        (b, c, pb.META_PATH_ITEM_GENRE_ITEM, "Crime"),
        (b, a, pb.META_PATH_ITEM_PERSON_ITEM, "Burton"),
        (b, a, pb.META_PATH_ITEM_USER_ITEM, "2"),
        (b, a, pb.META_PATH_ITEM_COUNTRY_ITEM, "France"),
    }
    assert [path.item_key for path in first.paths] == [d, d, b, b, b, b]
    assert [path.item_key for path in cut.paths] == [b]
    assert bad.error.field == "item_keys"


# --- ApplyMutations ---


async def test_bad_mutations_are_reported_by_place_and_the_others_applied(service: Service) -> None:
    mutation = pb.ApplyMutationsRequest.Mutation
    nameless = common_pb2.Item(tenant="t", item_type="film", updated_at_ms=AT_MS)
    erased = pb.ApplyMutationsRequest.ErasedUser(tenant="t", user_id="ann", occurred_at_ms=2**60)
    empty = common_pb2.Item(tenant="t", item_type="film", item_id="e", updated_at_ms=AT_MS)
    empty.attributes["year"].SetInParent()
    outcomes = await service.apply(
        film("a", directors=["Burton"]),
        mutation(),
        mutation(put_item=nameless),
        mutation(put_item=empty),
        film("b", at_ms=0),
        took("ann", "a", weight=math.nan),
        took("", "a"),
        mutation(erased_user=erased),
        mutation(deleted_item=pb.ApplyMutationsRequest.DeletedItem(occurred_at_ms=AT_MS)),
        film("c", directors=["Burton"]),
    )
    assert outcomes == [
        "",
        "change",
        "item_id",
        "attributes.year",
        "occurred_at_ms",
        "weight",
        "user_id",
        "occurred_at_ms",
        "tenant",
        "",
    ]
    (answer,) = await service.expand(user("a"))
    assert names_of(answer.item_keys) == ["c"]


async def test_deletions_and_erasures_arrive(films: Service) -> None:
    mutation, request = pb.ApplyMutationsRequest.Mutation, pb.ApplyMutationsRequest
    item = common_pb2.ItemRef(tenant="t", item_type="film", item_id="d")
    await films.apply(
        mutation(deleted_item=request.DeletedItem(item=item, occurred_at_ms=AT_MS + 1)),
        mutation(erased_user=request.ErasedUser(tenant="t", user_id="ann", occurred_at_ms=AT_MS)),
    )
    (answer,) = await films.expand(user("c"))
    assert names_of(answer.item_keys) == ["b"]
    (told,) = await films.explain(
        pb.ExplainRecommendationsRequest.Query(
            tenant="t", history_keys=pack_keys([KEYS["a"]]), item_keys=pack_keys([KEYS["b"]]), limit=20
        )
    )
    assert "1" in {path.through for path in told.paths}


# --- sizes ---


@pytest.mark.parametrize(
    ("method", "empty", "too_many"),
    [
        ("ExpandUsers", pb.ExpandUsersRequest(), pb.ExpandUsersRequest(queries=[user("a")] * 257)),
        (
            "RelatedItems",
            pb.RelatedItemsRequest(),
            pb.RelatedItemsRequest(queries=[pb.RelatedItemsRequest.Query(tenant="t")] * 257),
        ),
        (
            "ExplainRecommendations",
            pb.ExplainRecommendationsRequest(),
            pb.ExplainRecommendationsRequest(queries=[pb.ExplainRecommendationsRequest.Query(tenant="t")] * 65),
        ),
        (
            "ApplyMutations",
            pb.ApplyMutationsRequest(),
            pb.ApplyMutationsRequest(mutations=[pb.ApplyMutationsRequest.Mutation()] * 10_001),
        ),
    ],
)
async def test_batches_have_a_size(service: Service, method: str, empty: Any, too_many: Any) -> None:
    for request in (empty, too_many):
        with pytest.raises(InvalidArgumentError):
            await service.call(method, request)


# --- built again ---


async def test_it_says_how_much_it_holds(films: Service) -> None:
    answer = await films.call("DescribeGraph", pb.DescribeGraphRequest())
    assert answer.counts == pb.GraphCounts(items=4, users=2, relations=4, links=10)
    assert answer.serving


async def test_it_is_built_again_from_profile_store_while_it_serves(films: Service) -> None:
    before = await films.call("DescribeGraph", pb.DescribeGraphRequest())
    told = await films.rebuild(tenants=["t"], least_percent=0, samples=2)
    phases = [each.phase for each in told]
    assert phases == sorted(phases)
    assert phases[0] == pb.REBUILD_PHASE_CLEARING
    assert phases[-1] == pb.REBUILD_PHASE_SERVING
    assert told[-1].serving == before.counts
    assert told[-1].rebuilt == pb.GraphCounts(items=3, users=2, relations=3, links=3)
    assert (told[-1].sampled, told[-1].agreeing) == (2, 0)
    after = await films.call("DescribeGraph", pb.DescribeGraphRequest())
    assert after.counts == told[-1].rebuilt
    assert after.serving != before.serving
    (answer,) = await films.related(pb.RelatedItemsRequest.Query(tenant="t", item_key=KEYS["a"]))
    assert set(unpack_keys(answer.item_keys, field="keys").tolist()) == {KEYS["e"], KEYS["f"]}, "the cache is new too"


async def test_it_is_built_again_from_the_log(films: Service) -> None:
    told = await films.rebuild(source=pb.REBUILD_SOURCE_LOG, least_percent=0)
    assert told[-1].rebuilt == pb.GraphCounts(items=2, users=0, relations=0, links=2)


async def test_a_graph_that_lacks_too_much_does_not_serve(films: Service) -> None:
    before = await films.call("DescribeGraph", pb.DescribeGraphRequest())
    with pytest.raises(FailedPreconditionError) as caught:
        await films.rebuild(source=pb.REBUILD_SOURCE_LOG)
    assert caught.value.field == "least_percent"
    assert await films.call("DescribeGraph", pb.DescribeGraphRequest()) == before


async def test_a_source_that_fails_leaves_the_old_graph(films: Service) -> None:
    before = await films.call("DescribeGraph", pb.DescribeGraphRequest())
    with pytest.raises(UnavailableError):
        await films.rebuild(tenants=["broken"], least_percent=0)
    assert await films.call("DescribeGraph", pb.DescribeGraphRequest()) == before
    assert (await films.rebuild(tenants=["t"], least_percent=0))[-1].rebuilt.items == 3


async def test_who_stops_listening_gives_it_up_and_the_next_begins_anew(films: Service) -> None:
    before = await films.call("DescribeGraph", pb.DescribeGraphRequest())
    async with aclosing(films.rebuilding(tenants=["t", "slow"], least_percent=0)) as told:
        async for progress in told:
            if progress.phase == pb.REBUILD_PHASE_INTERACTIONS:
                with pytest.raises(FailedPreconditionError, match="under way"):
                    await films.rebuild(tenants=["t"], least_percent=0)
                break
    assert await films.call("DescribeGraph", pb.DescribeGraphRequest()) == before
    told_again = await eventually(lambda: films.rebuild_or_nothing(tenants=["t"], least_percent=0))
    assert told_again[-1].phase == pb.REBUILD_PHASE_SERVING


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"source": 9}, "source"),
        ({"tenants": [""]}, "tenants"),
        ({"tenants": ["t"] * 1_001}, "tenants"),
        ({"samples": 1_001}, "samples"),
        ({"least_percent": 101}, "least_percent"),
    ],
)
async def test_a_rebuild_that_cannot_be_right_is_refused(service: Service, fields: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        await service.rebuild(**fields)
    assert caught.value.field == named
