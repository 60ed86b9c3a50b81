"""The schema of the collections on a Qdrant server, and where its migrations are recorded."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qdrant_client import AsyncQdrantClient, models

from servicekit.errors import InvalidArgumentError, NotFoundError
from servicekit.migrations import Migration, parse_migrations
from vector_search.adapters.qdrant_connection import QdrantConnection
from vector_search.adapters.qdrant_index import add_index
from vector_search.adapters.qdrant_payload import TENANT, IndexParams, index_params, tenant_index

STATEMENT_TIMEOUT_S: Final = 110.0
"""An index of a large collection takes its time; the lock of a run is kept a little longer."""
_HOLDER: Final = 1
_MOST: Final = 10_000
_NO_VECTOR: Final = [1.0]  # every point has one; these are never searched


def migrations() -> tuple[Migration, ...]:
    """Read what the service ships."""
    return parse_migrations(Path(__file__).with_name("collections.migrations").read_text(), comment="#")


@dataclass(frozen=True, slots=True)
class _Holder:
    owner: str
    until_s: float


class QdrantMigrationTarget:
    """Keeps the records and the lock as collections beside the vectors.

    Making a collection is what a Qdrant cluster agrees on, so the lock is one: who makes it has it. A point in it says
    whose it is and until when, by the clock of whoever holds it. Two runs that find a lock run out at the same moment
    may both remove it; the one that loses notices before its next statement, and statements can be repeated.

    Args:
        connection: To the server; the caller closes it.
        prefix: Begins the names of the collections that are migrated.
        now_s: Seconds since 1970.
    """

    def __init__(self, connection: QdrantConnection, *, prefix: str, now_s: Callable[[], float] = time.time) -> None:
        self._connection = connection
        self._collections = f"{prefix}."
        self._records = f"{prefix}~migrations"
        self._lock = f"{prefix}~migrating"
        self._now_s = now_s

    @property
    def name(self) -> str:
        """See MigrationTarget."""
        return f"Qdrant's collections {self._collections}*"

    async def lock(self, owner: str, ttl_s: float) -> bool:
        """See MigrationTarget."""
        await self._make(self._records)
        if not await self._make(self._lock):
            holder = await self._holder()
            if holder is None:  # its maker has not signed yet, or died before: a nobody's lock runs out as any other
                await self._sign(_Holder("", self._now_s() + ttl_s))
                return False
            if holder.owner != owner:
                if self._now_s() > holder.until_s:
                    await self._remove_lock()
                return False
        await self._sign(_Holder(owner, self._now_s() + ttl_s))
        holder = await self._holder()
        return holder is not None and holder.owner == owner

    async def unlock(self, owner: str) -> None:
        """See MigrationTarget."""
        holder = await self._holder()
        if holder is not None and holder.owner == owner:
            await self._remove_lock()

    async def applied(self) -> Mapping[int, str]:
        """See MigrationTarget."""
        if self._records not in await self._connection.collections():
            return {}
        points, _ = await self._connection.call(
            "reading migrations", lambda client: client.scroll(self._records, limit=_MOST, with_payload=True)
        )
        return {int(point.id): str((point.payload or {})["checksum"]) for point in points}

    async def execute(self, statement: str) -> None:
        """Execute one of the statements that `collections.migrations` explains, on every collection.

        Raises:
            InvalidArgumentError: It is none of them.
        """
        match statement.split():
            case ["INDEX", path, kind] if (params := _params(path, kind)) is not None:
                for collection in await self._migrated():
                    await add_index(self._connection, collection, path, params)
            case ["DROP", "INDEX", path]:
                for collection in await self._migrated():
                    await self._drop_index(collection, path)
            case _:
                raise InvalidArgumentError(f"no statement on collections: {statement}")

    async def record(self, migration: Migration) -> None:
        """See MigrationTarget."""
        await self._put(self._records, migration.number, {"name": migration.name, "checksum": migration.checksum})

    async def _make(self, name: str) -> bool:
        """Make a collection; False when there is one of that name."""
        if name in await self._connection.collections():
            return False
        params = models.VectorParams(size=len(_NO_VECTOR), distance=models.Distance.DOT)
        return await self._connection.make_collection(
            name, vectors_config=params, shard_number=1, timeout_s=STATEMENT_TIMEOUT_S
        )

    async def _holder(self) -> _Holder | None:
        try:
            points = await self._connection.call(
                "reading the lock", lambda client: client.retrieve(self._lock, [_HOLDER], with_payload=True)
            )
        except NotFoundError:
            return None
        if not points or not points[0].payload:
            return None
        return _Holder(str(points[0].payload["owner"]), float(points[0].payload["until_s"]))

    async def _sign(self, holder: _Holder) -> None:
        try:
            await self._put(self._lock, _HOLDER, {"owner": holder.owner, "until_s": holder.until_s})
        except NotFoundError:  # removed as run out a moment ago: whoever asks again makes it anew
            return

    async def _put(self, collection: str, number: int, payload: dict[str, object]) -> None:
        point = models.PointStruct(id=number, vector=_NO_VECTOR, payload=payload)
        await self._change(
            "writing a point",
            lambda client: client.upsert(collection, [point], wait=True, ordering=models.WriteOrdering.STRONG),
        )

    async def _remove_lock(self) -> None:
        await self._change("removing the lock", lambda client: client.delete_collection(self._lock))

    async def _drop_index(self, collection: str, path: str) -> None:
        await self._change("removing an index", lambda client: client.delete_payload_index(collection, path, wait=True))

    async def _migrated(self) -> list[str]:
        return sorted(name for name in await self._connection.collections() if name.startswith(self._collections))

    async def _change(self, what: str, work: Callable[[AsyncQdrantClient], Awaitable[object]]) -> None:
        await self._connection.call(what, work, timeout_s=STATEMENT_TIMEOUT_S)


def _params(path: str, kind: str) -> IndexParams | None:
    """Give the payload index that a statement names; None when it does not fit the path."""
    if kind == "TENANT":
        return tenant_index() if path == TENANT else None
    params = index_params(path)
    fits = isinstance(params, models.FloatIndexParams if kind == "FLOAT" else models.KeywordIndexParams)
    return params if fits and kind in {"FLOAT", "KEYWORD"} else None
