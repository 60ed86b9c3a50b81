"""The service as a process on its embedded stores: it starts, is killed, and is itself again."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from servers.qdrant_server import QdrantServer

from recommendation.common.v1 import common_pb2
from recommendation.events.v1 import events_pb2
from recommendation.vector_search.v1 import vector_search_pb2 as pb
from recommendation.vector_search.v1 import vector_search_pb2_grpc as pb_grpc
from servicekit.arrays import pack_floats, pack_keys
from servicekit.eventlog.open import open_event_log
from servicekit.eventlog.port import NewRecord
from servicekit.eventlog.topics import CONTENT_CHANGED, default_specs
from servicekit.rpc.client import RpcChannel
from servicekit.testing import eventually, free_port
from vector_search.testing import COUNT, TENANT, V1, V2, activate, draft, film, key, user, vectors

ALL = [key(f"f{number}") for number in range(COUNT)]


@asynccontextmanager
async def process(
    data_dir: Path, **settings: str
) -> AsyncIterator[tuple[pb_grpc.VectorSearchServiceStub, asyncio.subprocess.Process]]:
    port = free_port()
    environment = {**os.environ, "GRPC_PORT": str(port), "METRICS_PORT": "0", "DATA_DIR": str(data_dir), **settings}
    child = await asyncio.create_subprocess_exec(sys.executable, "-m", "vector_search", env=environment)
    try:
        async with RpcChannel(f"127.0.0.1:{port}", name="vector_search") as channel:
            health: Any = health_pb2_grpc.HealthStub(channel.channel)  # the stubs lack its methods

            async def serves() -> bool:
                try:
                    answer = await channel.unary(health.Check, health_pb2.HealthCheckRequest(), timeout_s=1.0)
                except Exception as error:
                    raise RuntimeError(child.returncode) from error
                return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

            await eventually(serves, timeout_s=60.0, interval_s=0.05)
            yield pb_grpc.VectorSearchServiceStub(channel.channel), child
    finally:
        if child.returncode is None:
            child.terminate()
        await child.wait()


def embeddings(count: int = COUNT) -> list[pb.UpsertItemsRequest.Embedding]:
    matrix = vectors(count)
    return [
        pb.UpsertItemsRequest.Embedding(item=film(number), vector=matrix[number].tobytes(), model_id="use")
        for number in range(count)
    ]


async def candidates(stub: pb_grpc.VectorSearchServiceStub, number: int) -> tuple[str, list[int]]:
    answer = await stub.RetrieveCandidates(pb.RetrieveCandidatesRequest(queries=[user([ALL[number]], limit=10)]))
    (result,) = answer.results
    return result.model_version, np.frombuffer(result.item_keys, np.int64).tolist()


@pytest.mark.timeout(300)
async def test_a_killed_service_is_itself_again(tmp_path: Path) -> None:
    models = tmp_path / "models"
    log = open_event_log(f"sqlite:///{tmp_path / 'log'}")
    await log.ensure_topics(default_specs())
    async with process(tmp_path) as (stub, child):
        for _ in range(2):  # the same again changes nothing
            answer = await stub.UpsertItems(pb.UpsertItemsRequest(embeddings=embeddings(), neighbours=3))
            assert all(len(result.neighbour_keys) == 24 for result in answer.results)
        draft(V1).write(models)
        activated = await stub.ActivateVersion(pb.ActivateVersionRequest(tenant=TENANT, version=V1))
        assert activated.recall_at_10 == 1.0
        activate(models, TENANT, V1)
        gone = events_pb2.ContentChanged(event_id="e", occurred_at_ms=9_000)
        gone.deleted.tenant, gone.deleted.item_type, gone.deleted.item_id = TENANT, "film", "f12"
        await log.producer().append([NewRecord(CONTENT_CHANGED, f"{TENANT}/film/f12", gone.SerializeToString())])

        async def heard() -> bool:
            return ALL[12] not in (await candidates(stub, 10))[1]

        await eventually(heard)
        before = await candidates(stub, 10)
        assert before[0] == V1
        # Killed while a version is being built.
        draft(V2, count=COUNT).write(models)
        building = asyncio.ensure_future(stub.ActivateVersion(pb.ActivateVersionRequest(tenant=TENANT, version=V2)))
        await asyncio.sleep(0.2)
        child.send_signal(signal.SIGKILL)
        await child.wait()
        await asyncio.gather(building, return_exceptions=True)
    async with process(tmp_path) as (stub, child):
        assert await candidates(stub, 10) == before
        described = await stub.DescribeVersions(pb.DescribeVersionsRequest(tenant=TENANT))
        assert [each.version for each in described.versions] == [V1]
        assert described.embedded_items == COUNT
        await stub.ActivateVersion(pb.ActivateVersionRequest(tenant=TENANT, version=V2))
        assert (await candidates(stub, 10))[0] == V2
        child.terminate()
        assert await child.wait() == 0
    await log.close()


@pytest.mark.timeout(120)
async def test_what_was_acknowledged_before_a_kill_is_found_after_it(tmp_path: Path) -> None:
    matrix = vectors()
    async with process(tmp_path) as (stub, child):
        await stub.UpsertItems(pb.UpsertItemsRequest(embeddings=embeddings()))
        changed = pb.UpsertItemsRequest.Embedding(item=film(7, colour="blue"), model_id="use")
        await stub.UpsertItems(pb.UpsertItemsRequest(embeddings=[changed]))
        await stub.DeleteItems(pb.DeleteItemsRequest(tenant=TENANT, item_keys=pack_keys([ALL[9]])))
        child.send_signal(signal.SIGKILL)
        await child.wait()
    blue = common_pb2.Predicate(
        field="colour", operator=common_pb2.FILTER_OPERATOR_EQ, values=[common_pb2.AttributeValue(text="blue")]
    )
    queries = [pb.SearchByVectorRequest.Query(tenant=TENANT, vector=pack_floats(vector), limit=1) for vector in matrix]
    filtered = pb.SearchByVectorRequest.Query(
        tenant=TENANT, vector=pack_floats(matrix[0]), limit=10, filter=common_pb2.Filter(predicates=[blue])
    )
    async with process(tmp_path) as (stub, _):
        answer = await stub.SearchByVector(pb.SearchByVectorRequest(queries=[*queries, filtered]))
    found = [np.frombuffer(result.item_keys, np.int64).tolist() for result in answer.results]
    assert found.pop() == [ALL[7]]
    assert ALL[9] not in found.pop(9)
    assert found == [[each] for each in ALL if each != ALL[9]]


@pytest.mark.timeout(300)
async def test_a_service_killed_in_a_rebuild_serves_the_old_vectors(tmp_path: Path, qdrant: QdrantServer) -> None:
    settings = {"VECTOR_STORE_URL": f"qdrant://{qdrant.address}", "QDRANT_PREFIX": uuid4().hex}

    async def rebuild(stub: pb_grpc.VectorSearchServiceStub, count: int) -> str:
        """Begin, and fill in so many vectors."""
        begun = await stub.BeginRebuild(pb.BeginRebuildRequest(tenant=TENANT, model_id="use", dimensions=16))
        await stub.UpsertItems(pb.UpsertItemsRequest(embeddings=embeddings(count), collection=begun.collection))
        return begun.collection

    async def stored(stub: pb_grpc.VectorSearchServiceStub) -> int:
        return (await stub.DescribeVersions(pb.DescribeVersionsRequest(tenant=TENANT))).embedded_items

    async with process(tmp_path, **settings) as (stub, child):
        await stub.UpsertItems(pb.UpsertItemsRequest(embeddings=embeddings()))
        broken_off = await rebuild(stub, 10)
        child.send_signal(signal.SIGKILL)
        await child.wait()
    async with process(tmp_path, **settings) as (stub, child):
        assert await stored(stub) == COUNT
        collection = await rebuild(stub, COUNT)
        assert collection != broken_off
        finish = pb.FinishRebuildRequest(tenant=TENANT, collection=collection, least_points=COUNT)
        assert (await stub.FinishRebuild(finish)).previous_points == COUNT
        assert await stored(stub) == COUNT


async def test_a_wrong_address_ends_the_service_with_one_line(tmp_path: Path, unused_tcp_port: int) -> None:
    environment = {
        **os.environ,
        "GRPC_PORT": "0",
        "METRICS_PORT": "0",
        "DATA_DIR": str(tmp_path),
        "VECTOR_STORE_URL": f"qdrant://127.0.0.1:{unused_tcp_port}",
        "STORE_WAIT_S": "0",
    }
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "vector_search", env=environment, stderr=asyncio.subprocess.PIPE
    )
    _, told = await child.communicate()
    assert child.returncode == 2
    (line,) = [line for line in told.decode().splitlines() if "VECTOR_STORE_URL" in line]
    assert line.endswith("start it, or correct the address")
