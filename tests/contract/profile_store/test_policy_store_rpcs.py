"""Every RPC of PolicyStoreService on a real server, over each store that needs no other server."""

import math
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from profile_store.adapters.memory import MemoryProfileStore
from profile_store.adapters.sqlite import SqliteProfileStore
from profile_store.api.policies import SERVICE_NAME, PolicyStoreServicer
from profile_store.application.policies import PolicyService
from profile_store.domain.ports import PolicyStore
from recommendation.profile_store.v1 import policy_store_pb2 as pb
from recommendation.profile_store.v1 import policy_store_pb2_grpc as pb_grpc
from servicekit.clock import ManualClock
from servicekit.errors import InvalidArgumentError
from servicekit.rpc.client import RpcChannel
from servicekit.testing import served

NOW = 1_700_000_000_000
TENANT = "acme"
Put = pb.PutPoliciesRequest.Put


class Client:
    """Calls PolicyStoreService."""

    def __init__(self, channel: RpcChannel) -> None:
        self._channel = channel
        self._stub: Any = pb_grpc.PolicyStoreServiceStub(channel.channel)

    async def __call__(self, method: str, request: Any) -> Any:
        return await self._channel.unary(getattr(self._stub, method), request, timeout_s=10)

    async def put(self, *puts: Put) -> list[Any]:
        return list((await self("PutPolicies", pb.PutPoliciesRequest(puts=puts))).results)

    async def get(self, *keys: pb.PolicyKey) -> list[Any]:
        return list((await self("GetPolicies", pb.GetPoliciesRequest(keys=keys))).results)

    async def policies(self, **fields: Any) -> Any:
        return await self("ListPolicies", pb.ListPoliciesRequest(**{"tenant": TENANT, "agent_id": "bandit", **fields}))

    async def append(self, *records: pb.Episode | pb.Reward) -> list[Any]:
        episodes = [each for each in records if isinstance(each, pb.Episode)]
        if episodes:
            return list((await self("AppendEpisodes", pb.AppendEpisodesRequest(episodes=episodes))).results)
        rewards = [each for each in records if isinstance(each, pb.Reward)]
        return list((await self("AppendRewards", pb.AppendRewardsRequest(rewards=rewards))).results)

    async def records(self, kind: str, **fields: Any) -> Any:
        request = getattr(pb, f"List{kind}Request")
        return await self(
            f"List{kind}", request(**{"tenant": TENANT, "agent_id": "bandit", "user_id": "ann", **fields})
        )


@asynccontextmanager
async def client_of(store: PolicyStore) -> AsyncIterator[Client]:
    """Serve the use cases on a store and give a client."""
    service = PolicyService(policies=store, clock=ManualClock(NOW))
    async with served(
        lambda server: pb_grpc.add_PolicyStoreServiceServicer_to_server(PolicyStoreServicer(service), server),
        [SERVICE_NAME],
    ) as (_, channel):
        yield Client(channel)


@pytest.fixture(params=["memory", "sqlite"])
async def call(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Client]:
    if request.param == "memory":
        async with client_of(MemoryProfileStore().policies) as client:
            yield client
        return
    async with (
        await SqliteProfileStore.open(
            tmp_path / "profile.db", synchronous="normal", context_cache_bytes=1_000, item_cache_size=1
        ) as sqlite,
        client_of(sqlite.policies) as client,
    ):
        yield client


def key(state: str = "home", **fields: str) -> pb.PolicyKey:
    return pb.PolicyKey(**{"tenant": TENANT, "agent_id": "bandit", "user_id": "ann", "state": state, **fields})


def episode(episode_id: str = "e", **fields: Any) -> pb.Episode:
    return pb.Episode(
        **{
            "episode_id": episode_id,
            "tenant": TENANT,
            "agent_id": "bandit",
            "user_id": "ann",
            "state": "home",
            "action": "show",
            "probability": 0.5,
            "document": b"{}",
            "occurred_at_ms": NOW,
            **fields,
        }
    )


def reward(reward_id: str = "r", **fields: Any) -> pb.Reward:
    return pb.Reward(
        **{
            "reward_id": reward_id,
            "tenant": TENANT,
            "agent_id": "bandit",
            "user_id": "ann",
            "episode_id": "e",
            "value": 1.0,
            "occurred_at_ms": NOW,
            **fields,
        }
    )


async def refused(answer: Awaitable[Any]) -> str:
    """Give the field that a call was refused for."""
    with pytest.raises(InvalidArgumentError) as error:
        await answer
    return error.value.field


