"""A Neo4j of this run's own: the graph fills a whole database, and these tests empty, freeze and kill it."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from servers.neo4j_server import USER, Neo4jServer
from servers.server import free_port
from servers.settings import ServersSettings

from graph_service.adapters.neo4j.client import Neo4jClient, Neo4jOptions
from graph_service.adapters.neo4j.schema import Neo4jMigrationTarget, migrations
from servicekit.migrations import migrate


@pytest.fixture(scope="session")
def neo4j_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Neo4jServer]:
    server = Neo4jServer(tmp_path_factory.mktemp("neo4j"), free_port(), ServersSettings())
    server.start()
    with server:
        asyncio.run(_migrate(_options(server)))
        yield server


@pytest.fixture
def options(neo4j_server: Neo4jServer) -> Neo4jOptions:
    return _options(neo4j_server)


@pytest.fixture
async def client(options: Neo4jOptions) -> AsyncIterator[Neo4jClient]:
    """A client of a database that has the schema and is empty."""
    client = Neo4jClient(options)
    await client.write(lambda transaction: transaction.execute("MATCH (n:Item|User|Node) DETACH DELETE n"))
    await client.write(lambda transaction: transaction.execute("MATCH (graph:Graph) SET graph.slot = 0"))
    yield client
    await client.close()


def _options(server: Neo4jServer) -> Neo4jOptions:
    return Neo4jOptions(server.address, USER, server.password, read_timeout_s=60.0, write_timeout_s=200.0)


async def _migrate(options: Neo4jOptions) -> None:
    client = Neo4jClient(options)
    await migrate(Neo4jMigrationTarget(client), migrations())
    await client.close()
