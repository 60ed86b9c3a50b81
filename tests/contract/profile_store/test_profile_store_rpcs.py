"""Every RPC of profile_store on a real server, over each store."""

import math
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from profile_store.adapters.memory import MemoryProfileStore
from profile_store.adapters.sqlite import SqliteProfileStore
from profile_store.api.profiles import SERVICE_NAME, ProfileStoreServicer
from profile_store.application.profiles import ProfileService
from recommendation.common.v1 import common_pb2
from recommendation.profile_store.v1 import profile_store_pb2 as pb
from recommendation.profile_store.v1 import profile_store_pb2_grpc as pb_grpc
from servicekit.arrays import pack_keys
from servicekit.clock import ManualClock
from servicekit.errors import InvalidArgumentError, ServiceError
from servicekit.identity import item_key, user_key
from servicekit.rpc.client import RpcChannel
from servicekit.testing import served

NOW = 1_700_000_000_000
HOUR = 3_600_000
TENANT = "acme"
Value = common_pb2.AttributeValue


class Client:
    """Calls profile_store and gives plain answers."""

    def __init__(self, channel: RpcChannel) -> None:
        self._channel = channel
        self.stub: Any = pb_grpc.ProfileStoreServiceStub(channel.channel)

    async def __call__(self, method: str, request: Any) -> Any:
        return await self._channel.unary(getattr(self.stub, method), request, timeout_s=10)

    async def stream(self, method: str, request: Any) -> list[Any]:
        return [page async for page in self._channel.stream(getattr(self.stub, method), request, timeout_s=10)]

    async def append(self, *interactions: pb.Interaction) -> list[Any]:
        response = await self("AppendInteractions", pb.AppendInteractionsRequest(interactions=interactions))
        return list(response.results)

    async def put(self, *items: common_pb2.Item) -> list[Any]:
        return list((await self("PutItems", pb.PutItemsRequest(items=items))).results)

    async def context(self, user_id: str = "ann", **fields: Any) -> Any:
        query = pb.GetUserContextsRequest.Query(**{"tenant": TENANT, "user_id": user_id, **fields})
        (context,) = (await self("GetUserContexts", pb.GetUserContextsRequest(queries=[query]))).contexts
        return context

    async def popular(self, **fields: Any) -> Any:
        query = pb.GetPopularityRequest.Query(**{"tenant": TENANT, **fields})
        (found,) = (await self("GetPopularity", pb.GetPopularityRequest(queries=[query]))).results
        return found


@pytest.fixture(params=["memory", "sqlite"])
async def service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ProfileService]:
    clock = ManualClock(NOW)
    if request.param == "memory":
        memory = MemoryProfileStore()
        yield ProfileService(
            items=memory, interactions=memory, types=memory, popularity=memory, policies=memory.policies, clock=clock
        )
        return
    async with await SqliteProfileStore.open(
        tmp_path / "profile.db", synchronous="normal", context_cache_bytes=10_000, item_cache_size=3
    ) as sqlite:
        yield ProfileService(
            items=sqlite, interactions=sqlite, types=sqlite, popularity=sqlite, policies=sqlite.policies, clock=clock
        )


@pytest.fixture
async def call(service: ProfileService) -> AsyncIterator[Client]:
    async with served(
        lambda server: pb_grpc.add_ProfileStoreServiceServicer_to_server(ProfileStoreServicer(service), server),
        [SERVICE_NAME],
    ) as (_, channel):
        yield Client(channel)


def deed(event_id: str, item_id: str = "a", **fields: Any) -> pb.Interaction:
    return pb.Interaction(
        **{
            "event_id": event_id,
            "tenant": TENANT,
            "user_id": "ann",
            "item_type": "film",
            "item_id": item_id,
            "interaction_type": "view",
            "occurred_at_ms": NOW,
            **fields,
        }
    )


def item(item_id: str = "a", **fields: Any) -> common_pb2.Item:
    return common_pb2.Item(
        **{"tenant": TENANT, "item_type": "film", "item_id": item_id, "updated_at_ms": NOW, "title": "T", **fields}
    )


def texts(*values: str) -> Value:
    return Value(texts=Value.StringList(values=values))


def keys(packed: bytes) -> list[int]:
    return [int(each) for each in np.frombuffer(packed, dtype="<i8")]


def floats(packed: bytes) -> list[float]:
    return [float(each) for each in np.frombuffer(packed, dtype="<f4")]


def key(item_id: str) -> int:
    return item_key(TENANT, "film", item_id)


