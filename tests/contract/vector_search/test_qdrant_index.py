"""What only the adapter to a Qdrant server can do wrong, and that the test server does what a real one does."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import qdrant_client.common.client_exceptions
import qdrant_client.http.exceptions
from contract.vector_search.qdrant_support import TIMEOUT_S, memory_store, wire_store
from contract.vector_search.test_edge_index import clustered
from qdrant_client import AsyncQdrantClient, models
from servers.fleet import start_qdrant
from servers.qdrant.serving import WireServer
from servers.qdrant_server import QdrantServer
from structlog.testing import capture_logs

from servicekit.arrays import Floats
from servicekit.deadline import deadline_after
from servicekit.errors import (
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    ServiceError,
    StartupError,
    UnauthenticatedError,
    UnavailableError,
)
from servicekit.filters import Operator, Predicate
from vector_search.adapters.dense_stores import QdrantOptions, open_dense_store
from vector_search.adapters.exact_index import ExactVectorIndex
from vector_search.adapters.qdrant_collections import QdrantDenseStore, QdrantLayout
from vector_search.adapters.qdrant_connection import QdrantConnection, connect
from vector_search.adapters.qdrant_errors import BY_HTTP, BY_STATUS, NOT_ITS_PART, qdrant_errors
from vector_search.adapters.qdrant_index import QdrantVectorIndex
from vector_search.adapters.qdrant_payload import standing_indexes
from vector_search.adapters.qdrant_snapshots import QdrantSnapshots
from vector_search.domain.dense import Distance, Payload, Points, Space
from vector_search.domain.ports import Collection, name_collection
from vector_search.domain.recall import measure_recall

SPACE = Space(8, Distance.COSINE)
NAME = name_collection("use", 0)
VECTORS = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
INT8 = models.ScalarQuantization(scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, always_ram=True))
MANY = 3_000


def points(count: int, vectors: Floats = VECTORS) -> Points:
    return Points(np.arange(count), vectors[:count], [Payload({"genre": f"g{number % 5}"}) for number in range(count)])


def options(*, api_key: str = "") -> QdrantOptions:
    return QdrantOptions(
        api_key=api_key,
        rest_port=6333,
        prefix="test",
        timeout_s=5.0,
        shard_number=None,
        replication_factor=1,
        write_consistency_factor=1,
        write_ordering="medium",
    )


@pytest.fixture
async def store(qdrant: QdrantServer) -> AsyncIterator[QdrantDenseStore]:
    store = wire_store(qdrant.address, rest_port=qdrant.rest_port)
    yield store
    await store.close()


@pytest.fixture
async def client(qdrant: QdrantServer) -> AsyncIterator[AsyncQdrantClient]:
    """To reach around the adapter."""
    client = connect(f"qdrant://{qdrant.address}", api_key="", rest_port=qdrant.rest_port, timeout_s=20.0)
    yield client
    await client.close()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[WireServer]:
    """A server that asks for a key."""
    server = WireServer(tmp_path / "guarded", host="127.0.0.1", port=0, rest_port=0, api_key="right")
    server.start()
    yield server
    server.stop()


# --- errors ---


async def failing(code: grpc.StatusCode) -> None:
    raise grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details="so it is")


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda code: code.name)
async def test_every_status_is_an_error_of_ours(code: grpc.StatusCode) -> None:
    with (
        pytest.raises(BY_STATUS[code], match=f"doing it: Qdrant says {code.name}: so it is"),
        qdrant_errors("doing it"),
    ):
        await failing(code)


def test_every_exception_of_the_client_is_an_error_of_ours() -> None:
    samples: list[Exception] = [
        qdrant_client.common.client_exceptions.QdrantException("x"),
        qdrant_client.common.client_exceptions.ResourceExhaustedResponse("x", 1),
        qdrant_client.http.exceptions.ApiException("x"),
        qdrant_client.http.exceptions.ResponseHandlingException(httpx.ConnectError("x")),
        qdrant_client.http.exceptions.UnexpectedResponse(404, "x", b"", httpx.Headers()),
    ]
    modules = (qdrant_client.common.client_exceptions, qdrant_client.http.exceptions)
    raised = {
        kind
        for module in modules
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, Exception) and kind.__module__ == module.__name__
    }
    assert {type(sample) for sample in samples} == raised
    for sample in [*samples, TimeoutError(), grpc.aio.UsageError("closed"), ValueError("odd"), KeyError("odd")]:
        with pytest.raises(ServiceError), qdrant_errors("doing it"):
            raise sample
    with pytest.raises(NotFoundError), qdrant_errors("doing it"):
        raise ValueError("Collection x not found")
    with pytest.raises(TypeError), qdrant_errors("doing it"):
        raise TypeError


def test_every_http_status_is_an_error_of_ours() -> None:
    for status in (400, 401, 403, 404, 409, 422, 429, 500, 503, None):
        unexpected = qdrant_client.http.exceptions.UnexpectedResponse(status, "x", b"why", httpx.Headers())
        kind = BY_HTTP.get(status or 0, UnavailableError)
        with pytest.raises(kind, match="why"), qdrant_errors("doing it"):
            raise unexpected
    assert grpc.StatusCode.DEADLINE_EXCEEDED in NOT_ITS_PART
    assert grpc.StatusCode.NOT_FOUND not in NOT_ITS_PART


# --- a real server's ways, which the test server shares ---


async def test_a_server_finds_first_what_is_not_finite_so_we_never_send_it(
    store: QdrantDenseStore, client: AsyncQdrantClient
) -> None:
    index = await store.create("acme", NAME, SPACE)
    await index.upsert(points(20))
    assert isinstance(index, QdrantVectorIndex)
    await client.upsert(
        index.collection, [models.PointStruct(id=77, vector=[float("nan")] * 8, payload={"tenant": "acme"})]
    )
    found = (await client.query_points(index.collection, VECTORS[3].tolist(), limit=2)).points
    assert [each.id for each in found] == [77, 3]
    with pytest.raises(InvalidArgumentError):
        await index.upsert(Points(np.array([78]), np.full((1, 8), np.inf, np.float32), [Payload()]))


async def test_a_server_refuses_what_a_real_one_refuses(store: QdrantDenseStore, client: AsyncQdrantClient) -> None:
    index = await store.create("acme", NAME, SPACE)
    assert isinstance(index, QdrantVectorIndex)
    await index.upsert(points(3))
    name = index.collection
    good, bad = (models.PointStruct(id=50 + size, vector=[1.0] * size) for size in (8, 7))

    async def refused(work: object) -> grpc.StatusCode:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await work  # type: ignore[misc] # each test's own
        code: grpc.StatusCode = caught.value.code()
        return code

    wrong, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    assert await refused(client.upsert(name, [good, bad])) is wrong
    assert await client.retrieve(name, [58, 57]) == []
    assert await refused(client.query_points(name, [1.0] * 8, limit=0)) is wrong
    assert await refused(client.query_points(name, 999)) is missing
    assert await refused(client.set_payload(name, {"a": 1}, points=[999])) is missing
    assert await refused(client.update_vectors(name, [models.PointVectors(id=999, vector=[1.0] * 8)])) is missing
    assert await refused(client.count("nobody")) is missing
    operations = [
        models.UpsertOperation(upsert=models.PointsList(points=[good])),
        models.UpsertOperation(upsert=models.PointsList(points=[bad])),
    ]
    assert await refused(client.batch_update_points(name, operations)) is wrong
    assert len(await client.retrieve(name, [58])) == 1, "what came before the bad one stays"
    again = client.create_collection(name, models.VectorParams(size=8, distance=models.Distance.COSINE))
    assert await refused(again) is grpc.StatusCode.ALREADY_EXISTS
    batch = await client.query_batch_points(name, [models.QueryRequest(query=[1.0] * 8, limit=1)])
    assert batch[0].points[0].payload in (None, {}), "a batch answers no payload unless told to"
    (source,) = (await client.query_points(name, 1, limit=1)).points
    assert source.id != 1


async def test_a_failed_switch_of_aliases_is_not_atomic_so_we_never_delete_first(
    store: QdrantDenseStore, client: AsyncQdrantClient
) -> None:
    await store.create("acme", NAME, SPACE)
    await store.assign("acme", [Collection(NAME, "use")])
    (alias,) = [each.alias_name for each in (await client.get_aliases()).aliases if store._prefix in each.alias_name]
    delete = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
    nowhere = models.CreateAlias(collection_name="nowhere", alias_name=alias)
    with pytest.raises(grpc.aio.AioRpcError):
        await client.update_collection_aliases([delete, models.CreateAliasOperation(create_alias=nowhere)])
    assert list(await store.current("acme")) == [], "that is what a real one does"
    await store.assign("acme", [Collection(NAME, "use")])
    with pytest.raises(NotFoundError):
        await store.assign("acme", [Collection(name_collection("use", 7), "use")])
    assert list(await store.current("acme")) == [Collection(NAME, "use")]


async def test_int8_is_scored_again(store: QdrantDenseStore, client: AsyncQdrantClient) -> None:
    index = await store.create("acme", NAME, SPACE)
    assert isinstance(index, QdrantVectorIndex)
    await index.upsert(points(50))
    (exact,) = await index.search(VECTORS[:1], limit=50, exact=True)
    index._counted = (1_000_000, float("inf"))  # as if there were so many that the graph is asked
    (found,) = await index.search(VECTORS[:1], limit=50)
    assert found.scores == pytest.approx(exact.scores, abs=1e-6)
    coarse = (await client.query_points(index.collection, VECTORS[0].tolist(), limit=50)).points
    assert np.abs(np.array([each.score for each in coarse]) - exact.scores).max() > 1e-4


async def test_collections_are_made_as_the_settings_say(store: QdrantDenseStore, client: AsyncQdrantClient) -> None:
    layout = QdrantLayout(shard_number=3, replication_factor=2, write_consistency_factor=2)
    store._layout = layout
    index = await store.create("acme", NAME, SPACE)
    assert isinstance(index, QdrantVectorIndex)
    await index.upsert(points(3))
    info = await client.get_collection(index.collection)
    params = info.config.params
    assert (params.shard_number, params.replication_factor, params.write_consistency_factor) == (3, 2, 2)
    assert isinstance(params.vectors, models.VectorParams)
    assert params.vectors.on_disk
    assert info.config.quantization_config == INT8
    assert next(iter(standing_indexes())) == "tenant", "it is made first"
    assert info.payload_schema["tenant"].params == standing_indexes()["tenant"]
    assert info.payload_schema["sample"].params == standing_indexes()["sample"]
    assert {path: index.data_type for path, index in info.payload_schema.items()} == {
        "tenant": models.PayloadSchemaType.KEYWORD,
        "attributes.names": models.PayloadSchemaType.KEYWORD,
        "attributes.t_genre": models.PayloadSchemaType.KEYWORD,
        "sample": models.PayloadSchemaType.FLOAT,
    }


async def test_an_index_that_is_refused_is_no_error_and_is_not_asked_for_again(
    store: QdrantDenseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = await store.create("acme", NAME, SPACE)
    asked = []

    async def refuse(_client: object, _collection: str, path: str, *_: object, **__: object) -> None:
        asked.append(path)
        await failing(grpc.StatusCode.INVALID_ARGUMENT)  # as strict mode does beyond max_payload_index_count

    monkeypatch.setattr(AsyncQdrantClient, "create_payload_index", refuse)
    again = await store.create("other", NAME, SPACE)
    with capture_logs() as logs:
        for each, first in ((index, 0), (index, 0), (again, 10)):
            payloads = [Payload({"genre": "a", "year": 1.0}), Payload({"genre": "b"})]
            await each.upsert(Points(np.arange(first, first + 2), VECTORS[:2], payloads))
        await index.set_attributes(np.array([1]), [{"genre": "a", "country": "x"}], [1])
    assert sorted(asked) == ["attributes.n_year", "attributes.t_country", "attributes.t_genre"]
    assert [each["event"] for each in logs] == ["an attribute cannot be indexed, and others may not be"]
    (found,) = await index.search(VECTORS[:1], limit=5, conditions=(Predicate("genre", Operator.EQ, ("a",)),))
    assert sorted(found.keys.tolist()) == [0, 1]


async def test_a_build_ends_when_the_server_says_that_nothing_is_left_to_index(
    store: QdrantDenseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = models.CollectionStatus
    left = [status.GREY, status.YELLOW, status.GREY, status.GREEN]
    describe = AsyncQdrantClient.get_collection

    async def get_collection(self: AsyncQdrantClient, *args: Any, **kwargs: Any) -> models.CollectionInfo:
        info = await describe(self, *args, **kwargs)
        return info.model_copy(update={"status": left.pop(0)})

    await store.create("acme", NAME, SPACE)
    monkeypatch.setattr(AsyncQdrantClient, "get_collection", get_collection)
    await store._optimised(store._target("acme", NAME))
    assert left == []
    left.append(status.RED)
    with pytest.raises(UnavailableError, match="has failed"):
        await store._optimised(store._target("acme", NAME))


# --- search ---


@pytest.mark.parametrize("distance", list(Distance))
async def test_the_search_finds_what_exact_search_finds(store: QdrantDenseStore, distance: Distance) -> None:
    space = Space(32, distance)
    vectors = clustered(MANY, 32)
    if distance is Distance.DOT:
        vectors *= np.random.default_rng(1).lognormal(sigma=0.7, size=(MANY, 1)).astype(np.float32)
    index, truth = await store.create("acme", NAME, space), ExactVectorIndex(space)
    for each in (index, truth):
        await each.upsert(points(MANY, vectors))
    for found, right in zip(
        await index.search(vectors[:20], limit=20), await truth.search(vectors[:20], limit=20), strict=True
    ):
        assert found.keys.tolist() == right.keys.tolist()
    report = await measure_recall(index, samples=20)
    assert min(each.recall for each in report.measurements) >= 0.99


# --- time ---


async def test_a_call_ends_within_its_deadline_even_when_the_server_hangs(tmp_path: Path) -> None:
    with start_qdrant(tmp_path) as server:
        store = wire_store(server.address)
        index = await store.create("acme", NAME, SPACE)
        await index.upsert(points(3))
        server.pause()
        works: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: index.search(VECTORS[:1], limit=1),
            lambda: index.upsert(points(3)),
            index.count,
        )
        for work in works:
            async with asyncio.timeout(TIMEOUT_S / 2):  # without the deadline it would take TIMEOUT_S
                with pytest.raises(UnavailableError), deadline_after(0.1):
                    await work()
        with pytest.raises(UnavailableError, match="too little time"), deadline_after(0.005):
            await index.count()
        server.resume()
        await store.close()


# --- start ---


async def opened(address: str, **changes: str) -> None:
    url = f"qdrant://{address}"
    store = await open_dense_store(url, folder=Path(), qdrant=options(**changes), build_timeout_s=5.0, wait_s=0.0)
    await store.close()


async def test_a_wrong_key_stops_the_start(guarded: WireServer) -> None:
    address = f"127.0.0.1:{guarded.port}"
    for key in ("", "wrong"):
        with pytest.raises(StartupError, match=r"refuses the key: set QDRANT_API_KEY"):
            await opened(address, api_key=key)
    await opened(address, api_key="right")
    store = wire_store(address, api_key="wrong")
    with pytest.raises(UnauthenticatedError):
        await store.create("acme", NAME, SPACE)
    await store.close()


async def test_what_is_no_server_stops_the_start(unused_tcp_port: int) -> None:
    with pytest.raises(StartupError, match=r"no Qdrant answers at qdrant://127.0.0.1:\d+ within 0 s: start it"):
        await opened(f"127.0.0.1:{unused_tcp_port}")
    for url in ("http://127.0.0.1:6334", "qdrant://", "qdrant://host/path"):
        with pytest.raises(StartupError, match="is not qdrant://HOST:PORT"):
            await open_dense_store(url, folder=Path(), qdrant=options(), build_timeout_s=5.0, wait_s=0.0)


async def test_a_server_that_comes_late_is_waited_for(tmp_path: Path, unused_tcp_port: int) -> None:
    url = f"qdrant://127.0.0.1:{unused_tcp_port}"
    opening = asyncio.create_task(
        open_dense_store(url, folder=Path(), qdrant=options(), build_timeout_s=5.0, wait_s=60.0)
    )
    with await asyncio.to_thread(start_qdrant, tmp_path, unused_tcp_port):
        store = await opening
        assert await store.survey() == {}
        await store.close()


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
async def test_an_alias_that_points_nowhere_stops_the_start() -> None:
    client = AsyncQdrantClient(":memory:")
    store = memory_store(client)
    await store.create("acme", NAME, SPACE)
    await store.assign("acme", [Collection(NAME, "use")])
    await store.check()
    client._client.aliases["somebody.else"] = "nowhere"  # type: ignore[attr-defined] # no caller can make one
    await store.check()
    client._client.aliases["test.acme.content.use"] = "nowhere"  # type: ignore[attr-defined] # see above
    with pytest.raises(StartupError, match=r"alias test.acme.content.use points to the collection nowhere, which does"):
        await store.check()
    await store.close()


async def test_a_name_that_is_too_long_is_refused(store: QdrantDenseStore) -> None:
    with pytest.raises(InvalidArgumentError, match="too long for Qdrant"):
        await store.create("é" * 64, name_collection("use", 1), SPACE)


# --- snapshots ---


async def test_a_snapshot_brings_everything_back(qdrant: QdrantServer, store: QdrantDenseStore) -> None:
    tenant = "acme/eu"
    index = await store.create(tenant, name_collection("use/1.2", 3), SPACE)
    await index.upsert(points(20))
    client = connect(f"qdrant://{qdrant.address}", api_key="", rest_port=qdrant.rest_port, timeout_s=60.0)
    connection = QdrantConnection(client, timeout_s=60.0)
    url = f"http://127.0.0.1:{qdrant.rest_port}"
    snapshots = QdrantSnapshots(connection, prefix=store._prefix, rest_url=url, api_key="")
    (collection,) = await snapshots.collections()
    made = await snapshots.create(collection)
    assert made.size > 0
    assert list(await snapshots.list(collection)) == [made]
    await index.delete(np.arange(10))
    await index.upsert(Points(np.array([100]), VECTORS[:1], [Payload()]))
    assert await index.count() == 11
    await snapshots.restore(collection, made.name)
    assert await index.count() == 20
    (found,) = await index.search(VECTORS[3:4], limit=1)
    assert found.keys.tolist() == [3]
    with pytest.raises(NotFoundError):
        await snapshots.restore(collection, "nobody.tar")
    await snapshots.delete(collection, made.name)
    assert list(await snapshots.list(collection)) == []
    await connection.close()


def test_the_table_of_statuses_has_no_fault_of_the_caller_where_the_server_failed() -> None:
    assert BY_STATUS[grpc.StatusCode.DATA_LOSS] is InternalError
    assert BY_STATUS[grpc.StatusCode.RESOURCE_EXHAUSTED] is ResourceExhaustedError
    assert {BY_STATUS[status] for status in NOT_ITS_PART} == {UnavailableError}
