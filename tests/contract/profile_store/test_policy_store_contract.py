"""The stores of policies that need no server keep the contract, and the file keeps it over a restart."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from contract.profile_store.policy_store_contract import (
    PolicyStoreContract,
    a_key,
    a_reward,
    an_episode,
    episode_ids,
    get,
    put,
    reward_ids,
)

from profile_store.adapters.memory import MemoryProfileStore
from profile_store.adapters.sqlite import SqliteProfileStore
from profile_store.domain.ports import PolicyStore


async def open_sqlite(folder: Path) -> SqliteProfileStore:
    return await SqliteProfileStore.open(
        folder / "profile.db", synchronous="normal", context_cache_bytes=1_000, item_cache_size=1
    )


class TestMemoryPolicies(PolicyStoreContract):
    adapter = "memory"

    @pytest.fixture
    def store(self) -> PolicyStore:
        return MemoryProfileStore().policies


class TestSqlitePolicies(PolicyStoreContract):
    adapter = "sqlite"

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[PolicyStore]:
        async with await open_sqlite(tmp_path) as store:
            yield store.policies


async def test_a_file_keeps_what_agents_keep(tmp_path: Path) -> None:
    async with await open_sqlite(tmp_path) as store:
        version = (await put(store.policies, a_key())).version
        await store.policies.append_episodes([an_episode("e")])
        await store.policies.append_rewards([a_reward("r")])
    async with await open_sqlite(tmp_path) as store:
        kept = await get(store.policies, a_key())
        assert kept is not None
        assert kept.version == version
        assert await episode_ids(store.policies) == ["e"]
        assert await reward_ids(store.policies) == ["r"]
