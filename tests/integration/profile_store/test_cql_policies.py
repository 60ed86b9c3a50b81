"""The store of policies on CQL keeps the contract; replicas see each other's writes at once."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from contract.profile_store.policy_store_contract import (
    PolicyStoreContract,
    a_key,
    a_query,
    a_reward,
    all_policies,
    an_episode,
    episode_ids,
    get,
    put,
    reward_ids,
)
from contract.profile_store.profile_store_contract import NOW, tenant_of
from integration.profile_store.cql_stores import open_cql

from profile_store.adapters.cql.agent_records import CqlRecords
from profile_store.adapters.cql.store import CqlProfileStore, Retention
from profile_store.domain.policies import PolicyPut
from profile_store.domain.ports import PolicyStore
from servicekit.clock import SystemClock
from servicekit.errors import UnavailableError
from servicekit.testing import eventually

pytestmark = pytest.mark.integration


class TestCqlPolicies(PolicyStoreContract):
    adapter = "cql"

    @pytest.fixture
    def store(self, cql_store: CqlProfileStore) -> PolicyStore:
        return cql_store.policies


@pytest.fixture
def replicas(cql_store: CqlProfileStore, second_cql_store: CqlProfileStore) -> tuple[PolicyStore, PolicyStore]:
    tenant_of.renew()
    return cql_store.policies, second_cql_store.policies


async def test_a_replica_sees_at_once_what_another_has_written(replicas: tuple[PolicyStore, PolicyStore]) -> None:
    one, two = replicas
    version = 0
    for n in range(5):
        made = await put(one if n % 2 else two, a_key(), version, at=NOW + n)
        assert made.applied
        version = made.version
        found = await get(two if n % 2 else one, a_key())
        assert found is not None
        assert found.version == version
    assert await all_policies(two) == [a_key()]
    await one.append_episodes([an_episode("e")])
    assert await episode_ids(two) == ["e"]
    assert await two.append_episodes([an_episode("e")]) == [False]
    await two.forget_user(tenant_of(), "ann", until_ms=NOW)
    assert await episode_ids(one) == []
    assert await get(one, a_key()) is None
    assert await all_policies(one) == []


async def test_of_two_replicas_that_put_at_once_exactly_one_wins(replicas: tuple[PolicyStore, PolicyStore]) -> None:
    version = 0
    for n in range(10):
        outcomes = [
            outcome
            for (outcome,) in await asyncio.gather(
                *(
                    store.put_policies([PolicyPut(a_key(), f"{n} {who}".encode(), version)], now_ms=NOW)
                    for who, store in enumerate(replicas)
                )
            )
        ]
        (winner,) = [who for who, outcome in enumerate(outcomes) if outcome.applied]
        found = await get(replicas[1 - winner], a_key())
        assert found is not None
        assert found.document == f"{n} {winner}".encode()
        version = found.version


async def test_the_same_rewards_through_two_replicas_are_stored_once(
    replicas: tuple[PolicyStore, PolicyStore],
) -> None:
    rewards = [a_reward(f"r{n:02}", occurred_at_ms=NOW - n) for n in range(50)]
    await asyncio.gather(*(store.append_rewards(rewards) for store in replicas))
    for store in replicas:
        assert await store.list_rewards(a_query()) == rewards
        assert not any(await store.append_rewards(rewards))


@pytest.mark.parametrize("step", ["_put_footprints", "_put"])
async def test_what_was_left_half_appended_is_finished_by_a_repetition(
    replicas: tuple[PolicyStore, PolicyStore], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    one, two = replicas

    async def dies(*_: object) -> None:
        raise UnavailableError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(CqlRecords, step, dies)
        with pytest.raises(UnavailableError):
            await one.append_episodes([an_episode("a"), an_episode("b")])
    assert await two.append_episodes([an_episode("a"), an_episode("b")]) == [True, True]
    assert await episode_ids(one) == ["b", "a"]


async def test_an_erasure_at_the_moment_of_an_append_leaves_nothing(
    replicas: tuple[PolicyStore, PolicyStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One replica is held before it writes; meanwhile another one erases the user."""
    one, two = replicas
    reached, go_on = asyncio.Event(), asyncio.Event()
    real: Callable[..., Awaitable[Any]] = CqlRecords._put_footprints

    async def held(self: CqlRecords, *arguments: Any) -> Any:
        reached.set()
        await go_on.wait()
        return await real(self, *arguments)

    monkeypatch.setattr(CqlRecords, "_put_footprints", held)
    appending = asyncio.create_task(one.append_rewards([a_reward("old"), a_reward("new", occurred_at_ms=NOW + 1)]))
    await reached.wait()
    await two.forget_user(tenant_of(), "ann", until_ms=NOW)
    go_on.set()
    assert await appending == [False, True]
    assert await reward_ids(two) == ["new"]


async def test_episodes_go_when_their_time_is_over(keyspace_url: str) -> None:
    tenant_of.renew()
    clock = SystemClock()
    async with await open_cql(keyspace_url, clock=clock, retention=Retention(episodes_s=60)) as store:
        now = clock.now_ms()
        episodes = [an_episode("old", occurred_at_ms=now - 58_000), an_episode("young", occurred_at_ms=now)]
        assert await store.policies.append_episodes(episodes) == [True, True]

        async def only_the_young_one() -> bool:
            return await episode_ids(store.policies) == ["young"]

        await eventually(only_the_young_one, timeout_s=10.0)
