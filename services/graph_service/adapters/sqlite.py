"""The graph in one SQLite file: the embedded default."""

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from graph_service.adapters import sqlite_paths, sqlite_related, sqlite_writes
from graph_service.adapters.sqlite_arrays import as_json
from graph_service.adapters.sqlite_schema import MIGRATIONS
from graph_service.domain.graph import FilterableItem, ItemFacts, Keys, Mutation
from graph_service.domain.ports import Applied, GraphPath, RelatedItems, RelatednessRule
from servicekit.filters import AttributeValue
from servicekit.sqlite import Database, Synchronous

T = TypeVar("T")

_FACTS = """
SELECT i.item_key, i.tenant, i.visible_from_ms, i.visible_until_ms
FROM json_each(?) k CROSS JOIN item i ON i.item_key = k.value
"""
_FILTERABLE = """
SELECT i.item_key, i.item_type, i.created_at_ms, i.attributes
FROM json_each(?) k CROSS JOIN item i ON i.item_key = k.value AND i.item_type IS NOT NULL
"""
_BUSIEST = "SELECT item_key FROM item_degree WHERE users > 0 ORDER BY users DESC, item_key LIMIT ?"


class SqliteGraphStore:
    """Opens or makes the file, for one process.

    Args:
        path: The file; its folder is made.
        synchronous: "full": a commit is on the disk before the log's offsets move on behind it; "normal": it survives
            a killed process, and a power cut may leave out what the log counts as applied.
    """

    def __init__(self, path: Path, *, synchronous: Synchronous = "full") -> None:
        self._database = Database(path, migrations=MIGRATIONS, synchronous=synchronous)

    async def apply(self, mutations: Sequence[Mutation]) -> Applied:
        """See GraphStore."""
        return await self._database.write(lambda connection: sqlite_writes.apply(connection, mutations))

    async def related(self, item_keys: Keys, rule: RelatednessRule) -> Sequence[RelatedItems]:
        """See GraphStore."""
        return await self._read(lambda connection: sqlite_related.read_related(connection, item_keys, rule))

    async def facts(self, item_keys: Keys) -> Mapping[int, ItemFacts]:
        """See GraphStore."""
        rows = await self._rows(_FACTS, as_json(item_keys))
        return {key: ItemFacts(tenant, from_ms, until_ms) for key, tenant, from_ms, until_ms in rows}

    async def look_again(self, described: Keys, taken: Keys) -> Mapping[int, ItemFacts]:  # noqa: ARG002 - nothing is remembered
        """See GraphStore."""
        return await self.facts(described)

    async def filterable(self, item_keys: Keys) -> Mapping[int, FilterableItem]:
        """See GraphStore."""
        rows = await self._rows(_FILTERABLE, as_json(item_keys))
        return {
            key: FilterableItem(item_type, created_at_ms, _attributes(attributes))
            for key, item_type, created_at_ms, attributes in rows
        }

    async def paths(self, history_keys: Keys, item_keys: Keys, rule: RelatednessRule) -> Sequence[GraphPath]:
        """See GraphStore."""
        return await self._read(lambda connection: sqlite_paths.read_paths(connection, history_keys, item_keys, rule))

    async def busiest_items(self, limit: int) -> Keys:
        """See GraphStore."""
        rows = await self._rows(_BUSIEST, limit)
        return np.array([key for (key,) in rows], dtype=np.int64)

    async def close(self) -> None:
        """See GraphStore."""
        await self._database.close()

    async def _rows(self, sql: str, parameter: Any) -> list[tuple[Any, ...]]:
        return await self._read(lambda connection: connection.execute(sql, (parameter,)).fetchall())

    async def _read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        def in_one_snapshot(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN")
            try:
                return fn(connection)
            finally:
                connection.execute("COMMIT")

        return await self._database.read_in_thread(in_one_snapshot)


def _attributes(encoded: str) -> dict[str, AttributeValue]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(encoded).items()}
