"""The store on CQL keeps the contract, and tells the same story as the one in memory."""

from random import Random

import pytest
from contract.profile_store.profile_store_contract import (
    InteractionStoreContract,
    InteractionTypeStoreContract,
    ItemStoreContract,
    PopularityStoreContract,
    Store,
    tell_a_story,
)
from integration.profile_store.cql_stores import open_cql

from profile_store.adapters.cql.store import CqlProfileStore
from profile_store.adapters.memory import MemoryProfileStore

pytestmark = pytest.mark.integration


class TestCqlItems(ItemStoreContract):
    adapter = "cql"

    @pytest.fixture
    def store(self, cql_store: CqlProfileStore) -> Store:
        return cql_store


class TestCqlInteractions(InteractionStoreContract):
    adapter = "cql"

    @pytest.fixture
    def store(self, cql_store: CqlProfileStore) -> Store:
        return cql_store


class TestCqlInteractionTypes(InteractionTypeStoreContract):
    adapter = "cql"

    @pytest.fixture
    def store(self, cql_store: CqlProfileStore) -> Store:
        return cql_store


class TestCqlPopularity(PopularityStoreContract):
    adapter = "cql"

    @pytest.fixture
    def store(self, cql_store: CqlProfileStore) -> Store:
        return cql_store


@pytest.mark.parametrize("seed", range(3))
async def test_cql_and_memory_tell_the_same_story(keyspace_url: str, seed: int) -> None:
    opened = [await open_cql(keyspace_url)]

    async def reopened(_: Store) -> Store:
        await opened[-1].close()
        opened.append(await open_cql(keyspace_url))
        return opened[-1]

    try:
        await tell_a_story(Random(seed), MemoryProfileStore(), opened[-1], reopened=reopened, steps=40)
    finally:
        await opened[-1].close()
