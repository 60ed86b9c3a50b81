"""A graph built in the slot that does not serve.

The node :Graph says which slot serves, who rebuilds, since when and whether the other slot is written along. A rebuild
that nobody has touched for LEASE_MS is dead: nothing is written along any more, and it cannot be finished.
"""

import uuid
from collections.abc import Sequence
from typing import Final, Self

from graph_service.adapters.neo4j import writes
from graph_service.adapters.neo4j.client import Neo4jClient, Transaction
from graph_service.adapters.neo4j.related import RelatedReader
from graph_service.domain.graph import Keys, Mutation
from graph_service.domain.ports import GraphCounts, RelatedItems, RelatednessRule
from servicekit.errors import NotFoundError

LEASE_MS: Final = 120_000

SLOTS: Final = (0, -(1 << 63))
"""What is added to the keys of either graph."""

_REMOVED_AT_ONCE: Final = 5_000


def other(slot: int) -> int:
    """Give the slot that does not serve when this one does."""
    return SLOTS[slot == SLOTS[0]]


class Neo4jGraphRebuild:
    """See GraphRebuild; `begin` makes one."""

    def __init__(self, client: Neo4jClient, name: str, slot: int, reader: RelatedReader) -> None:
        self._client = client
        self._name = name
        self._slot = slot
        self._reader = reader

    @classmethod
    async def begin(cls, client: Neo4jClient, reader: RelatedReader) -> Self:
        """Claim the idle slot, empty it, and have it written along from then on."""
        name = uuid.uuid4().hex
        row = await client.write(lambda transaction: transaction.one("claim_rebuild", rebuild=name))
        rebuild = cls(client, name, other(row[0] if row else SLOTS[0]), reader)
        await rebuild.clear(rebuild._slot, fills=False)
        await client.write(lambda transaction: rebuild.hold(transaction, fills=True))
        return rebuild

    async def fill(self, mutations: Sequence[Mutation]) -> None:
        """See GraphRebuild."""

        async def work(transaction: Transaction) -> None:
            await self.hold(transaction, fills=True)
            await writes.apply(transaction, self._slot, mutations)

        await self._client.write(work)

    async def counts(self) -> GraphCounts:
        """See GraphRebuild."""
        await self._client.write(lambda transaction: self.hold(transaction, fills=True))
        return await count(self._client, self._slot)

    async def related(self, item_keys: Keys, rule: RelatednessRule) -> Sequence[RelatedItems]:
        """See GraphRebuild."""
        await self._client.write(lambda transaction: self.hold(transaction, fills=True))
        return await self._reader.related(item_keys, rule, slot=self._slot)

    async def finish(self) -> None:
        """See GraphRebuild."""

        async def work(transaction: Transaction) -> None:
            row = await transaction.one("finish_rebuild", rebuild=self._name, slot=self._slot, lease_ms=LEASE_MS)
            self._check(row is not None)

        await self._client.write(work)
        await self.clear(other(self._slot))

    async def abandon(self) -> None:
        """See GraphRebuild."""
        await self._client.write(lambda transaction: transaction.one("abandon_rebuild", rebuild=self._name))

    async def hold(self, transaction: Transaction, *, fills: bool) -> None:
        """Keep the claim.

        Raises:
            NotFoundError: Another rebuild has taken its place, or it was not touched for too long.
        """
        row = await transaction.one("hold_rebuild", rebuild=self._name, fills=fills, lease_ms=LEASE_MS)
        self._check(row is not None)

    async def clear(self, slot: int, *, fills: bool | None = None) -> None:
        """Empty a slot, a part at a time; while the claim is held, if it says whether it is written along."""
        first, last = bounds(slot)
        for query in ("clear_relations", "clear_items", "clear_users", "clear_nodes"):

            async def work(transaction: Transaction, query: str = query) -> int:
                if fills is not None:
                    await self.hold(transaction, fills=fills)
                row = await transaction.one(query, first=first, last=last, limit=_REMOVED_AT_ONCE)
                return int(row[0]) if row else 0

            while await self._client.write(work) == _REMOVED_AT_ONCE:
                pass

    def _check(self, is_ours: bool) -> None:
        if not is_ours:
            raise NotFoundError("this rebuild has ended, or another one has taken its place")


def bounds(slot: int) -> tuple[int, int]:
    """Give the first and the last key of a slot."""
    return slot, slot + (1 << 63) - 1


async def count(client: Neo4jClient, slot: int) -> GraphCounts:
    """Count what the graph in a slot holds."""
    first, last = bounds(slot)

    async def work(transaction: Transaction) -> GraphCounts:
        items = await transaction.one("count_items", first=first, last=last)
        users = await transaction.one("count_users", first=first, last=last)
        links = await transaction.one("count_links", first=first, last=last)
        described, relations = items or (0, 0)
        return GraphCounts(described, (users or (0,))[0], relations, (links or (0,))[0])

    return await client.read(work)
