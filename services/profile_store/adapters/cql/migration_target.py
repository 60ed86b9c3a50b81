"""A keyspace as what is migrated: the lock and the records are rows in it."""

import asyncio
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from cassandra.query import SimpleStatement

from profile_store.adapters.cql import policies
from profile_store.adapters.cql.connection import CqlConnection
from servicekit.errors import DeadlineExceededError, UnavailableError
from servicekit.migrations import Migration, parse_migrations

_TABLES = (
    "CREATE TABLE IF NOT EXISTS schema_lock (name text PRIMARY KEY, owner text)",
    "CREATE TABLE IF NOT EXISTS schema_migrations (number int PRIMARY KEY, name text, checksum text)",
)
_COMPACTION = "{'class': 'SizeTieredCompactionStrategy'}"
_STATEMENT_S = 30.0
_TRIES = 3
_TRY_AGAIN_S = 1.0


def schema() -> tuple[Migration, ...]:
    """Read the migrations that the service ships."""
    text = files("profile_store.adapters").joinpath("schema.cql").read_text(encoding="utf-8")
    return parse_migrations(text, comment="--")


class CqlMigrationTarget:
    """The keyspace of a connection; see MigrationTarget.

    The lock is taken by conditional statements (LWT): two runs at once must not both believe that they have it.

    Args:
        connection: Its life belongs to the caller.
        scylla: Whether the server knows Scylla's own clauses.
        replication_factor: On how many nodes of each datacenter rows lie, when the keyspace has to be made.
    """

    def __init__(self, connection: CqlConnection, *, scylla: bool, replication_factor: int) -> None:
        self._connection = connection
        self._scylla = scylla
        self._replication_factor = replication_factor
        self._has_tables = False

    @property
    def name(self) -> str:
        """See MigrationTarget."""
        return f"keyspace {self._connection.address.keyspace}"

    async def lock(self, owner: str, ttl_s: float) -> bool:
        """See MigrationTarget."""
        if not self._has_tables:
            await self._make_keyspace()
            for table in _TABLES:
                await self._run(table)
            self._has_tables = True
        ttl = max(1, round(ttl_s))
        taken, *_ = await self._run(
            "INSERT INTO schema_lock (name, owner) VALUES ('schema', %s) IF NOT EXISTS USING TTL %s", owner, ttl
        )
        if taken[0]:
            return True
        kept, *_ = await self._run(
            "UPDATE schema_lock USING TTL %s SET owner = %s WHERE name = 'schema' IF owner = %s", ttl, owner, owner
        )
        return bool(kept[0])

    async def unlock(self, owner: str) -> None:
        """See MigrationTarget."""
        await self._run("DELETE FROM schema_lock WHERE name = 'schema' IF owner = %s", owner)

    async def applied(self) -> Mapping[int, str]:
        """See MigrationTarget."""
        if not self._connection.has_keyspace:
            return {}
        tables = await self._run(
            "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s",
            self._connection.address.keyspace,
            in_keyspace=False,
        )
        if ("schema_migrations",) not in tables:
            return {}
        return dict(await self._run("SELECT number, checksum FROM schema_migrations"))

    async def execute(self, statement: str) -> None:
        """See MigrationTarget."""
        await self._run(statement.replace("{compaction}", _COMPACTION))

    async def record(self, migration: Migration) -> None:
        """See MigrationTarget."""
        await self._run(
            "INSERT INTO schema_migrations (number, name, checksum) VALUES (%s, %s, %s)",
            migration.number,
            migration.name,
            migration.checksum,
        )

    async def _run(self, text: str, *parameters: Any, in_keyspace: bool = True) -> list[tuple[Any, ...]]:
        """Execute a statement, and wait until all nodes that are up have the same schema.

        What failed may have been done. Every statement here may be sent again: it asks for what is there already, and
        the lock knows its owner.
        """
        tries = 0
        while True:
            tries += 1
            try:
                rows: list[tuple[Any, ...]] = await self._connection.run(
                    lambda session: _execute(session, text, parameters), in_keyspace=in_keyspace
                )
            except (UnavailableError, DeadlineExceededError):
                if tries == _TRIES:
                    raise
                await asyncio.sleep(_TRY_AGAIN_S)
            else:
                return rows

    async def _make_keyspace(self) -> None:
        if self._connection.has_keyspace:
            return
        factors = ", ".join(f"'{name}': {self._replication_factor}" for name in self._connection.datacenters)
        # Conditional statements (LWT) need vnodes on every Scylla before 2025.4.
        tablets = " AND tablets = {'enabled': false}" if self._scylla else ""
        await self._run(
            f"CREATE KEYSPACE IF NOT EXISTS {self._connection.address.keyspace} "
            f"WITH replication = {{'class': 'NetworkTopologyStrategy', {factors}}}{tablets}",
            in_keyspace=False,
        )


def _execute(session: Any, text: str, parameters: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    future = session.execute_async(
        SimpleStatement(text, is_idempotent=False),
        parameters or None,
        timeout=_STATEMENT_S,
        execution_profile=policies.CONDITIONAL,
    )
    result = future.result()
    if not future.is_schema_agreed:
        raise UnavailableError("the nodes do not agree on the schema yet: run this again")
    return list(result)
