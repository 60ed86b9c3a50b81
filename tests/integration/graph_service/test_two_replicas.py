"""Two processes of graph_service on one Neo4j and one log: what one applies, both answer."""

import asyncio
import logging
import os
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from servers.neo4j_server import USER, Neo4jServer

from graph_service.adapters.neo4j.client import Neo4jClient
from recommendation.common.v1 import common_pb2
from recommendation.events.v1 import events_pb2
from recommendation.graph_service.v1 import graph_service_pb2 as pb
from recommendation.graph_service.v1 import graph_service_pb2_grpc as pb_grpc
from servicekit.arrays import pack_floats, pack_keys, unpack_keys
from servicekit.clock import SystemClock
from servicekit.errors import ServiceError
from servicekit.eventlog.port import NewRecord
from servicekit.eventlog.sqlite import SqliteEventLog
from servicekit.eventlog.topics import CONTENT_CHANGED, USER_INTERACTIONS, default_specs
from servicekit.identity import item_key
from servicekit.rpc.client import RpcChannel
from servicekit.testing import eventually, free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(500)]

STARTS_S = 200.0
CALL_S = 20.0
LEARNS_S = 30.0


class Replica:
    """A process and a channel to it."""

    def __init__(self, number: int, settings: dict[str, str]) -> None:
        self.port = free_port()
        self.channel = RpcChannel(f"127.0.0.1:{self.port}", name=f"graph_service-{number}")
        self.stub = pb_grpc.GraphServiceStub(self.channel.channel)
        self._environment = (
            os.environ
            | settings
            | {
                "GRPC_PORT": str(self.port),
                "METRICS_PORT": "0",
                "CONSUMER_MEMBER": f"replica-{number}",
                "OMP_NUM_THREADS": "1",
            }
        )
        self._process: Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "graph_service", env=self._environment, stderr=DEVNULL
        )
        await eventually(self.is_ready, timeout_s=STARTS_S, interval_s=0.1)

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    async def close(self) -> None:
        await self.kill()
        await self.channel.close()

    async def is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, "it ended by itself"
        health: Any = health_pb2_grpc.HealthStub(self.channel.channel)
        try:
            answer = await self.channel.unary(health.Check, health_pb2.HealthCheckRequest(), timeout_s=2.0)
        except ServiceError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def related(self, name: str) -> set[int]:
        query = pb.RelatedItemsRequest.Query(tenant="t", item_key=key(name))
        request = pb.RelatedItemsRequest(queries=[query])
        (answer,) = (await self.channel.unary(self.stub.RelatedItems, request, timeout_s=CALL_S)).results
        assert not answer.error.code, answer.error
        return set(unpack_keys(answer.item_keys, field="keys").tolist())

    async def candidates(self, *names: str) -> set[int]:
        query = pb.ExpandUsersRequest.Query(
            tenant="t",
            history_keys=pack_keys([key(name) for name in names]),
            history_weights=pack_floats([1.0] * len(names)),
        )
        request = pb.ExpandUsersRequest(queries=[query])
        (answer,) = (await self.channel.unary(self.stub.ExpandUsers, request, timeout_s=CALL_S)).results
        assert not answer.error.code, answer.error
        return set(unpack_keys(answer.item_keys, field="keys").tolist())

    async def describe(self) -> pb.DescribeGraphResponse:
        return await self.channel.unary(self.stub.DescribeGraph, pb.DescribeGraphRequest(), timeout_s=CALL_S)


def key(name: str) -> int:
    return item_key("t", "film", name)


def now_ms() -> int:
    return SystemClock().now_ms()


def described(name: str, *genres: str, hidden: bool = False) -> NewRecord:
    item = common_pb2.Item(tenant="t", item_type="film", item_id=name, updated_at_ms=now_ms(), hidden=hidden)
    item.attributes["genres"].texts.values.extend(genres)
    event = events_pb2.ContentChanged(event_id=f"{name}{now_ms()}", occurred_at_ms=now_ms(), put=item)
    return NewRecord(CONTENT_CHANGED, f"t/film/{name}", event.SerializeToString())


def deleted(name: str) -> NewRecord:
    gone = common_pb2.ItemRef(tenant="t", item_type="film", item_id=name)
    event = events_pb2.ContentChanged(event_id=f"-{name}", occurred_at_ms=now_ms(), deleted=gone)
    return NewRecord(CONTENT_CHANGED, f"t/film/{name}", event.SerializeToString())


def viewed(user: str, name: str) -> NewRecord:
    event = events_pb2.InteractionRecorded(
        event_id=f"{user}.{name}.{now_ms()}",
        occurred_at_ms=now_ms(),
        tenant="t",
        user_id=user,
        item_type="film",
        item_id=name,
        interaction_type="view",
    )
    return NewRecord(USER_INTERACTIONS, f"t/{user}", event.SerializeToString())


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteEventLog]:
    log = SqliteEventLog(tmp_path / "log", sync="normal")
    await log.ensure_topics(default_specs())
    yield log
    await log.close()


