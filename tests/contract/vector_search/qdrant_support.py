"""Stores over Qdrant for tests: in the client's memory, and on the wire, which the adapter cannot tell apart."""

from collections.abc import Iterator
from uuid import uuid4

import pytest
from qdrant_client import AsyncQdrantClient
from servers.fleet import start_qdrant
from servers.qdrant_server import QdrantServer

from vector_search.adapters.qdrant_collections import QdrantDenseStore, QdrantLayout
from vector_search.adapters.qdrant_connection import QdrantConnection, connect

TIMEOUT_S = 20.0


@pytest.fixture(scope="session")
def qdrant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantServer]:
    """A server of our own, in its own process."""
    with start_qdrant(tmp_path_factory.mktemp("qdrant")) as server:
        yield server


def memory_store(client: AsyncQdrantClient | None = None, *, prefix: str = "test") -> QdrantDenseStore:
    """Give a store in a client's memory."""
    connection = QdrantConnection(client or AsyncQdrantClient(":memory:"), timeout_s=TIMEOUT_S)
    return QdrantDenseStore(connection, prefix=prefix, layout=QdrantLayout(), build_timeout_s=TIMEOUT_S)


def wire_store(address: str, *, prefix: str = "", rest_port: int = 6333, api_key: str = "") -> QdrantDenseStore:
    """Give a store on a server, under a prefix that nobody else has."""
    client = connect(f"qdrant://{address}", api_key=api_key, rest_port=rest_port, timeout_s=TIMEOUT_S)
    connection = QdrantConnection(client, timeout_s=TIMEOUT_S)
    layout = QdrantLayout(shard_number=1)
    return QdrantDenseStore(connection, prefix=prefix or uuid4().hex, layout=layout, build_timeout_s=TIMEOUT_S)
