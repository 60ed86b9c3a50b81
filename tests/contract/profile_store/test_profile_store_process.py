"""profile_store as a process: it starts ready, reads the log, survives `kill -9` and stops in order."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc

from recommendation.common.v1 import common_pb2
from recommendation.events.v1 import events_pb2
from recommendation.profile_store.v1 import policy_store_pb2 as policy_pb
from recommendation.profile_store.v1 import policy_store_pb2_grpc as policy_grpc
from recommendation.profile_store.v1 import profile_store_pb2 as pb
from recommendation.profile_store.v1 import profile_store_pb2_grpc as pb_grpc
from servicekit.arrays import pack_keys
from servicekit.errors import UnavailableError
from servicekit.eventlog.open import open_event_log
from servicekit.eventlog.port import EventLog, NewRecord, Record, Start
from servicekit.eventlog.topics import CONTENT_CHANGED, USER_ERASED, USER_INTERACTIONS, default_specs, dlq
from servicekit.identity import item_key
from servicekit.rpc.client import RpcChannel
from servicekit.testing import eventually, free_port

TENANT = "acme"


class Service:
    """A process of profile_store on a folder; `start` may be called again after its end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.agentdb_port = free_port()
        self.told = folder / f"stderr.{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        settings = {
            "DATA_DIR": str(self.folder),
            "GRPC_PORT": str(self.port),
            "AGENTDB_PORT": str(self.agentdb_port),
            "METRICS_PORT": "0",
            **environment,
        }
        with self.told.open("wb") as told:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "profile_store"], env={**os.environ, **settings}, stderr=told
            )
        return self.process

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Any]:
        """Give a stub once the service says that it is ready."""
        async with RpcChannel(f"127.0.0.1:{self.port}", name="profile_store") as channel:
            health: Any = health_pb2_grpc.HealthStub(channel.channel)

            async def ready() -> bool:
                answer = await channel.unary(health.Check, health_pb2.HealthCheckRequest(), timeout_s=1)
                return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

            async def asked() -> bool:
                try:
                    return await ready()
                except UnavailableError:
                    return False

            await eventually(asked, timeout_s=30, interval_s=0.05)
            yield pb_grpc.ProfileStoreServiceStub(channel.channel)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    if service.process is not None:
        service.process.kill()
        service.process.wait()


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[EventLog]:
    log = open_event_log(f"sqlite://{tmp_path}/log")
    await log.ensure_topics(default_specs())
    yield log
    await log.close()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def deed(event_id: str, item_id: str, user_id: str = "ann") -> pb.Interaction:
    return pb.Interaction(
        event_id=event_id,
        tenant=TENANT,
        user_id=user_id,
        item_type="film",
        item_id=item_id,
        interaction_type="view",
        occurred_at_ms=now_ms(),
    )


async def count(stub: Any, user_id: str = "ann") -> int:
    query = pb.GetUserContextsRequest.Query(tenant=TENANT, user_id=user_id)
    response = await stub.GetUserContexts(pb.GetUserContextsRequest(queries=[query]))
    return int(response.contexts[0].interaction_count)


async def test_an_acknowledged_append_is_there_after_kill_9(service: Service) -> None:
    process = service.start()
    acknowledged: list[str] = []

    async def keep_appending(stub: Any) -> None:
        while True:
            event_ids = [f"{len(acknowledged)}.{n}" for n in range(20)]
            deeds = [deed(event_id, event_id, f"u{n % 3}") for n, event_id in enumerate(event_ids)]
            await stub.AppendInteractions(pb.AppendInteractionsRequest(interactions=deeds))
            acknowledged.extend(event_ids)

    async with service.connected() as stub:
        appending = asyncio.create_task(keep_appending(stub))
        await eventually(lambda: len(acknowledged) > 400, timeout_s=30)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with pytest.raises(Exception, match="UNAVAILABLE"):
            await appending
    service.start()
    async with service.connected() as stub:
        stored = set()
        for user in range(3):
            request = pb.ExportUserRequest(tenant=TENANT, user_id=f"u{user}")
            stored |= {each.event_id async for page in stub.ExportUser(request) for each in page.interactions}
        assert set(acknowledged) <= stored
        assert sum([await count(stub, f"u{user}") for user in range(3)]) == len(stored)
        again = pb.AppendInteractionsRequest(interactions=[deed(event_id, "x") for event_id in acknowledged])
        assert not any(result.applied for result in (await stub.AppendInteractions(again)).results)


