"""The graph in one SQLite file: the embedded default."""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from graph_service.adapters import sqlite_paths, sqlite_related, sqlite_writes
from graph_service.adapters.sqlite_arrays import as_json
from graph_service.adapters.sqlite_files import GraphFiles
from graph_service.adapters.sqlite_schema import MIGRATIONS
from graph_service.domain.graph import FilterableItem, ItemFacts, Keys, Mutation
from graph_service.domain.ports import Applied, GraphCounts, GraphPath, RelatedItems, RelatednessRule
from servicekit.errors import NotFoundError
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
_COUNTS = """
SELECT
    (SELECT count(*) FROM item WHERE item_type IS NOT NULL),
    (SELECT count(*) FROM user_degree WHERE items > 0),
    (SELECT count(*) FROM took WHERE weight > 0),
    (SELECT count(*) FROM link)
"""
_BUSIEST = "SELECT item_key FROM item_degree WHERE users > 0 ORDER BY users DESC, item_key LIMIT ?"


class SqliteGraphStore:
    """Opens or makes the file, for one process; a rebuild goes into a second one beside it.

    Args:
        path: The file; its folder is made.
        synchronous: "full": a commit is on the disk before the log's offsets move on behind it; "normal": it survives
            a killed process, and a power cut may leave out what the log counts as applied.
    """

    def __init__(self, path: Path, *, synchronous: Synchronous = "full") -> None:
        self._files = GraphFiles(path)
        self._synchronous = synchronous
        self._database = Database(self._files.serving, migrations=MIGRATIONS, synchronous=synchronous)
        self._rebuild: SqliteGraphRebuild | None = None

    async def apply(self, mutations: Sequence[Mutation]) -> Applied:
        """See GraphStore."""
        if self._rebuild is not None:
            # First here: who tries again after a failure shall still hear what was new in the graph that serves.
            await self._rebuild.fill(mutations)
        return await self._database.write(lambda connection: sqlite_writes.apply(connection, mutations))

    async def related(self, item_keys: Keys, rule: RelatednessRule) -> Sequence[RelatedItems]:
        """See GraphStore."""
        return await read(self._database, lambda connection: sqlite_related.read_related(connection, item_keys, rule))

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
        return await read(
            self._database, lambda connection: sqlite_paths.read_paths(connection, history_keys, item_keys, rule)
        )

    async def busiest_items(self, limit: int) -> Keys:
        """See GraphStore."""
        rows = await self._rows(_BUSIEST, limit)
        return np.array([key for (key,) in rows], dtype=np.int64)

    async def counts(self) -> GraphCounts:
        """See GraphStore."""
        return await read(self._database, count)

    async def serving(self) -> str:
        """See GraphStore."""
        return self._files.serving.name

    async def begin_rebuild(self) -> "SqliteGraphRebuild":
        """See GraphStore."""
        if self._rebuild is not None:
            await self._rebuild.abandon()
        self._files.discard_idle()
        database = Database(self._files.idle, migrations=MIGRATIONS, synchronous=self._synchronous)
        self._rebuild = SqliteGraphRebuild(self, database)
        return self._rebuild

    async def close(self) -> None:
        """See GraphStore."""
        if self._rebuild is not None:
            await self._rebuild.abandon()
        await self._database.close()

    async def end_rebuild(self, rebuild: "SqliteGraphRebuild", database: Database, *, serves: bool) -> None:
        """Write no longer to the new file, or let it serve; the other one goes."""
        if self._rebuild is not rebuild:
            return
        self._rebuild = None
        if serves:
            await asyncio.to_thread(self._files.switch)
            self._database, database = database, self._database
        await database.close()
        self._files.discard_idle()

    def is_filled_by(self, rebuild: "SqliteGraphRebuild") -> bool:
        """Say whether no other rebuild has taken this one's place."""
        return self._rebuild is rebuild

    async def _rows(self, sql: str, parameter: Any) -> list[tuple[Any, ...]]:
        return await read(self._database, lambda connection: connection.execute(sql, (parameter,)).fetchall())


class SqliteGraphRebuild:
    """A new graph in the second file."""

    def __init__(self, store: SqliteGraphStore, database: Database) -> None:
        self._store = store
        self._database = database

    async def fill(self, mutations: Sequence[Mutation]) -> None:
        """See GraphRebuild."""
        self._check()
        await self._database.write(lambda connection: sqlite_writes.apply(connection, mutations))

    async def counts(self) -> GraphCounts:
        """See GraphRebuild."""
        self._check()
        return await read(self._database, count)

    async def related(self, item_keys: Keys, rule: RelatednessRule) -> Sequence[RelatedItems]:
        """See GraphRebuild."""
        self._check()
        return await read(self._database, lambda connection: sqlite_related.read_related(connection, item_keys, rule))

    async def finish(self) -> None:
        """See GraphRebuild."""
        self._check()
        await self._store.end_rebuild(self, self._database, serves=True)

    async def abandon(self) -> None:
        """See GraphRebuild."""
        await self._store.end_rebuild(self, self._database, serves=False)

    def _check(self) -> None:
        if not self._store.is_filled_by(self):
            raise NotFoundError("this rebuild has ended, or another one has taken its place")


async def read(database: Database, fn: Callable[[sqlite3.Connection], T]) -> T:
    """Read in one snapshot."""

    def in_one_snapshot(connection: sqlite3.Connection) -> T:
        connection.execute("BEGIN")
        try:
            return fn(connection)
        finally:
            connection.execute("COMMIT")

    return await database.read_in_thread(in_one_snapshot)


def count(connection: sqlite3.Connection) -> GraphCounts:
    """Count what the graph in a file holds."""
    return GraphCounts(*connection.execute(_COUNTS).fetchone())


def _attributes(encoded: str) -> dict[str, AttributeValue]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in json.loads(encoded).items()}
