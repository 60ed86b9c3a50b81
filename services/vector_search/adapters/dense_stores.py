"""Opens the store of dense vectors that an address names."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from servicekit.errors import ServiceError, StartupError, UnauthenticatedError, UnavailableError
from servicekit.migrations import MigrationTarget
from vector_search.adapters.edge_collections import EdgeDenseStore
from vector_search.domain.ports import DenseStore

if TYPE_CHECKING:
    from vector_search.adapters.qdrant_connection import QdrantConnection

_SETTING = "VECTOR_STORE_URL"
_AGAIN_S = 0.25


@dataclass(frozen=True, slots=True)
class QdrantOptions:
    """How a Qdrant server is used.

    Args:
        api_key: What it asks for; empty for nothing.
        rest_port: Where it answers over HTTP, which is needed only to restore a snapshot.
        prefix: Begins the names of all collections and aliases.
        timeout_s: The longest that a call may take.
        shard_number: Parts of a collection; None leaves it to the server.
        replication_factor: Copies of each part.
        write_consistency_factor: Copies that must have a write before it is acknowledged.
        write_ordering: How writes of one point through several nodes are put in order.
    """

    api_key: str
    rest_port: int
    prefix: str
    timeout_s: float
    shard_number: int | None
    replication_factor: int
    write_consistency_factor: int
    write_ordering: Literal["weak", "medium", "strong"]


async def open_dense_store(
    url: str, *, folder: Path, qdrant: QdrantOptions, build_timeout_s: float, wait_s: float
) -> DenseStore:
    """Open the store at `qdrant://HOST:PORT` or `qdrants://HOST:PORT`, or for no address one in a folder.

    Args:
        url: Where it is.
        folder: Where the embedded one keeps its files.
        qdrant: How a server is used.
        build_timeout_s: How long making one collection may take.
        wait_s: How long a server that cannot be reached is waited for.

    Raises:
        StartupError: It cannot be used; says why.
    """
    if not url:
        return EdgeDenseStore(folder, build_timeout_s=build_timeout_s)
    # Here and not above: the driver takes a second to import, and a stack on folders shall not wait for that.
    from qdrant_client import models  # noqa: PLC0415

    from vector_search.adapters.qdrant_collections import QdrantDenseStore, QdrantLayout  # noqa: PLC0415

    store = QdrantDenseStore(
        _connect(url, qdrant),
        prefix=qdrant.prefix,
        layout=QdrantLayout(
            shard_number=qdrant.shard_number,
            replication_factor=qdrant.replication_factor,
            write_consistency_factor=qdrant.write_consistency_factor,
            write_ordering=models.WriteOrdering(qdrant.write_ordering),
        ),
        build_timeout_s=build_timeout_s,
    )
    try:
        await _wait_until_usable(store.check, url, wait_s)
    except BaseException:
        await store.close()
        raise
    return store


@asynccontextmanager
async def migration_target(url: str, *, qdrant: QdrantOptions, wait_s: float) -> AsyncIterator[MigrationTarget]:
    """Connect to a Qdrant server in order to migrate its collections.

    Raises:
        StartupError: It cannot be used; says why.
    """
    from vector_search.adapters.qdrant_schema import QdrantMigrationTarget  # noqa: PLC0415 - see open_dense_store

    connection = _connect(url, qdrant)
    try:
        target = QdrantMigrationTarget(connection, prefix=qdrant.prefix)
        await _wait_until_usable(target.applied, url, wait_s)
        yield target
    finally:
        await connection.close()


def _connect(url: str, qdrant: QdrantOptions) -> "QdrantConnection":
    from vector_search.adapters.qdrant_connection import QdrantConnection, connect  # noqa: PLC0415 - see above

    try:
        client = connect(url, api_key=qdrant.api_key, rest_port=qdrant.rest_port, timeout_s=qdrant.timeout_s)
    except ServiceError as error:
        raise StartupError(f"{_SETTING} is wrong: {error.message}") from error
    return QdrantConnection(client, timeout_s=qdrant.timeout_s)


async def _wait_until_usable(ask: Callable[[], Awaitable[object]], url: str, wait_s: float) -> None:
    give_up = time.monotonic() + wait_s
    while True:
        try:
            await ask()
        except UnauthenticatedError as error:
            raise StartupError(f"Qdrant at {url} refuses the key: set QDRANT_API_KEY ({error.message})") from error
        except UnavailableError as error:
            if time.monotonic() > give_up:
                raise StartupError(
                    f"{_SETTING}: no Qdrant answers at {url} within {wait_s:g} s: start it, or correct the address"
                ) from error
            await asyncio.sleep(_AGAIN_S)
        except ServiceError as error:
            raise StartupError(f"{_SETTING}: what answers at {url} is no Qdrant of ours: {error.message}") from error
        else:
            return
