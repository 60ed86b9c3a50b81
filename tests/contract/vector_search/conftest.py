"""A server of Qdrant's wire for the whole run."""

from collections.abc import Iterator

import pytest
from servers.fleet import start_qdrant
from servers.qdrant_server import QdrantServer


@pytest.fixture(scope="session")
def qdrant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantServer]:
    """A server of our own, in its own process."""
    server = start_qdrant(tmp_path_factory.mktemp("qdrant"))
    yield server
    server.stop()