@pytest.fixture
async def replicas(
    client: Neo4jClient,  # noqa: ARG001 - it empties the database
    neo4j_server: Neo4jServer,
    log: SqliteEventLog,
    tmp_path: Path,
) -> AsyncIterator[list[Replica]]:
    # A bit of everything, so that the server has planned every query before a test begins.
    everything = [*(viewed("eve", name) for name in "yz"), described("z"), deleted("z")]
    await log.producer().append([*everything, *(described(name, "Drama") for name in "abc")])
    settings = {
        "DATA_DIR": str(tmp_path),
        "EVENT_LOG_URL": f"sqlite://{tmp_path / 'log'}",
        "GRAPH_STORE_URL": neo4j_server.address,
        "NEO4J_USERNAME": USER,
        "NEO4J_PASSWORD": neo4j_server.password,
        "FILL_TIMEOUT_S": "20",
        "LIST_MIN_AGE_S": "0",
        "REBUILT_LOOK_S": "0.2",
        "READY_WAIT_S": "100",
    }
    async with AsyncExitStack() as opened:
        started = [Replica(number, settings) for number in range(2)]
        for replica in started:
            opened.push_async_callback(replica.close)
            await replica.start()
        yield started


async def learn(replicas: list[Replica], name: str, expected: set[str]) -> float:
    """Wait until every replica's list of an item is as expected, and give how long the last one took."""
    began = monotonic()
    for replica in replicas:

        async def is_so(replica: Replica = replica) -> bool:
            return await replica.related(name) == {key(other) for other in expected}

        await eventually(is_so, timeout_s=LEARNS_S, interval_s=0.02)
    return monotonic() - began


async def test_both_replicas_answer_alike_after_every_change(replicas: list[Replica], log: SqliteEventLog) -> None:
    producer = log.producer()
    took_s = [await learn(replicas, "a", {"b", "c"})]
    for told, expected in (
        ([described("d", "Drama")], {"b", "c", "d"}),
        ([described("b", "Drama", hidden=True)], {"c", "d"}),
        ([deleted("c")], {"d"}),
        ([described("a", "Drama", "Noir"), described("e", "Noir")], {"d", "e"}),
        ([viewed(user, name) for user in ("ann", "bob") for name in ("a", "f")] + [described("f")], {"d", "e", "f"}),
    ):
        await producer.append(told)
        took_s.append(await learn(replicas, "a", expected))
    logging.getLogger(__name__).info("both knew after %s s", [round(each, 3) for each in took_s[1:]])
    assert await replicas[0].candidates("a") == await replicas[1].candidates("a") != set()


async def test_one_killed_the_other_takes_over_and_the_new_one_knows_everything(
    replicas: list[Replica], log: SqliteEventLog
) -> None:
    producer = log.producer()
    await learn(replicas, "a", {"b", "c"})
    await replicas[0].kill()
    await producer.append([described("d", "Drama"), deleted("b")])
    await learn(replicas[1:], "a", {"c", "d"})
    await replicas[0].start()
    await learn(replicas, "a", {"c", "d"})


async def test_a_rebuild_through_one_is_noticed_by_the_other(
    replicas: list[Replica], client: Neo4jClient, log: SqliteEventLog
) -> None:
    await learn(replicas, "a", {"b", "c"})
    # The graph is damaged behind the services' backs, and only what the log tells mends it.
    await client.write(
        lambda transaction: transaction.execute("MATCH (item:Item) SET item.nodes = null, item.users = 0")
    )
    before = await replicas[1].describe()
    request = pb.RebuildGraphRequest(source=pb.REBUILD_SOURCE_LOG)
    told = [each async for each in replicas[0].channel.stream(replicas[0].stub.RebuildGraph, request, timeout_s=100.0)]
    assert told[-1].phase == pb.REBUILD_PHASE_SERVING
    assert told[-1].rebuilt.items == 3
    assert (await replicas[1].describe()).serving != before.serving
    await log.producer().append([described("d", "Drama")])
    await learn(replicas, "a", {"b", "c", "d"})
    assert (await replicas[1].describe()).counts.items == 4


async def test_killed_in_the_middle_of_a_rebuild_the_old_graph_serves_and_the_next_one_is_clean(
    replicas: list[Replica], log: SqliteEventLog
) -> None:
    await log.producer().append([described(f"x{number}", "Noir") for number in range(12_000)])
    await learn(replicas, "a", {"b", "c"})

    async def is_there() -> bool:
        return (await replicas[1].describe()).counts.items == 12_003

    await eventually(is_there, timeout_s=200.0, interval_s=0.5)
    before = await replicas[1].describe()
    request = pb.RebuildGraphRequest(source=pb.REBUILD_SOURCE_LOG)

    async def rebuild_until_killed() -> None:
        async for told in replicas[0].channel.stream(replicas[0].stub.RebuildGraph, request, timeout_s=200.0):
            if told.written:
                await replicas[0].kill()

    with pytest.raises(ServiceError):
        await rebuild_until_killed()
    assert await replicas[1].describe() == before
    assert await replicas[1].related("a") == {key("b"), key("c")}
    last = [each async for each in replicas[1].channel.stream(replicas[1].stub.RebuildGraph, request, timeout_s=300.0)][
        -1
    ]
    assert last.phase == pb.REBUILD_PHASE_SERVING
    assert last.rebuilt == last.serving == before.counts
    assert last.agreeing == last.sampled
    assert (await replicas[1].describe()).counts == before.counts