async def refused(answer: Awaitable[Any]) -> str:
    """Give the field that a call was refused for."""
    with pytest.raises(InvalidArgumentError) as error:
        await answer
    return error.value.field


async def test_contexts_travel_packed(call: Client) -> None:
    await call.append(deed("1", "a"), deed("2", "b", interaction_type="rating", value=1.0), deed("3", "c"))
    context = await call.context(history_limit=2)
    assert keys(context.history_keys) == [key("c"), key("b")]
    assert floats(context.history_weights) == [1.0, -1.5]
    assert keys(context.history_times_ms) == [NOW, NOW]
    assert keys(context.seen_keys) == [key("a")]
    assert context.interaction_count == 3
    assert not context.HasField("error")


async def test_a_bad_context_query_does_not_touch_its_neighbours(call: Client) -> None:
    await call.append(deed("1"))
    query = pb.GetUserContextsRequest.Query
    response = await call(
        "GetUserContexts",
        pb.GetUserContextsRequest(
            queries=[
                query(tenant=TENANT),
                query(tenant=TENANT, user_id="ann"),
                query(user_id="ann"),
                query(tenant=TENANT, user_id="ann", history_limit=10_001),
                query(tenant=TENANT, user_id="ann", history_limit=10_000),
            ]
        ),
    )
    assert [context.error.field for context in response.contexts] == ["user_id", "", "tenant", "history_limit", ""]
    assert {context.error.code for context in response.contexts} == {"", "invalid_argument"}
    assert [context.interaction_count for context in response.contexts] == [0, 1, 0, 0, 1]
    many = pb.GetUserContextsRequest(queries=[query(tenant=TENANT, user_id="ann")] * 257)
    assert await refused(call("GetUserContexts", many)) == "queries"


async def test_interactions_are_judged_one_by_one(call: Client) -> None:
    bad = {
        "event_id": deed(""),
        "event_id ": deed("x" * 65),
        "tenant": deed("t", tenant=""),
        "tenant ": deed("t", tenant="x" * 65),
        "user_id": deed("u", user_id="x" * 256),
        "item_type": deed("i", item_type=""),
        "item_id": deed("i", item_id=""),
        "interaction_type": deed("k", interaction_type="dance"),
        "value": deed("v", interaction_type="rating"),
        "value ": deed("v", interaction_type="rating", value=math.nan),
        "value  ": deed("v", value=math.inf),
        "value   ": deed("v", interaction_type="rating", value=1e300),
        "occurred_at_ms": deed("o", occurred_at_ms=0),
        "occurred_at_ms ": deed("o", occurred_at_ms=NOW + 5 * 60_000 + 1),
    }
    good = [deed("1"), deed("1"), deed("2", occurred_at_ms=NOW + 5 * 60_000)]
    results = await call.append(*bad.values(), *good)
    assert [result.error.field for result in results] == [*(name.strip() for name in bad), "", "", ""]
    assert [result.error.code for result in results[: len(bad)]] == ["invalid_argument"] * len(bad)
    assert [result.applied for result in results] == [False] * len(bad) + [True, False, True]
    assert (await call.context()).interaction_count == 2
    assert await refused(call.append()) == "interactions"


