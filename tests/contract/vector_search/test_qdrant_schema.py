"""Migrating collections of vectors, in the client's memory and on the wire."""

from collections.abc import AsyncIterator
from typing import ClassVar
from uuid import uuid4

import numpy as np
import pytest
from contract.servicekit.migration_target_contract import MigrationTargetContract
from contract.vector_search.qdrant_support import TIMEOUT_S, wire_store
from qdrant_client import AsyncQdrantClient, models
from servers.qdrant_server import QdrantServer

from servicekit.errors import InvalidArgumentError
from servicekit.migrations import check, migrate, parse_migrations
from vector_search.adapters.qdrant_connection import QdrantConnection, connect
from vector_search.adapters.qdrant_payload import standing_indexes
from vector_search.adapters.qdrant_schema import QdrantMigrationTarget, migrations
from vector_search.domain.dense import Distance, Payload, Points, Space
from vector_search.domain.ports import Collection
from vector_search.migrate import main

TEXT = """
# migration 0001 expand: one
INDEX tenant TENANT;
INDEX attributes.names KEYWORD;
# migration 0002 expand: two
INDEX sample FLOAT;
# migration 0003 contract: no one
DROP INDEX attributes.names;
"""


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect")
class TestQdrantInMemory(MigrationTargetContract):
    adapter: ClassVar = "qdrant, client's memory"
    text, comment = TEXT, "#"

    @pytest.fixture
    async def target(self) -> AsyncIterator[QdrantMigrationTarget]:
        connection = QdrantConnection(AsyncQdrantClient(":memory:"), timeout_s=TIMEOUT_S)
        yield QdrantMigrationTarget(connection, prefix="test")
        await connection.close()


class TestQdrantOnTheWire(MigrationTargetContract):
    adapter: ClassVar = "qdrant, on the wire"
    text, comment = TEXT, "#"

    @pytest.fixture
    async def client(self, qdrant: QdrantServer) -> AsyncIterator[AsyncQdrantClient]:
        client = connect(f"qdrant://{qdrant.address}", api_key="", rest_port=6333, timeout_s=TIMEOUT_S)
        yield client
        await client.close()

    @pytest.fixture
    def prefix(self) -> str:
        return uuid4().hex

    @pytest.fixture
    def target(self, client: AsyncQdrantClient, prefix: str) -> QdrantMigrationTarget:
        return QdrantMigrationTarget(QdrantConnection(client, timeout_s=TIMEOUT_S), prefix=prefix)

    async def test_the_collections_of_this_deployment_get_their_indexes_and_no_others(
        self, target: QdrantMigrationTarget, client: AsyncQdrantClient, prefix: str
    ) -> None:
        params = models.VectorParams(size=2, distance=models.Distance.COSINE)
        ours, others = f"{prefix}..content.use.0", f"{prefix}x..content.use.0"
        for name in (ours, others):
            await client.create_collection(name, params, shard_number=1)
        assert await migrate(target, migrations()) == list(migrations())
        assert set((await client.get_collection(ours)).payload_schema) == set(standing_indexes())
        assert not (await client.get_collection(others)).payload_schema
        await target.execute("DROP INDEX sample")
        await target.execute("DROP INDEX sample")
        assert set((await client.get_collection(ours)).payload_schema) == set(standing_indexes()) - {"sample"}

    async def test_a_service_of_today_works_on_the_schema_of_a_newer_one(
        self, target: QdrantMigrationTarget, qdrant: QdrantServer, prefix: str
    ) -> None:
        """Both run: today's store makes a collection, a newer schema is put over it, and today's store goes on."""
        store = wire_store(qdrant.address, prefix=prefix)
        index = await store.create("shop", "content.use.0", Space(2, Distance.COSINE))
        await store.assign("shop", [Collection("content.use.0", "use")])
        await migrate(target, migrations())
        newer = parse_migrations("# migration 0002 expand: newer\nINDEX attributes.n.price FLOAT;", comment="#")
        assert await migrate(target, (*migrations(), *newer)) == list(newer)
        await check(target, migrations())
        assert await migrate(target, migrations()) == []
        await index.upsert(Points(np.array([7], np.int64), np.ones((1, 2), np.float32), [Payload()]))
        again = await store.open("shop", "content.use.0")
        assert await again.count() == 1
        await store.close()

    def test_the_command_migrates_and_has_nothing_to_do_then(
        self, qdrant: QdrantServer, prefix: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("VECTOR_STORE_URL", f"qdrant://{qdrant.address}")
        monkeypatch.setenv("QDRANT_PREFIX", prefix)
        assert main(["--dry-run"]) == 0
        assert "0001" in capsys.readouterr().out
        assert main([]) == 0
        assert "0001" in capsys.readouterr().out
        assert main([]) == 0
        assert "0001" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "statement", ["INDEX sample KEYWORD", "INDEX attributes.names TENANT", "INDEX tenant BOTH", "DROP tenant", ""]
)
async def test_what_is_no_statement_is_refused(statement: str) -> None:
    connection = QdrantConnection(AsyncQdrantClient(":memory:"), timeout_s=TIMEOUT_S)
    with pytest.raises(InvalidArgumentError, match="no statement"):
        await QdrantMigrationTarget(connection, prefix="test").execute(statement)
    await connection.close()


def test_the_migrations_name_what_every_new_collection_gets() -> None:
    named = [statement.split()[1] for each in migrations() for statement in each.statements]
    assert named == list(standing_indexes())
