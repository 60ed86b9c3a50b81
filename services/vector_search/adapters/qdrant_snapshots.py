"""Snapshots of the collections on a Qdrant server: made and listed over gRPC, restored over HTTP.

A snapshot lies on the node that made it. What a cluster of several nodes needs beyond that stands in Qdrant's manual;
here everything can be rebuilt from the catalogue anyway, and a snapshot only saves the time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from qdrant_client import models

from servicekit.errors import InternalError, NotFoundError
from vector_search.adapters.qdrant_connection import QdrantConnection

_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One snapshot."""

    collection: str
    name: str
    size: int
    created_at: str


class QdrantSnapshots:
    """The snapshots of our collections.

    Args:
        connection: To the server; its client must allow for calls that take minutes.
        prefix: Begins the names of our collections.
        rest_url: Where the server itself reaches its HTTP port, `http://HOST:PORT`: it fetches a snapshot from there.
        api_key: What the server asks for; empty for nothing.
    """

    def __init__(self, connection: QdrantConnection, *, prefix: str, rest_url: str, api_key: str) -> None:
        self._connection = connection
        self._prefix = prefix
        self._rest_url = rest_url
        self._api_key = api_key

    async def collections(self) -> Sequence[str]:
        """Give our collections."""
        return sorted(name for name in await self._connection.collections() if name.startswith(f"{self._prefix}."))

    async def create(self, collection: str) -> Snapshot:
        """Make a snapshot of a collection."""
        described = await self._connection.call(
            "making a snapshot", lambda client: client.create_snapshot(collection), timeout_s=_TIMEOUT_S
        )
        if described is None:
            raise InternalError(f"Qdrant made no snapshot of {collection}")
        return _snapshot(collection, described)

    async def list(self, collection: str) -> Sequence[Snapshot]:
        """Give the snapshots of a collection, the oldest first."""
        found = await self._connection.call(
            "listing snapshots", lambda client: client.list_snapshots(collection), timeout_s=_TIMEOUT_S
        )
        return sorted((_snapshot(collection, each) for each in found), key=lambda each: each.created_at)

    async def restore(self, collection: str, name: str) -> None:
        """Put a collection back into the state of one of its snapshots; its aliases stay.

        Raises:
            NotFoundError: There is no such snapshot.
        """
        if name not in {each.name for each in await self.list(collection)}:
            raise NotFoundError(f"the collection {collection} has no snapshot {name}")
        location = f"{self._rest_url}/collections/{quote(collection, safe='')}/snapshots/{quote(name, safe='')}"
        await self._connection.call(
            "restoring a snapshot",
            lambda client: client.recover_snapshot(
                collection,
                location,
                api_key=self._api_key or None,
                priority=models.SnapshotPriority.SNAPSHOT,
                wait=True,
            ),
            timeout_s=_TIMEOUT_S,
        )

    async def delete(self, collection: str, name: str) -> None:
        """Remove a snapshot."""
        await self._connection.call(
            "removing a snapshot", lambda client: client.delete_snapshot(collection, name), timeout_s=_TIMEOUT_S
        )


def _snapshot(collection: str, described: models.SnapshotDescription) -> Snapshot:
    return Snapshot(collection, described.name, described.size, described.creation_time or "")
