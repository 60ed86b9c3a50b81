"""What every store of policies keeps its word on, written once; an adapter joins with a subclass of four lines."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from contract.profile_store.profile_store_contract import DAY, NOW, tenant_of

from profile_store.domain.episodes import Episode, RecordPosition, RecordQuery, Reward
from profile_store.domain.policies import EVERYBODY, Policy, PolicyKey, PolicyPosition, PolicyPut, PutPolicyOutcome
from profile_store.domain.ports import PolicyStore

AGENT = "bandit"


def a_key(state: str = "home", user_id: str = "ann", *, agent_id: str = AGENT, tenant: str | None = None) -> PolicyKey:
    return PolicyKey(tenant or tenant_of(), agent_id, user_id, state)


def an_episode(episode_id: str, **fields: object) -> Episode:
    """Give an episode of ann's as of now."""
    episode = Episode(episode_id, tenant_of(), AGENT, "ann", "home", "show film a", 0.25, b'{"slot": 1}', NOW)
    return replace(episode, **fields)  # type: ignore[arg-type]  # the test names existing fields


def a_reward(reward_id: str, **fields: object) -> Reward:
    """Give a reward of ann's as of now."""
    reward = Reward(reward_id, tenant_of(), AGENT, "ann", "an episode", 1.5, NOW)
    return replace(reward, **fields)  # type: ignore[arg-type]  # the test names existing fields


def a_query(user_id: str = "ann", *, agent_id: str = AGENT, limit: int = 100, **fields: object) -> RecordQuery:
    query = RecordQuery(tenant=tenant_of(), agent_id=agent_id, user_id=user_id, limit=limit)
    return replace(query, **fields)  # type: ignore[arg-type]  # the test names existing fields


async def put(store: PolicyStore, key: PolicyKey, expected: int = 0, *, at: int = NOW) -> PutPolicyOutcome:
    """Put a policy that says from which version it was made."""
    (outcome,) = await store.put_policies([PolicyPut(key, f"from {expected}".encode(), expected)], now_ms=at)
    return outcome


async def get(store: PolicyStore, key: PolicyKey) -> Policy | None:
    (found,) = await store.get_policies([key])
    return found


async def all_policies(
    store: PolicyStore, user_id: str | None = None, *, agent_id: str = AGENT, page: int = 100
) -> list[PolicyKey]:
    """List page by page."""
    keys: list[PolicyKey] = []
    after = None
    while found := await store.list_policies(tenant_of(), agent_id, user_id, after=after, limit=page):
        assert len(found) <= page
        keys += [policy.key for policy in found]
        after = PolicyPosition(keys[-1].user_id, keys[-1].state)
    return keys


async def episode_ids(store: PolicyStore, query: RecordQuery | None = None) -> list[str]:
    return [each.episode_id for each in await store.list_episodes(query or a_query())]


async def reward_ids(store: PolicyStore, query: RecordQuery | None = None) -> list[str]:
    return [each.reward_id for each in await store.list_rewards(query or a_query())]


