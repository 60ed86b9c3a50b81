"""The promises of the GraphStore port on a real Neo4j."""

import pytest
from contract.graph_service.test_graph_store import GraphStoreContract

from graph_service.adapters.neo4j.client import Neo4jClient
from graph_service.adapters.neo4j.store import Neo4jGraphStore
from graph_service.domain.ports import GraphStore

pytestmark = pytest.mark.integration


class TestNeo4jGraphStore(GraphStoreContract):
    adapter = "neo4j"

    @pytest.fixture
    async def store(self, client: Neo4jClient) -> GraphStore:
        return Neo4jGraphStore(client, known_degrees=1_000, known_for_s=300.0)
