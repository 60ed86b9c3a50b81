"""A keyspace for the whole run, and replicas on it; tests keep apart by the names of their tenants."""

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from cassandra.cluster import Cluster
from cassandra.query import PreparedStatement
from integration.profile_store.cql_stores import open_cql
from servers.addresses import Addresses

from profile_store.adapters.cql.policies import CONDITIONAL, execution_profiles
from profile_store.adapters.cql.store import CqlProfileStore
from profile_store.bootstrap import open_migration_target, read_migrations
from profile_store.settings import ProfileStoreSettings
from servicekit.migrations import migrate

TAKEN_AHEAD_S = 3 * 86_400


@pytest.fixture(autouse=True)
def _no_write_is_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse what Scylla refuses and Cassandra takes: write timestamps more than three days ahead."""
    bind = PreparedStatement.bind

    def checked(statement: Any, values: Any) -> Any:
        for column, value in zip(statement.column_metadata, values, strict=False):
            if column.name == "[timestamp]":
                assert value / 1e6 < time.time() + TAKEN_AHEAD_S, statement.query_string
        return bind(statement, values)

    monkeypatch.setattr(PreparedStatement, "bind", checked)


@pytest.fixture(scope="session")
def cassandra(servers: Addresses) -> str:
    """Host and port of the server; TEST_CASSANDRA names another one than that of `make servers`."""
    return os.environ.get("TEST_CASSANDRA") or servers.cassandra


@pytest.fixture(scope="session")
def keyspaces(cassandra: str) -> Iterator[list[str]]:
    """Take names of keyspaces that are dropped after the run."""
    names: list[str] = []
    yield names
    host, _, port = cassandra.partition(":")
    cluster = Cluster(
        [host],
        port=int(port),
        protocol_version=4,
        execution_profiles=execution_profiles(datacenter="", timeout_s=60.0, speculative_delay_s=0.0),
    )
    try:
        session = cluster.connect()
        for name in names:
            session.execute(f"DROP KEYSPACE IF EXISTS {name}", execution_profile=CONDITIONAL)
    finally:
        cluster.shutdown()


@pytest.fixture(scope="session")
def keyspace_url(cassandra: str, keyspaces: list[str]) -> str:
    """The URL of a keyspace that is migrated."""
    name = f"profiles_{uuid.uuid4().hex[:12]}"
    keyspaces.append(name)
    settings = ProfileStoreSettings(profile_store_url=f"cql://{cassandra}/{name}", cql_replication_factor=1)

    async def run() -> None:
        async with open_migration_target(settings) as target:
            await migrate(target, read_migrations(settings))

    asyncio.run(run())
    return settings.profile_store_url


@pytest.fixture
async def cql_store(keyspace_url: str) -> AsyncIterator[CqlProfileStore]:
    async with await open_cql(keyspace_url) as store:
        yield store


@pytest.fixture
async def second_cql_store(keyspace_url: str) -> AsyncIterator[CqlProfileStore]:
    async with await open_cql(keyspace_url) as store:
        yield store
