"""The plan of every query that ships: it begins at an index, and nothing is multiplied with everything."""

from typing import Any

import pytest

from graph_service.adapters.neo4j.client import QUERIES, Neo4jClient, Transaction

pytestmark = pytest.mark.integration

FORBIDDEN = ("AllNodesScan", "NodeByLabelScan", "CartesianProduct", "AllRelationshipsScan", "RelationshipTypeScan")
SEARCH_NOTHING = {"ping", "schema"}
PARAMETERS: dict[str, Any] = {
    "keys": [1, 2],
    "users": [1],
    "nodes": [1],
    "rows": [[1, 2]],
    "slot": 0,
    "limit": 3,
    "first": 0,
    "last": 9,
    "rebuild": "name",
    "fills": True,
    "lease_ms": 1,
    "owner": "somebody",
    "ttl_ms": 1,
    "number": 1,
    "name": "name",
    "checksum": "sum",
}
QUERIES_SHIPPED = sorted(path.stem for path in QUERIES.glob("*.cypher") if path.stem not in SEARCH_NOTHING)


def operators(plan: Any) -> list[str]:
    """Give the names of a plan's steps, without the runtime's name behind them."""
    return [
        plan["operatorType"].split("@")[0],
        *(name for child in plan.get("children", ()) for name in operators(child)),
    ]


async def planned(transaction: Transaction, query: str) -> list[str]:
    """Let the server plan a query without running it."""
    text = f"EXPLAIN {(QUERIES / query).with_suffix('.cypher').read_text()}"
    result = await transaction.raw.run(text, PARAMETERS)
    summary = await result.consume()
    return operators(summary.plan)


@pytest.mark.parametrize("query", QUERIES_SHIPPED)
async def test_a_query_begins_at_an_index(client: Neo4jClient, query: str) -> None:
    steps = await client.write(lambda transaction: planned(transaction, query))
    assert not [step for step in steps if step.startswith(FORBIDDEN)], steps
    assert [step for step in steps if "Seek" in step], steps


async def test_a_scan_would_be_noticed(client: Neo4jClient) -> None:
    async def plan(transaction: Transaction) -> list[str]:
        result = await transaction.raw.run("EXPLAIN MATCH (n), (item:Item) WHERE n.name = item.name RETURN n")
        return operators((await result.consume()).plan)

    assert [step for step in await client.write(plan) if step.startswith(FORBIDDEN)]


async def test_the_newest_users_are_read_in_the_index_order(client: Neo4jClient) -> None:
    steps = await client.write(lambda transaction: planned(transaction, "newest_users_of_items"))
    assert "Top" not in steps, "the index gives them newest first, so that the limit is where reading ends"
    assert "Limit" in steps