async def test_a_policy_is_put_read_and_changed(call: Client) -> None:
    (made,) = await call.put(Put(key=key(), document=b"1"))
    assert not made.HasField("error")
    (found,) = await call.get(key())
    assert found.policy == pb.Policy(
        key=key(), document=b"1", version=made.version, created_at_ms=NOW, updated_at_ms=NOW
    )
    (changed,) = await call.put(Put(key=key(), document=b"2", expected_version=made.version))
    assert changed.version > made.version
    missing, there = await call.get(key("nowhere"), key())
    assert not missing.HasField("policy")
    assert not missing.HasField("error")
    assert there.policy.document == b"2"


async def test_a_conflict_is_an_error_of_its_element_and_tells_the_stored_version(call: Client) -> None:
    (made,) = await call.put(Put(key=key(), document=b"1"))
    stale, absent, fine = await call.put(
        Put(key=key(), document=b"2", expected_version=made.version - 1),
        Put(key=key("other"), document=b"2", expected_version=5),
        Put(key=key("third"), document=b"3"),
    )
    assert (stale.error.code, stale.error.field) == ("failed_precondition", "expected_version")
    assert stale.version == made.version
    assert f"version {made.version} is stored" in stale.error.message
    assert absent.error.code == "failed_precondition"
    assert absent.version == 0
    assert not fine.HasField("error")
    documents = [found.policy.document for found in await call.get(key(), key("other"), key("third"))]
    assert documents == [b"1", b"", b"3"]


@pytest.mark.parametrize(
    ("put", "field"),
    [
        (Put(key=key(tenant="")), "key.tenant"),
        (Put(key=key(tenant="x" * 65)), "key.tenant"),
        (Put(key=key(agent_id="")), "key.agent_id"),
        (Put(key=key(agent_id="x" * 65)), "key.agent_id"),
        (Put(key=key(user_id="x" * 256)), "key.user_id"),
        (Put(key=key("")), "key.state"),
        (Put(key=key("x" * 256)), "key.state"),
        (Put(key=key(), document=bytes(262_145)), "document"),
        (Put(key=key(), expected_version=-1), "expected_version"),
        (Put(key=key(), expected_version=2**62 + 1), "expected_version"),
        (Put(key=key("fine")), "key"),
    ],
)
async def test_a_bad_put_leaves_nothing_and_does_not_touch_its_neighbours(call: Client, put: Put, field: str) -> None:
    good, bad = await call.put(Put(key=key("fine"), document=b"1"), put)
    assert not good.HasField("error")
    assert (bad.error.code, bad.error.field, bad.version) == ("invalid_argument", field, 0)
    page = await call.policies()
    assert [(each.key.state, each.document) for each in page.policies] == [("fine", b"1")]


async def test_a_bad_key_does_not_touch_its_neighbours(call: Client) -> None:
    await call.put(Put(key=key(), document=b"1"))
    bad, good = await call.get(key(""), key())
    assert (bad.error.code, bad.error.field) == ("invalid_argument", "key.state")
    assert good.policy.document == b"1"


async def test_a_batch_that_is_too_large_or_empty_writes_nothing(call: Client) -> None:
    assert await refused(call.put(*(Put(key=key(f"{n}")) for n in range(101)))) == "puts"
    assert await refused(call.put()) == "puts"
    assert await refused(call.get(*(key(f"{n}") for n in range(101)))) == "keys"
    assert await call.get() == []
    assert not (await call.policies()).policies
    assert await refused(call.append(*(episode(f"{n}") for n in range(1_001)))) == "episodes"
    assert await refused(call.append(*(reward(f"{n}") for n in range(1_001)))) == "rewards"
    assert await refused(call("AppendEpisodes", pb.AppendEpisodesRequest())) == "episodes"
    assert await refused(call("AppendRewards", pb.AppendRewardsRequest())) == "rewards"
    assert not (await call.records("Episodes")).episodes
    assert not (await call.records("Rewards")).rewards


async def test_policies_are_listed_by_agent_and_user(call: Client) -> None:
    keys = [key("a"), key("b"), key("a", user_id="bob"), key("a", user_id="")]
    await call.put(*(Put(key=each) for each in keys), Put(key=key("a", agent_id="other")))

    async def listed(**fields: Any) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        cursor = ""
        while True:
            page = await call.policies(cursor=cursor, **fields)
            found += [(each.key.user_id, each.key.state) for each in page.policies]
            cursor = page.next_cursor
            if not cursor:
                return found

    everything = sorted((each.user_id, each.state) for each in keys)
    for limit in (0, 1, 3, 4, 100):
        assert sorted(await listed(limit=limit)) == everything
    assert await listed(user_id="ann", limit=1) == [("ann", "a"), ("ann", "b")]
    assert await listed(user_id="") == [("", "a")]


