"""The graph in Neo4j: what several replicas of the service share."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from graph_service.adapters.neo4j import writes
from graph_service.adapters.neo4j.client import Neo4jClient, Neo4jOptions, Transaction
from graph_service.adapters.neo4j.degrees import KnownDegrees
from graph_service.adapters.neo4j.paths import read_paths
from graph_service.adapters.neo4j.rebuild import LEASE_MS, SLOTS, Neo4jGraphRebuild, count
from graph_service.adapters.neo4j.related import RelatedReader
from graph_service.adapters.neo4j.schema import Neo4jMigrationTarget, migrations
from graph_service.domain.graph import FilterableItem, ItemFacts, Keys, Mutation
from graph_service.domain.ports import Applied, GraphCounts, GraphPath, RelatedItems, RelatednessRule
from servicekit.filters import AttributeValue
from servicekit.migrations import check

_NOTHING = Applied({}, frozenset(), {})


class Neo4jGraphStore:
    """A graph that several processes read and write; `open` makes one.

    Args:
        client: Closed with the store.
        known_degrees: Of so many items the number of users is remembered, some 100 bytes each.
        known_for_s: For how long it is remembered at most; what another process changes may be as old, unless
            `look_again` tells.
    """

    def __init__(self, client: Neo4jClient, *, known_degrees: int, known_for_s: float) -> None:
        self._client = client
        self._degrees = KnownDegrees(known_degrees, known_for_s)
        self._related = RelatedReader(client, self._degrees)
        self._served_last = ""

    @classmethod
    async def open(cls, options: Neo4jOptions, *, known_degrees: int, known_for_s: float, patience_s: float) -> Self:
        """Wait for the server and make sure that its schema is ours.

        Raises:
            StartupError: It refuses us, is not there in time, or its schema is behind.
        """
        client = Neo4jClient(options)
        try:
            await client.wait_until_there(patience_s)
            await check(Neo4jMigrationTarget(client), migrations())
        except BaseException:
            await client.close()
            raise
        return cls(client, known_degrees=known_degrees, known_for_s=known_for_s)

    async def apply(self, mutations: Sequence[Mutation]) -> Applied:
        """See GraphStore."""
        if not mutations:
            return _NOTHING

        async def work(transaction: Transaction) -> Applied:
            slot, is_filled = await _state(transaction)
            # In one order, whichever serves, so that two replicas do not wait for each other.
            applied = {
                each: await writes.apply(transaction, each, mutations) for each in SLOTS if each == slot or is_filled
            }
            return applied[slot]

        applied = await self._client.write(work)
        self._degrees.forget(applied.new_edges)
        return applied

    async def related(self, item_keys: Keys, rule: RelatednessRule) -> Sequence[RelatedItems]:
        """See GraphStore."""
        return await self._related.related(item_keys, rule)

    async def facts(self, item_keys: Keys) -> Mapping[int, ItemFacts]:
        """See GraphStore."""
        return _facts(await self._collected("item_facts", keys=item_keys.tolist()))

    async def look_again(self, described: Keys, taken: Keys) -> Mapping[int, ItemFacts]:
        """See GraphStore."""

        # Whoever may write asks the leader, and the bookmark of that makes replicas wait until they know as much.
        async def work(transaction: Transaction) -> Sequence[Any]:
            row = await transaction.one("item_facts", keys=described.tolist())
            return row[0] if row else ()

        rows = await self._client.write(work)
        self._degrees.forget(taken.tolist())
        return _facts(rows)

    async def filterable(self, item_keys: Keys) -> Mapping[int, FilterableItem]:
        """See GraphStore."""
        rows = await self._collected("item_attributes", keys=item_keys.tolist())
        return {
            key: FilterableItem(item_type, created_at_ms, _attributes(attributes))
            for key, item_type, created_at_ms, attributes in rows
        }

    async def paths(self, history_keys: Keys, item_keys: Keys, rule: RelatednessRule) -> Sequence[GraphPath]:
        """See GraphStore."""
        return await self._client.read(lambda transaction: read_paths(transaction, history_keys, item_keys, rule))

    async def busiest_items(self, limit: int) -> Keys:
        """See GraphStore."""
        return np.array(await self._collected("busiest_items", limit=limit), dtype=np.int64)

    async def counts(self) -> GraphCounts:
        """See GraphStore."""
        return await count(self._client, (await self._client.read(_state))[0])

    async def serving(self) -> str:
        """See GraphStore."""
        name = str((await self._client.read(_state))[0])
        if name != self._served_last:
            self._degrees.clear()
        self._served_last = name
        return name

    async def begin_rebuild(self) -> Neo4jGraphRebuild:
        """See GraphStore."""
        return await Neo4jGraphRebuild.begin(self._client, self._related.anew())

    async def close(self) -> None:
        """See GraphStore."""
        await self._client.close()

    async def _collected(self, query: str, **parameters: Any) -> Sequence[Any]:
        row = await self._client.read(lambda transaction: transaction.one(query, **parameters))
        return row[0] if row else ()


async def _state(transaction: Transaction) -> tuple[int, bool]:
    row = await transaction.one("graph_state", lease_ms=LEASE_MS)
    return (row[0], bool(row[1])) if row else (SLOTS[0], False)


def _facts(rows: Sequence[Any]) -> dict[int, ItemFacts]:
    return {key: ItemFacts(tenant, from_ms, until_ms) for key, tenant, from_ms, until_ms in rows}


def _attributes(encoded: str) -> dict[str, AttributeValue]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(encoded).items()}
