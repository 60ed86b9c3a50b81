"""The stores that need no server keep the contract, and tell the same story."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest
from contract.profile_store.profile_store_contract import (
    InteractionStoreContract,
    InteractionTypeStoreContract,
    ItemStoreContract,
    PopularityStoreContract,
    Store,
    a_deed,
    an_item,
    context_of,
    key,
    popular,
    tell_a_story,
)

from profile_store.adapters.memory import MemoryProfileStore
from profile_store.adapters.sqlite import SqliteProfileStore
from profile_store.domain.popularity import Window


class TestMemoryItems(ItemStoreContract):
    adapter = "memory"

    @pytest.fixture
    def store(self) -> Store:
        return MemoryProfileStore()


class TestMemoryInteractions(InteractionStoreContract):
    adapter = "memory"

    @pytest.fixture
    def store(self) -> Store:
        return MemoryProfileStore()


class TestMemoryInteractionTypes(InteractionTypeStoreContract):
    adapter = "memory"

    @pytest.fixture
    def store(self) -> Store:
        return MemoryProfileStore()


class TestMemoryPopularity(PopularityStoreContract):
    adapter = "memory"

    @pytest.fixture
    def store(self) -> Store:
        return MemoryProfileStore()


@pytest.fixture
async def sqlite_store(tmp_path: Path) -> AsyncIterator[Store]:
    async with await open_sqlite(tmp_path) as store:
        yield store


async def open_sqlite(folder: Path) -> SqliteProfileStore:
    return await SqliteProfileStore.open(
        folder / "profile.db", synchronous="normal", context_cache_bytes=1_000_000, item_cache_size=100
    )


class TestSqliteItems(ItemStoreContract):
    adapter = "sqlite"

    @pytest.fixture
    def store(self, sqlite_store: Store) -> Store:
        return sqlite_store


class TestSqliteInteractions(InteractionStoreContract):
    adapter = "sqlite"

    @pytest.fixture
    def store(self, sqlite_store: Store) -> Store:
        return sqlite_store


class TestSqliteInteractionTypes(InteractionTypeStoreContract):
    adapter = "sqlite"

    @pytest.fixture
    def store(self, sqlite_store: Store) -> Store:
        return sqlite_store


class TestSqlitePopularity(PopularityStoreContract):
    adapter = "sqlite"

    @pytest.fixture
    def store(self, sqlite_store: Store) -> Store:
        return sqlite_store


@pytest.mark.parametrize("seed", range(6))
async def test_both_adapters_tell_the_same_story(tmp_path: Path, seed: int) -> None:
    opened = [await open_sqlite(tmp_path)]

    async def reopened(_: Store) -> Store:
        await opened[-1].close()
        opened.append(await open_sqlite(tmp_path))
        return opened[-1]

    try:
        await tell_a_story(Random(seed), MemoryProfileStore(), opened[-1], reopened=reopened)
    finally:
        await opened[-1].close()


async def test_writes_at_once_all_count(tmp_path: Path) -> None:
    async with await open_sqlite(tmp_path) as store:
        await store.put_items([an_item("a")])
        await asyncio.gather(*(store.append([a_deed("a"), a_deed("a", user_id=f"{n}")]) for n in range(100)))
        assert await popular(store, Window.ALL) == {key("a"): 200.0}
        assert (await context_of(store)).interaction_count == 100
    async with await open_sqlite(tmp_path) as store:
        assert await popular(store, Window.ALL) == {key("a"): 200.0}