async def test_the_log_is_applied_once_and_bad_records_are_put_aside(service: Service, log: EventLog) -> None:
    producer = log.producer()
    item = common_pb2.Item(tenant=TENANT, item_type="film", item_id="dune", title="Dune")
    put = events_pb2.ContentChanged(event_id="c1", occurred_at_ms=now_ms(), put=item)
    deeds = [
        events_pb2.InteractionRecorded(
            event_id=f"e{n}",
            occurred_at_ms=now_ms(),
            tenant=TENANT,
            user_id="ann",
            item_type="film",
            item_id="dune",
            interaction_type="view",
        )
        for n in range(3)
    ]
    unknown = events_pb2.InteractionRecorded()
    unknown.CopyFrom(deeds[0])
    unknown.event_id, unknown.interaction_type = "bad", "dance"
    as_json = json_format.MessageToJson(deeds[2]).encode()
    await producer.append(
        [
            NewRecord(CONTENT_CHANGED, f"{TENANT}/film/dune", put.SerializeToString()),
            NewRecord(USER_INTERACTIONS, f"{TENANT}/ann", deeds[0].SerializeToString()),
            NewRecord(USER_INTERACTIONS, f"{TENANT}/ann", b"\xff\xff"),
            NewRecord(USER_INTERACTIONS, f"{TENANT}/ann", unknown.SerializeToString()),
            NewRecord(USER_INTERACTIONS, f"{TENANT}/ann", deeds[1].SerializeToString()),
            NewRecord(USER_INTERACTIONS, f"{TENANT}/ann", as_json, {"content-type": b"application/json"}),
        ]
    )
    service.start()
    async with service.connected() as stub:

        async def all_applied() -> bool:
            return await count(stub) == 3

        await eventually(all_applied, timeout_s=10)
        found = await stub.GetItems(pb.GetItemsRequest(item_keys=pack_keys([item_key(TENANT, "film", "dune")])))
        assert [each.title for each in found.items] == ["Dune"]
        popular = pb.GetPopularityRequest(queries=[pb.GetPopularityRequest.Query(tenant=TENANT)])
        assert (await stub.GetPopularity(popular)).results[0].item_keys == pack_keys([item_key(TENANT, "film", "dune")])
        letters = log.consumer([dlq(USER_INTERACTIONS)], group=None, start=Start.EARLIEST)
        put_aside: list[Record] = []
        while len(put_aside) < 2:
            put_aside += await letters.poll(max_records=10, timeout_s=5)
        assert sorted(record.value for record in put_aside) == sorted([b"\xff\xff", unknown.SerializeToString()])
        erased = events_pb2.UserErased(event_id="x", occurred_at_ms=now_ms(), tenant=TENANT, user_id="ann")
        gone = events_pb2.ContentChanged(
            event_id="c2",
            occurred_at_ms=now_ms(),
            deleted=common_pb2.ItemRef(tenant=TENANT, item_type="film", item_id="dune"),
        )
        await producer.append(
            [
                NewRecord(USER_ERASED, f"{TENANT}/ann", erased.SerializeToString()),
                NewRecord(CONTENT_CHANGED, f"{TENANT}/film/dune", gone.SerializeToString()),
                NewRecord(USER_INTERACTIONS, f"{TENANT}/ann", deeds[0].SerializeToString()),
            ]
        )

        async def all_gone() -> bool:
            items = await stub.GetItems(pb.GetItemsRequest(item_keys=pack_keys([item_key(TENANT, "film", "dune")])))
            return await count(stub) == 0 and not items.items

        await eventually(all_gone, timeout_s=10)