async def test_a_history_is_paged(call: Client) -> None:
    deeds = [deed(f"{n}", f"{n}", interaction_type="rating", value=n, occurred_at_ms=NOW - n // 2) for n in range(5)]
    await call.append(*deeds)
    request = pb.ListInteractionsRequest(tenant=TENANT, user_id="ann", limit=2)
    found = []
    while True:
        response = await call("ListInteractions", request)
        found += response.interactions
        request.cursor = response.next_cursor
        if not request.cursor:
            break
    assert found == [deeds[n] for n in (1, 0, 3, 2, 4)]
    assert (
        len((await call("ListInteractions", pb.ListInteractionsRequest(tenant=TENANT, user_id="ann"))).interactions)
        == 5
    )
    wrong_fields: dict[str, dict[str, Any]] = {
        "cursor": {"cursor": "WzFd"},
        "cursor ": {"cursor": "§"},
        "cursor  ": {"cursor": "A" * 5_000},
        "limit": {"limit": 1_001},
        "user_id": {"user_id": ""},
    }
    for field, wrong in wrong_fields.items():
        asked = pb.ListInteractionsRequest(**{"tenant": TENANT, "user_id": "ann", **wrong})
        assert await refused(call("ListInteractions", asked)) == field.strip()


async def test_items_come_back_as_they_were_put(call: Client) -> None:
    film = item(
        description="sand",
        attributes={"genres": texts("scifi", "drama"), "year": Value(number=1984), "new": Value(flag=False)},
        created_at_ms=5,
        available_from_ms=0,
        available_until_ms=NOW,
        hidden=True,
    )
    bare = item("b", title="")
    results = await call.put(film, bare)
    assert [(result.applied, result.created) for result in results] == [(True, True), (True, True)]
    (again,) = await call.put(film)
    assert (again.applied, again.created) == (True, False)
    (older,) = await call.put(item(updated_at_ms=NOW - 1))
    assert (older.applied, older.created) == (False, False)
    response = await call("GetItems", pb.GetItemsRequest(item_keys=pack_keys([key("b"), 7, key("a")])))
    assert list(response.items) == [bare, film]
    assert keys(response.item_keys) == [key("b"), key("a")]
    assert not response.items[0].HasField("available_from_ms")
    assert response.items[1].HasField("available_from_ms")
    assert await refused(call("GetItems", pb.GetItemsRequest(item_keys=b"123"))) == "item_keys"
    assert await refused(call("GetItems", pb.GetItemsRequest(item_keys=pack_keys(range(10_001))))) == "item_keys"


async def test_items_are_judged_one_by_one(call: Client) -> None:
    bad = {
        "tenant": item(tenant=""),
        "item_type": item(item_type="x" * 65),
        "item_id": item("x" * 256),
        "title": item(title="x" * 1_001),
        "description": item(description="x" * 100_001),
        "updated_at_ms": item(updated_at_ms=0),
        "updated_at_ms ": item(updated_at_ms=NOW + 5 * 60_000 + 1),
        "created_at_ms": item(created_at_ms=-1),
        "available_until_ms": item(available_from_ms=5, available_until_ms=5),
        "attributes": item(attributes={f"{n}": Value(flag=True) for n in range(101)}),
        "attributes ": item(attributes={"": Value(flag=True)}),
        "attributes.a": item(attributes={"a": Value()}),
        "attributes.b": item(attributes={"b": Value(number=math.nan)}),
        "attributes.c": item(attributes={"c": Value(text="x" * 10_001)}),
        "attributes.d": item(attributes={"d": texts("")}),
        "attributes.e": item(attributes={"e": texts(*["x"] * 1_001)}),
    }
    results = await call.put(*bad.values(), item("good"))
    assert [result.error.field for result in results] == [*(name.strip() for name in bad), ""]
    assert [result.applied for result in results] == [False] * len(bad) + [True]
    assert await refused(call.put()) == "items"


async def test_deletions(call: Client) -> None:
    await call.put(item("a"), item("b"))
    ref = common_pb2.ItemRef(tenant=TENANT, item_type="film", item_id="a")
    nobody = common_pb2.ItemRef(tenant=TENANT, item_type="film", item_id="nobody")
    delete = pb.DeleteItemsRequest(items=[ref, nobody], occurred_at_ms=NOW)
    assert list((await call("DeleteItems", delete)).deleted) == [True, False]
    assert list((await call("DeleteItems", delete)).deleted) == [False, False]
    (older,) = await call.put(item("a", updated_at_ms=NOW - 1))
    assert not older.applied
    wrong = pb.DeleteItemsRequest(items=[ref, common_pb2.ItemRef(tenant=TENANT, item_type="film")], occurred_at_ms=NOW)
    assert await refused(call("DeleteItems", wrong)) == "items[1].item_id"
    assert await refused(call("DeleteItems", pb.DeleteItemsRequest(items=[ref]))) == "occurred_at_ms"
    assert await refused(call("DeleteItems", pb.DeleteItemsRequest(occurred_at_ms=NOW))) == "items"


async def test_the_catalogue_is_paged(call: Client) -> None:
    await call.put(*(item(name) for name in "edcba"), item("a", item_type="book"))
    request = pb.ListItemsRequest(tenant=TENANT, limit=2)
    found: list[tuple[str, str]] = []
    while True:
        response = await call("ListItems", request)
        found += [(each.item_type, each.item_id) for each in response.items]
        request.cursor = response.next_cursor
        if not request.cursor:
            break
    assert found == [("book", "a"), *(("film", name) for name in "abcde")]
    books = await call("ListItems", pb.ListItemsRequest(tenant=TENANT, item_type="book"))
    assert [each.item_type for each in books.items] == ["book"]
    assert books.next_cursor == ""
    wrong_fields: dict[str, dict[str, Any]] = {
        "cursor": {"cursor": "e30="},
        "cursor ": {"cursor": "WyJcdWQ4MDAiLCAiYSJd"},  # half a surrogate pair
        "limit": {"limit": 1_001},
        "tenant": {"tenant": ""},
        "item_type": {"item_type": "x" * 65},
    }
    for field, wrong in wrong_fields.items():
        asked = pb.ListItemsRequest(**{"tenant": TENANT, **wrong})
        assert await refused(call("ListItems", asked)) == field.strip()


async def test_a_page_of_huge_items_is_cut_to_what_a_message_carries(call: Client) -> None:
    huge = "☼" * 100_000
    for n in range(6):
        await call.put(*(item(f"{n}{m}", description=huge) for m in range(20)))
    request = pb.ListItemsRequest(tenant=TENANT, limit=1_000)
    first = await call("ListItems", request)
    assert 0 < len(first.items) < 120
    assert first.next_cursor
    pages = await call.stream("ExportItems", pb.ExportItemsRequest(tenant=TENANT, page_size=10_000))
    exported = [each.item_id for page in pages for each in page.items]
    assert exported == sorted(exported)
    assert len(exported) == 120


async def test_interaction_types(call: Client) -> None:
    share = pb.InteractionType(name="share", weight=-2.5, counts_as_seen=True)
    stars = pb.InteractionType(name="rating", weight=2.0, centre=3.0)
    await call("PutInteractionTypes", pb.PutInteractionTypesRequest(tenant=TENANT, types=[share, stars]))
    listed = (await call("ListInteractionTypes", pb.ListInteractionTypesRequest(tenant=TENANT))).types
    assert [kind.name for kind in listed] == ["add_to_cart", "like", "purchase", "rating", "share", "view"]
    assert listed[3] == stars
    assert listed[4] == share
    assert [kind.weight for kind in listed if kind.name in {"view", "like", "add_to_cart", "purchase"}] == [3, 2, 5, 1]
    assert not listed[5].HasField("centre")
    builtin = (await call("ListInteractionTypes", pb.ListInteractionTypesRequest(tenant="other"))).types
    assert next(kind for kind in builtin if kind.name == "rating").centre == 2.5
    for field, wrong in {
        "types[0].name": pb.InteractionType(name="No", weight=1),
        "types[0].name ": pb.InteractionType(name="x" * 65, weight=1),
        "types[0].weight": pb.InteractionType(name="a", weight=math.nan),
        "types[0].weight ": pb.InteractionType(name="a", weight=100.5),
        "types[0].centre": pb.InteractionType(name="a", weight=1, centre=math.inf),
    }.items():
        asked = pb.PutInteractionTypesRequest(tenant=TENANT, types=[wrong])
        assert await refused(call("PutInteractionTypes", asked)) == field.strip()
    assert await refused(call("PutInteractionTypes", pb.PutInteractionTypesRequest(tenant=TENANT))) == "types"


async def test_popularity(call: Client) -> None:
    await call.put(*(item(name, attributes={"year": Value(number=n)}) for n, name in enumerate("abc")))
    await call.append(deed("1", "a", occurred_at_ms=NOW - HOUR), deed("2", "b"), deed("3", "c"), deed("4", "c"))
    found = await call.popular(window=pb.POPULARITY_WINDOW_HOUR)
    assert keys(found.item_keys) == [key("c"), key("b"), key("a")]
    assert floats(found.scores) == [2.0, 1.0, 0.5]
    week = floats((await call.popular()).scores)
    assert week[2] == pytest.approx(2 ** (-1 / (7 * 24)))
    old = common_pb2.Predicate(field="year", operator=common_pb2.FILTER_OPERATOR_LTE, values=[Value(number=1)])
    found = await call.popular(filter=common_pb2.Filter(predicates=[old]), limit=1, item_type="film")
    assert keys(found.item_keys) == [key("b")]


async def test_a_bad_popularity_query_does_not_touch_its_neighbours(call: Client) -> None:
    await call.put(item())
    await call.append(deed("1"))
    predicate = common_pb2.Predicate
    queries: list[dict[str, Any]] = [
        {"tenant": ""},
        {"limit": 10_001},
        {"item_type": "x" * 65},
        {"window": 77},
        {"filter": common_pb2.Filter(predicates=[predicate(field="x", values=[Value(number=1)])])},
        {
            "filter": common_pb2.Filter(
                predicates=[predicate(field="x", operator=common_pb2.FILTER_OPERATOR_EQ, values=[Value()])]
            )
        },
        {"filter": common_pb2.Filter(predicates=[predicate(field="x", operator=common_pb2.FILTER_OPERATOR_GTE)])},
        {},
    ]
    request = pb.GetPopularityRequest(
        queries=[pb.GetPopularityRequest.Query(**{"tenant": TENANT, **query}) for query in queries]
    )
    results = (await call("GetPopularity", request)).results
    fields = [result.error.field for result in results]
    assert fields == ["tenant", "limit", "item_type", "window", "filter", "filter", "x", ""]
    assert keys(results[-1].item_keys) == [key("a")]
    assert await refused(call("GetPopularity", pb.GetPopularityRequest())) == "queries"
    assert (
        await refused(call("GetPopularity", pb.GetPopularityRequest(queries=[request.queries[-1]] * 65))) == "queries"
    )


async def test_exports_stream_everything_in_pages(call: Client) -> None:
    await call.put(*(item(f"{n}") for n in range(5)))
    deeds = [deed(f"{n}", f"{n % 5}", user_id=f"u{n % 3}", occurred_at_ms=NOW + n) for n in range(7)]
    await call.append(*deeds)
    pages = await call.stream("ExportItems", pb.ExportItemsRequest(tenant=TENANT, page_size=2))
    assert [[each.item_id for each in page.items] for page in pages] == [["0", "1"], ["2", "3"], ["4"]]
    pages = await call.stream("ExportUsers", pb.ExportUsersRequest(tenant=TENANT, page_size=2))
    users = [(user.user_id, user.interaction_count) for page in pages for user in page.users]
    assert users == [("u0", 3), ("u1", 2), ("u2", 2)]
    assert len(pages) == 2
    pages = await call.stream("ExportInteractions", pb.ExportInteractionsRequest(tenant=TENANT, page_size=3))
    assert [len(keys(page.item_keys)) for page in pages] == [3, 3, 1]
    rows = [
        row
        for page in pages
        for row in zip(
            keys(page.user_keys), keys(page.times_ms), keys(page.item_keys), floats(page.weights), strict=True
        )
    ]
    assert rows == sorted((user_key(TENANT, f"u{n % 3}"), NOW + n, key(f"{n % 5}"), 1.0) for n in range(7))
    for method, request in {
        "ExportItems": pb.ExportItemsRequest,
        "ExportUsers": pb.ExportUsersRequest,
        "ExportInteractions": pb.ExportInteractionsRequest,
    }.items():
        assert await call.stream(method, request(tenant="nobody")) == []
        assert await refused(call.stream(method, request(tenant=TENANT, page_size=200_001))) == "page_size"
        assert await refused(call.stream(method, request())) == "tenant"


async def test_a_user_can_have_everything_and_be_forgotten(call: Client) -> None:
    deeds = [deed(f"{n}", f"{n}", occurred_at_ms=NOW - 1 + n) for n in range(3)]
    await call.append(*deeds, deed("b", user_id="bob"))
    pages = await call.stream("ExportUser", pb.ExportUserRequest(tenant=TENANT, user_id="ann"))
    assert [each for page in pages for each in page.interactions] == deeds
    erase = pb.EraseUserRequest(tenant=TENANT, user_id="ann", occurred_at_ms=NOW)
    assert (await call("EraseUser", erase)).deleted_interactions == 2
    assert (await call("EraseUser", erase)).deleted_interactions == 0
    assert [result.applied for result in await call.append(*deeds)] == [False, False, False]
    pages = await call.stream("ExportUser", pb.ExportUserRequest(tenant=TENANT, user_id="ann"))
    assert [each for page in pages for each in page.interactions] == deeds[2:]
    assert await call.stream("ExportUser", pb.ExportUserRequest(tenant=TENANT, user_id="nobody")) == []
    future = pb.EraseUserRequest(tenant=TENANT, user_id="ann", occurred_at_ms=NOW + HOUR)
    assert await refused(call("EraseUser", future)) == "occurred_at_ms"


async def test_a_long_export_does_not_keep_others_waiting(call: Client) -> None:
    for start in range(0, 20_000, 5_000):
        await call.append(*(deed(f"{n}", f"{n % 90}", user_id=f"u{n % 900}") for n in range(start, start + 5_000)))
    pages = call._channel.stream(
        call.stub.ExportInteractions, pb.ExportInteractionsRequest(tenant=TENANT, page_size=1_000), timeout_s=30
    )
    rows = 0
    async for page in pages:
        rows += len(page.item_keys) // 8
        # Both answer while the export is open: no read transaction holds a write up.
        await call.context("u1")
        await call.append(deed(f"while {rows}", user_id="u1"))
    assert rows >= 20_000


async def test_the_refusal_of_a_call_names_the_code(call: Client) -> None:
    with pytest.raises(ServiceError) as error:
        await call("EraseUser", pb.EraseUserRequest())
    assert error.value.code == "invalid_argument"
