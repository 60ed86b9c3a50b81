"""Several replicas on one Qdrant: what is done through one counts for all, and nothing is built twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import grpc
import numpy as np
import pytest
from contract.vector_search.qdrant_support import wire_store
from servers.fleet import start_qdrant
from servers.qdrant_server import QdrantServer

from recommendation.vector_search.v1 import vector_search_pb2 as pb
from servicekit.arrays import Floats, pack_floats, pack_keys
from servicekit.errors import StartupError
from servicekit.eventlog.memory import MemoryEventLog
from servicekit.metrics import CIRCUIT_OPENED
from servicekit.testing import eventually
from vector_search.domain.dense import Distance, Space
from vector_search.domain.ports import Collection, Role, name_collection
from vector_search.testing import COUNT, TENANT, V1, V2, Replica, activate, draft, film, key, running, user, vectors

FILMS = [film(number) for number in range(COUNT)]
KEYS = [key(each.item_id) for each in FILMS]


@pytest.fixture
async def pair(tmp_path: Path, log: MemoryEventLog, qdrant: QdrantServer) -> AsyncIterator[tuple[Replica, Replica]]:
    """Two replicas on one Qdrant, with an active version whose vectors nobody has stored."""
    draft().write(tmp_path / "models", active=True)
    prefix = uuid4().hex
    async with AsyncExitStack() as opened:
        replicas = []
        for _ in range(2):
            store = wire_store(qdrant.address, prefix=prefix)
            opened.push_async_callback(store.close)
            replicas.append(await opened.enter_async_context(running(Replica(tmp_path / "models", log, store))))
        yield replicas[0], replicas[1]


async def nearest(replica: Replica, vector: Floats, limit: int = 10) -> list[int]:
    query = pb.SearchByVectorRequest.Query(tenant=TENANT, vector=pack_floats(vector), limit=limit)
    (result,) = (await replica.stub.SearchByVector(pb.SearchByVectorRequest(queries=[query]))).results
    assert not result.HasField("error"), result.error
    found: list[int] = np.frombuffer(result.item_keys, np.int64).tolist()
    return found


async def count(replica: Replica) -> int:
    return int((await replica.describe()).embedded_items)


async def test_a_write_through_one_is_read_through_the_other(pair: tuple[Replica, Replica]) -> None:
    one, other = pair
    await one.upsert(FILMS, vectors())

    async def is_found(number: int) -> bool:
        return (await nearest(other, vectors()[number]))[:1] == [KEYS[number]]

    await eventually(lambda: is_found(7))
    fresh = film(0)
    fresh.item_id = "fresh"
    await other.upsert([fresh], -vectors()[:1])
    assert (await nearest(one, -vectors()[0]))[0] == key("fresh")
    await one.stub.DeleteItems(pb.DeleteItemsRequest(tenant=TENANT, item_keys=pack_keys([key("fresh")])))
    assert key("fresh") not in await nearest(other, -vectors()[0], limit=100)
    assert await count(one) == await count(other) == COUNT


async def test_all_may_begin_at_the_same_time(pair: tuple[Replica, Replica]) -> None:
    one, other = pair
    await asyncio.gather(one.upsert(FILMS[:20], vectors()[:20]), other.upsert(FILMS[20:], vectors()[20:]))
    assert await count(one) == await count(other) == COUNT
    assert list(await one.dense.current(TENANT)) == [Collection(name_collection("use", 0), "use")]


async def test_lost_vectors_are_restored_by_all_at_once(pair: tuple[Replica, Replica]) -> None:
    await asyncio.gather(*(each.service.versions.restore_content() for each in pair))
    assert [await count(each) for each in pair] == [COUNT, COUNT]
    assert len(await pair[0].dense.names(TENANT)) == 1
    await pair[0].service.content.delete(TENANT, np.array(KEYS[:15], np.int64))
    await asyncio.gather(*(each.service.versions.restore_content() for each in pair))
    assert [await count(each) for each in pair] == [COUNT, COUNT]


async def test_an_activation_reaches_all_and_builds_once(pair: tuple[Replica, Replica]) -> None:
    one, other = pair
    await one.upsert(FILMS, vectors())
    draft(V2, vectors=vectors()[:, :8], encoder="bigger").write(one.models)
    assert (await one.activate(V2)).recall_at_10 == 1.0
    activate(one.models, TENANT, V2)
    await one.publish(V2)

    async def serves() -> bool:
        *_, result = await other.candidates([KEYS[1]])
        return result.model_version == V2

    await eventually(serves)
    await eventually(lambda: answers_alike(one, other))
    assert (await nearest(other, vectors()[3, :8]))[0] == KEYS[3]
    both = await asyncio.gather(one.activate(V1), other.activate(V1))
    assert {each.previous_version for each in both} == {V2}
    assert (await nearest(other, vectors()[3]))[0] == KEYS[3]


async def answers_alike(one: Replica, other: Replica) -> bool:
    answers = [await each.candidates([KEYS[5]], limit=30) for each in (one, other)]
    return answers[0][3] == answers[1][3] and await count(one) == await count(other)


async def test_a_rebuild_may_go_through_any_replica(pair: tuple[Replica, Replica]) -> None:
    one, other = pair
    await one.upsert(FILMS, vectors())
    begun = await one.stub.BeginRebuild(pb.BeginRebuildRequest(tenant=TENANT, model_id="use", dimensions=16))
    embeddings = [
        pb.UpsertItemsRequest.Embedding(item=each, model_id="use", content_hash=f"hash-{each.item_id}")
        for each in FILMS
    ]
    for stub, part in ((other.stub, embeddings[:30]), (one.stub, embeddings[30:])):
        answer = await stub.UpsertItems(pb.UpsertItemsRequest(embeddings=part, collection=begun.collection))
        assert not any(result.HasField("error") for result in answer.results)
    fresh = film(0)
    fresh.item_id = "fresh"
    await other.upsert([fresh], -vectors()[:1])  # goes to both
    finished = await other.stub.FinishRebuild(
        pb.FinishRebuildRequest(tenant=TENANT, collection=begun.collection, least_points=COUNT)
    )
    assert (finished.points, finished.previous_points, finished.recall_at_10) == (COUNT + 1, COUNT + 1, 1.0)
    assert {each.role: each.name for each in await one.dense.current(TENANT)} == {
        Role.SERVING: begun.collection,
        Role.PREVIOUS: name_collection("use", 0),
    }
    for each in pair:
        assert (await nearest(each, -vectors()[0]))[0] == key("fresh")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await each.stub.FinishRebuild(pb.FinishRebuildRequest(tenant=TENANT, collection=begun.collection))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    await one.stub.RollBackRebuild(pb.RollBackRebuildRequest(tenant=TENANT))
    await eventually(lambda: answers_alike(one, other))
    assert (await nearest(other, -vectors()[0]))[0] == key("fresh")


async def test_vectors_of_another_size_stop_the_start(
    tmp_path: Path, log: MemoryEventLog, qdrant: QdrantServer
) -> None:
    draft().write(tmp_path / "models", active=True)
    store = wire_store(qdrant.address)
    await store.create(TENANT, name_collection("use", 0), Space(12, Distance.COSINE))
    await store.assign(TENANT, [Collection(name_collection("use", 0), "use")])
    with pytest.raises(StartupError, match="have 12 numbers, those of its active version have 16: activate"):
        await Replica(tmp_path / "models", log, store).service.start()
    await store.close()


@pytest.fixture
async def lone(tmp_path: Path, log: MemoryEventLog) -> AsyncIterator[tuple[Replica, QdrantServer]]:
    """A replica with vectors on a server that the test may harm."""
    draft().write(tmp_path / "models", active=True)
    with start_qdrant(tmp_path / "qdrant") as server:
        store = wire_store(server.address)
        async with running(Replica(tmp_path / "models", log, store)) as replica:
            await replica.upsert(FILMS, vectors())
            yield replica, server
        await store.close()


async def test_what_was_acknowledged_survives_a_killed_server(lone: tuple[Replica, QdrantServer]) -> None:
    replica, server = lone
    server.kill()
    keys, features, *_ = await replica.candidates([KEYS[10]], limit=30)
    assert keys, "the tables answer"
    assert not features[3].any()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await replica.upsert(FILMS[:1], vectors()[:1])
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    server.start()

    async def is_back() -> bool:
        try:
            return await count(replica) == COUNT
        except grpc.aio.AioRpcError:
            return False

    await eventually(is_back, timeout_s=20.0)
    assert (await nearest(replica, vectors()[3]))[0] == KEYS[3]
    assert {each.role for each in await replica.dense.current(TENANT)} == {Role.SERVING}


async def test_a_server_that_hangs_costs_a_request_its_share_only(lone: tuple[Replica, QdrantServer]) -> None:
    replica, server = lone
    opened = CIRCUIT_OPENED.labels("qdrant")._value.get()
    server.pause()
    try:
        for _ in range(8):  # the circuit opens on the way
            keys, nearest_share = await within(replica, 1.0)
            assert keys, "the tables answer"
            assert not nearest_share.any()
    finally:
        server.resume()
    assert CIRCUIT_OPENED.labels("qdrant")._value.get() == opened + 1

    async def is_back() -> bool:
        return bool((await within(replica, 5.0))[1].any())

    await eventually(is_back, timeout_s=20.0)


async def within(replica: Replica, seconds: float) -> tuple[list[int], Floats]:
    """Ask for candidates with so much time, and give what the dense index says of them."""
    request = pb.RetrieveCandidatesRequest(queries=[user([KEYS[10]], limit=30)])
    answer = await replica.stub.RetrieveCandidates(request, timeout=seconds)
    (result,) = answer.results
    keys = np.frombuffer(result.item_keys, np.int64).tolist()
    features = np.frombuffer(result.features, np.float32).reshape(len(answer.feature_names), len(keys))
    return keys, features[list(answer.feature_names).index("nearest")]