async def test_what_a_list_of_policies_refuses(call: Client) -> None:
    assert await refused(call.policies(tenant="")) == "tenant"
    assert await refused(call.policies(agent_id="")) == "agent_id"
    assert await refused(call.policies(user_id="x" * 256)) == "user_id"
    assert await refused(call.policies(limit=101)) == "limit"
    assert await refused(call.policies(cursor="x")) == "cursor"


async def test_episodes_and_rewards_are_appended_once_and_listed(call: Client) -> None:
    episodes = [episode("a", occurred_at_ms=NOW - 2), episode("b", occurred_at_ms=NOW - 1), episode("c")]
    episodes[1].ClearField("probability")
    assert [each.applied for each in await call.append(*episodes)] == [True, True, True]
    assert [each.applied for each in await call.append(episode("d"), *episodes)] == [True, False, False, False]
    assert list((await call.records("Episodes")).episodes) == [episode("d"), *episodes[::-1]]
    rewards = [reward("a", occurred_at_ms=NOW - 2), reward("b", value=-1e6), reward("c")]
    assert [each.applied for each in await call.append(*rewards, rewards[0])] == [True, True, True, False]
    oldest_first = {"order": pb.TIME_ORDER_OLDEST_FIRST}
    assert list((await call.records("Rewards", **oldest_first)).rewards) == rewards
    assert list((await call.records("Rewards", until_ms=NOW)).rewards) == rewards[:1]
    assert list((await call.records("Rewards", from_ms=NOW, **oldest_first)).rewards) == rewards[1:]
    page = await call.records("Rewards", limit=2, **oldest_first)
    assert list(page.rewards) == rewards[:2]
    last = await call.records("Rewards", limit=2, cursor=page.next_cursor, **oldest_first)
    assert (list(last.rewards), last.next_cursor) == (rewards[2:], "")


@pytest.mark.parametrize(
    ("bad", "field"),
    [
        (episode(""), "episode_id"),
        (episode("x" * 65), "episode_id"),
        (episode(tenant=""), "tenant"),
        (episode(agent_id="x" * 65), "agent_id"),
        (episode(user_id=""), "user_id"),
        (episode(state=""), "state"),
        (episode(action=""), "action"),
        (episode(action="x" * 256), "action"),
        (episode(probability=0.0), "probability"),
        (episode(probability=1.01), "probability"),
        (episode(probability=math.nan), "probability"),
        (episode(document=bytes(16_385)), "document"),
        (episode(occurred_at_ms=0), "occurred_at_ms"),
        (episode(occurred_at_ms=NOW + 300_001), "occurred_at_ms"),
        (reward(""), "reward_id"),
        (reward(episode_id=""), "episode_id"),
        (reward(agent_id=""), "agent_id"),
        (reward(user_id="x" * 256), "user_id"),
        (reward(value=math.nan), "value"),
        (reward(value=math.inf), "value"),
        (reward(value=1_000_001.0), "value"),
        (reward(occurred_at_ms=-1), "occurred_at_ms"),
    ],
)
async def test_a_bad_record_does_not_touch_its_neighbours(
    call: Client, bad: pb.Episode | pb.Reward, field: str
) -> None:
    good = episode("good") if isinstance(bad, pb.Episode) else reward("good")
    refused_one, applied = await call.append(bad, good)
    assert (refused_one.error.code, refused_one.error.field) == ("invalid_argument", field)
    assert not refused_one.applied
    assert applied.applied
    kind = "Episodes" if isinstance(bad, pb.Episode) else "Rewards"
    page = await call.records(kind)
    assert list(getattr(page, kind.lower())) == [good]


@pytest.mark.parametrize("kind", ["Episodes", "Rewards"])
async def test_what_a_list_of_records_refuses(call: Client, kind: str) -> None:
    for fields, field in (
        ({"tenant": ""}, "tenant"),
        ({"agent_id": ""}, "agent_id"),
        ({"user_id": ""}, "user_id"),
        ({"limit": 1_001}, "limit"),
        ({"cursor": "x"}, "cursor"),
        ({"from_ms": -1}, "from_ms"),
        ({"until_ms": -1}, "until_ms"),
        ({"from_ms": 2, "until_ms": 1}, "until_ms"),
        ({"order": 9}, "order"),
    ):
        assert await refused(call.records(kind, **fields)) == field