class PolicyStoreContract(ABC):
    port = "PolicyStore"

    @pytest.fixture(autouse=True)
    def _own_tenants(self) -> None:
        tenant_of.renew()

    @pytest.fixture
    @abstractmethod
    def store(self) -> PolicyStore | AsyncIterator[PolicyStore]:
        """Give an empty store."""

    async def test_a_policy_comes_back_as_it_was_put(self, store: PolicyStore) -> None:
        document = bytes(range(256)) * 1_024
        key = a_key("Zustand ☼")
        (made,) = await store.put_policies([PolicyPut(key, document, 0)], now_ms=NOW)
        assert made.applied
        assert made.version > 0
        assert await get(store, key) == Policy(key, document, made.version, NOW, NOW)
        (changed,) = await store.put_policies([PolicyPut(key, b"", made.version)], now_ms=NOW + 5)
        assert changed.applied
        assert changed.version > made.version
        assert await get(store, key) == Policy(key, b"", changed.version, NOW, NOW + 5)

    async def test_a_put_on_another_version_is_a_conflict_and_writes_nothing(self, store: PolicyStore) -> None:
        assert await put(store, a_key(), 7) == PutPolicyOutcome(applied=False, version=0)
        assert await get(store, a_key()) is None
        assert await all_policies(store) == []
        made = await put(store, a_key())
        for expected in (0, made.version - 1, made.version + 1):
            outcome = await put(store, a_key(), expected)
            assert outcome == PutPolicyOutcome(applied=False, version=made.version)
        kept = await get(store, a_key())
        assert kept is not None
        assert (kept.document, kept.version) == (b"from 0", made.version)

    async def test_a_conflict_does_not_touch_its_neighbours(self, store: PolicyStore) -> None:
        made = await put(store, a_key("b"))
        outcomes = await store.put_policies(
            [PolicyPut(a_key("a"), b"1", 0), PolicyPut(a_key("b"), b"2", 0), PolicyPut(a_key("c"), b"3", 0)], now_ms=NOW
        )
        assert [outcome.applied for outcome in outcomes] == [True, False, True]
        assert outcomes[1].version == made.version
        found = await store.get_policies([a_key("c"), a_key("d"), a_key("b"), a_key("a"), a_key("c")])
        assert [each and each.document for each in found] == [b"3", None, b"from 0", b"1", b"3"]

    @pytest.mark.parametrize("exists", [False, True])
    async def test_of_puts_at_once_exactly_one_wins(self, store: PolicyStore, exists: bool) -> None:
        version = (await put(store, a_key())).version if exists else 0
        outcomes = [
            outcome
            for (outcome,) in await asyncio.gather(
                *(store.put_policies([PolicyPut(a_key(), f"{n}".encode(), version)], now_ms=NOW) for n in range(4))
            )
        ]
        (winner,) = [n for n, outcome in enumerate(outcomes) if outcome.applied]
        assert {outcome.version for outcome in outcomes} == {outcomes[winner].version}
        kept = await get(store, a_key())
        assert kept is not None
        assert kept.document == f"{winner}".encode()

    async def test_policies_are_kept_apart_by_every_part_of_their_names(self, store: PolicyStore) -> None:
        keys = [
            a_key("x"),
            a_key("y"),
            a_key("x", "bob"),
            a_key("x", EVERYBODY),
            a_key("x", agent_id="other"),
            a_key("x", tenant=tenant_of("other")),
        ]
        for n, key in enumerate(keys):
            assert (await store.put_policies([PolicyPut(key, f"{n}".encode(), 0)], now_ms=NOW))[0].applied
        found = await store.get_policies(keys)
        assert [each and each.document for each in found] == [f"{n}".encode() for n in range(6)]
        assert sorted(await all_policies(store)) == sorted(keys[:4])
        assert await all_policies(store, "ann") == keys[:2]
        assert await all_policies(store, EVERYBODY) == keys[3:4]
        assert await all_policies(store, agent_id="other") == keys[4:5]
        assert await all_policies(store, agent_id="none") == []

    @pytest.mark.parametrize("page", [1, 7, 100])
    async def test_pages_give_each_policy_once(self, store: PolicyStore, page: int) -> None:
        keys = [a_key(f"s{n % 3}", f"u{n // 3}") for n in range(40)]
        await store.put_policies([PolicyPut(key, b"", 0) for key in keys], now_ms=NOW)
        assert sorted(await all_policies(store, page=page)) == sorted(keys)
        assert await all_policies(store, "u4", page=page) == keys[12:15]

    async def test_episodes_and_rewards_come_back_as_they_were_appended(self, store: PolicyStore) -> None:
        episode = an_episode("e ☼", document=bytes(range(256)) * 64)
        plain = an_episode("f", probability=None, document=b"", occurred_at_ms=NOW - 1)
        assert await store.append_episodes([episode, plain]) == [True, True]
        assert await store.list_episodes(a_query()) == [episode, plain]
        reward = a_reward("r ☼", value=-0.125)
        assert await store.append_rewards([reward]) == [True]
        assert await store.list_rewards(a_query()) == [reward]

    async def test_an_id_counts_once(self, store: PolicyStore) -> None:
        assert await store.append_episodes([an_episode("a"), an_episode("a", action="x"), an_episode("b")]) == [
            True,
            False,
            True,
        ]
        again = [an_episode("a", occurred_at_ms=NOW - DAY), an_episode("b", user_id="bob"), an_episode("c")]
        assert await store.append_episodes(again) == [False, False, True]
        assert await store.list_episodes(a_query()) == [an_episode("c"), an_episode("b"), an_episode("a")]
        assert await store.list_episodes(a_query("bob")) == []
        assert await store.append_rewards([a_reward("a"), a_reward("a")]) == [True, False]
        assert await store.append_rewards([a_reward("a", value=0.0)]) == [False]
        assert await store.list_rewards(a_query()) == [a_reward("a")]

    async def test_an_id_belongs_to_its_agent(self, store: PolicyStore) -> None:
        episodes = [an_episode("a"), an_episode("a", agent_id="other"), an_episode("a", tenant=tenant_of("other"))]
        assert await store.append_episodes(episodes) == [True, True, True]
        assert await store.list_episodes(a_query(agent_id="other")) == episodes[1:2]
        assert await store.list_episodes(a_query(tenant=tenant_of("other"))) == episodes[2:]
        assert await episode_ids(store) == ["a"]

    async def test_lists_go_by_time_and_then_by_id(self, store: PolicyStore) -> None:
        times = {"c": NOW - 40 * DAY, "a": NOW - 10 * DAY, "b": NOW - 10 * DAY, "e": NOW - 1, "d": NOW}
        await store.append_rewards([a_reward(name, occurred_at_ms=time) for name, time in times.items()])
        await store.append_rewards([a_reward("not hers", user_id="bob")])
        in_order = ["c", "a", "b", "e", "d"]
        assert await reward_ids(store, a_query(newest_first=False)) == in_order
        assert await reward_ids(store) == in_order[::-1]
        assert await reward_ids(store, a_query(limit=2)) == ["d", "e"]

        async def between(from_ms: int, until_ms: int) -> list[str]:
            query = a_query(newest_first=False, from_ms=from_ms, until_ms=until_ms)
            found = await reward_ids(store, query)
            assert await reward_ids(store, replace(query, newest_first=True)) == found[::-1]
            return found

        assert await between(NOW - 10 * DAY, NOW) == ["a", "b", "e"]
        assert await between(NOW - 10 * DAY + 1, NOW + 1) == ["e", "d"]
        assert await between(0, NOW - 10 * DAY) == ["c"]
        assert await between(NOW, NOW) == []

    @pytest.mark.parametrize("newest_first", [True, False])
    @pytest.mark.parametrize("page", [1, 3, 100])
    async def test_pages_give_each_episode_once(self, store: PolicyStore, newest_first: bool, page: int) -> None:
        episodes = [an_episode(f"e{n:02}", occurred_at_ms=NOW - (n // 3) * 2 * DAY) for n in range(20)]
        await store.append_episodes(episodes)
        found: list[Episode] = []
        query = a_query(newest_first=newest_first, limit=page)
        while some := await store.list_episodes(query):
            assert len(some) <= page
            found += some
            query = replace(query, after=RecordPosition(some[-1].occurred_at_ms, some[-1].episode_id))
        in_order = sorted(episodes, key=lambda each: (each.occurred_at_ms, each.episode_id), reverse=newest_first)
        assert found == in_order

    async def test_an_erased_user_is_forgotten_up_to_the_moment(self, store: PolicyStore) -> None:
        for user_id in ("ann", "bob", EVERYBODY):
            await put(store, a_key(user_id=user_id), at=NOW - DAY)
        await put(store, a_key("late"), at=NOW + 1)
        await put(store, a_key("elsewhere", agent_id="other"), at=NOW)
        times = (NOW - 40 * DAY, NOW, NOW + 1)
        await store.append_episodes([an_episode(f"{time}", occurred_at_ms=time) for time in times])
        await store.append_rewards([a_reward(f"{time}", occurred_at_ms=time) for time in times])
        await store.append_episodes([an_episode("bob's", user_id="bob")])
        for _ in range(2):
            await store.forget_user(tenant_of(), "ann", until_ms=NOW)
            assert sorted(await all_policies(store)) == sorted([a_key("home", ""), a_key("home", "bob"), a_key("late")])
            assert await all_policies(store, agent_id="other") == []
            assert await get(store, a_key()) is None
            assert await episode_ids(store) == await reward_ids(store) == [f"{NOW + 1}"]
        assert await episode_ids(store, a_query("bob")) == ["bob's"]
        assert await store.append_episodes([an_episode("x"), an_episode("y", occurred_at_ms=NOW + 2)]) == [False, True]
        assert await store.append_rewards([a_reward("x"), a_reward("y", occurred_at_ms=NOW + 2)]) == [False, True]
        assert await episode_ids(store) == await reward_ids(store) == ["y", f"{NOW + 1}"]

    async def test_an_earlier_erasure_does_not_shorten_a_later_one(self, store: PolicyStore) -> None:
        await store.forget_user(tenant_of(), "ann", until_ms=NOW)
        await store.forget_user(tenant_of(), "ann", until_ms=NOW - DAY)
        assert await store.append_episodes([an_episode("x", occurred_at_ms=NOW - 1)]) == [False]

    async def test_what_was_learned_before_an_erasure_does_not_come_back(self, store: PolicyStore) -> None:
        made = await put(store, a_key(), at=NOW - DAY)
        changed = await put(store, a_key(), made.version, at=NOW + 1)
        await store.forget_user(tenant_of(), "ann", until_ms=NOW)
        assert await put(store, a_key(), changed.version, at=NOW + 2) == PutPolicyOutcome(applied=False, version=0)
        anew = await put(store, a_key(), at=NOW + 2)
        assert anew.applied
        assert anew.version > changed.version
        assert await all_policies(store, "ann") == [a_key()]
        await store.forget_user(tenant_of(), "ann", until_ms=NOW)  # a replay of the log
        assert await all_policies(store, "ann") == [a_key()]
