"""The schema of the graph in Neo4j, and where its migrations are recorded."""

from collections.abc import Mapping
from typing import Final

from graph_service.adapters.neo4j.client import QUERIES, Neo4jClient
from servicekit.migrations import Migration, parse_migrations

STATEMENT_TIMEOUT_S: Final = 110.0
"""An index of a large graph takes its time; the lock of a run is kept a little longer."""


def migrations() -> tuple[Migration, ...]:
    """Read what the service ships."""
    return parse_migrations((QUERIES / "schema.cypher").read_text(), comment="//")


class Neo4jMigrationTarget:
    """Keeps the lock and the records as nodes beside the graph."""

    def __init__(self, client: Neo4jClient) -> None:
        self._client = client

    @property
    def name(self) -> str:
        """See MigrationTarget."""
        return self._client.name

    async def lock(self, owner: str, ttl_s: float) -> bool:
        """See MigrationTarget."""
        await self.execute(
            "CREATE CONSTRAINT schema_lock IF NOT EXISTS FOR (lock:SchemaLock) REQUIRE lock.name IS UNIQUE"
        )
        await self.execute(
            "CREATE CONSTRAINT schema_migration IF NOT EXISTS FOR (done:SchemaMigration) REQUIRE done.number IS UNIQUE"
        )
        row = await self._client.write(
            lambda transaction: transaction.one("schema_lock", owner=owner, ttl_ms=round(ttl_s * 1000))
        )
        return row is not None

    async def unlock(self, owner: str) -> None:
        """See MigrationTarget."""
        await self._client.write(lambda transaction: transaction.run("schema_unlock", owner=owner))

    async def applied(self) -> Mapping[int, str]:
        """See MigrationTarget."""
        rows = await self._client.read(lambda transaction: transaction.run("schema_applied"))
        return dict(rows)

    async def execute(self, statement: str) -> None:
        """See MigrationTarget."""
        await self._client.write(lambda transaction: transaction.execute(statement), STATEMENT_TIMEOUT_S)

    async def record(self, migration: Migration) -> None:
        """See MigrationTarget."""
        await self._client.write(
            lambda transaction: transaction.run(
                "schema_record", number=migration.number, name=migration.name, checksum=migration.checksum
            )
        )