async def test_both_services_answer_in_one_process_and_an_erasure_reaches_both(service: Service, log: EventLog) -> None:
    process = service.start()
    key = policy_pb.PolicyKey(tenant=TENANT, agent_id="bandit", user_id="ann", state="home")
    episode = policy_pb.Episode(
        episode_id="e",
        tenant=TENANT,
        agent_id="bandit",
        user_id="ann",
        state="home",
        action="show",
        occurred_at_ms=now_ms(),
    )
    reward = policy_pb.Reward(
        reward_id="r",
        tenant=TENANT,
        agent_id="bandit",
        user_id="ann",
        episode_id="e",
        value=1.0,
        occurred_at_ms=now_ms(),
    )
    whose: dict[str, Any] = {"tenant": TENANT, "agent_id": "bandit", "user_id": "ann"}
    async with service.connected() as stub, RpcChannel(f"127.0.0.1:{service.agentdb_port}", name="agentdb") as channel:
        health: Any = health_pb2_grpc.HealthStub(channel.channel)
        for name in ("", "recommendation.profile_store.v1.PolicyStoreService"):
            answer = await channel.unary(health.Check, health_pb2.HealthCheckRequest(service=name), timeout_s=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        agents: Any = policy_grpc.PolicyStoreServiceStub(channel.channel)
        put = policy_pb.PutPoliciesRequest.Put(key=key, document=b"learned")
        (made,) = (await agents.PutPolicies(policy_pb.PutPoliciesRequest(puts=[put]))).results
        assert made.version > 0
        await agents.AppendEpisodes(policy_pb.AppendEpisodesRequest(episodes=[episode]))
        await agents.AppendRewards(policy_pb.AppendRewardsRequest(rewards=[reward]))
        await stub.AppendInteractions(pb.AppendInteractionsRequest(interactions=[deed("1", "a")]))

        async def kept() -> list[int]:
            return [
                await count(stub),
                len((await agents.ListPolicies(policy_pb.ListPoliciesRequest(**whose))).policies),
                len((await agents.ListEpisodes(policy_pb.ListEpisodesRequest(**whose))).episodes),
                len((await agents.ListRewards(policy_pb.ListRewardsRequest(**whose))).rewards),
            ]

        assert await kept() == [1, 1, 1, 1]
        erased = events_pb2.UserErased(event_id="x", occurred_at_ms=now_ms(), tenant=TENANT, user_id="ann")
        await log.producer().append([NewRecord(USER_ERASED, f"{TENANT}/ann", erased.SerializeToString())])

        async def nothing_is_kept() -> bool:
            return await kept() == [0, 0, 0, 0]

        await eventually(nothing_is_kept, timeout_s=10)
    process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(process.wait, 15) == 0


async def test_too_many_bad_records_stop_the_consumer_and_the_calls_go_on(service: Service, log: EventLog) -> None:
    bad = [NewRecord(USER_INTERACTIONS, f"{TENANT}/ann", b"\xff") for _ in range(5)]
    await log.producer().append(bad)

    async def aside() -> int:
        return sum((await log.end_offsets([dlq(USER_INTERACTIONS)])).values())

    for expected in (2, 4):  # each start puts as many aside as the limit says, and stops at the next
        process = service.start(CONSUMER_MAX_FAILURES_IN_A_ROW="2")
        async with service.connected() as stub:
            await eventually(lambda: b"the consumer stopped" in service.told.read_bytes(), timeout_s=10)
            assert await aside() == expected
            await stub.AppendInteractions(pb.AppendInteractionsRequest(interactions=[deed(f"e{expected}", "dune")]))
            assert await count(stub) == expected // 2
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 10) == 0


async def test_it_stops_on_sigterm_and_comes_back_with_everything(service: Service) -> None:
    process = service.start()
    async with service.connected() as stub:
        await stub.AppendInteractions(pb.AppendInteractionsRequest(interactions=[deed("1", "a")]))
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 15) == 0
    service.start()
    async with service.connected() as stub:
        assert await count(stub) == 1


def test_a_second_process_on_the_same_folder_refuses_to_start(service: Service) -> None:
    async def second() -> tuple[int, bytes]:
        service.start()
        async with service.connected():
            other = Service(service.folder)
            code = await asyncio.to_thread(other.start().wait, 30)
            return code, other.told.read_bytes()

    code, told = asyncio.run(second())
    assert code == 1
    assert b"another process has" in told


def test_bad_settings_are_told_in_a_line(service: Service) -> None:
    assert service.start(SQLITE_SYNCHRONOUS="perhaps").wait(30) == 2
    told = service.told.read_bytes()
    assert b"SQLITE_SYNCHRONOUS" in told
    assert told.count(b"\n") == 1
