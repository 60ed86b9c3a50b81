"""Neo4j's driver, bounded: managed transactions only, each with a deadline here and on the server."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

import neo4j
from neo4j import exceptions

from graph_service.adapters.neo4j.errors import our_words, startup_error_from_neo4j
from servicekit.deadline import remaining_s, require
from servicekit.errors import ServiceError, StartupError

T = TypeVar("T")

QUERIES: Final = Path(__file__).parent.parent / "queries"

_USER_AGENT: Final = "graph_service"
_LOOK_S: Final = 0.5
_SHORTEST_S: Final = 0.001


@dataclass(frozen=True, slots=True)
class Neo4jOptions:
    """How Neo4j is talked to.

    Args:
        url: `bolt://` for one server; `neo4j://` for a cluster, whose replicas then answer what is only read.
        username, password: The service's own.
        database: Which of the server's databases.
        pool_size: The most connections to each server.
        read_timeout_s, write_timeout_s: How long a transaction may take, its tries and pauses included.
        connect_timeout_s: How long a connection may take to be there or to become free.
    """

    url: str
    username: str
    password: str
    database: str = "neo4j"
    pool_size: int = 16
    read_timeout_s: float = 10.0
    write_timeout_s: float = 60.0
    connect_timeout_s: float = 5.0


class Transaction:
    """What is done in one go; given to the work, which may be called again when the server asks for another try."""

    def __init__(self, transaction: neo4j.AsyncManagedTransaction) -> None:
        self.raw: Final = transaction

    async def run(self, query: str, /, **parameters: Any) -> list[list[Any]]:
        """Give the rows of the query in `queries/<query>.cypher`."""
        result = await self.raw.run(cypher(query), parameters)
        return await result.values()

    async def one(self, query: str, /, **parameters: Any) -> list[Any] | None:
        """Give the only row, or None when there is none."""
        rows = await self.run(query, **parameters)
        return rows[0] if rows else None

    async def execute(self, statement: str) -> None:
        """Execute a statement of the schema."""
        result = await self.raw.run(statement)
        await result.consume()


Work = Callable[[Transaction], Awaitable[T]]


@cache
def cypher(query: str) -> Any:
    """Read a query that ships with the service."""
    return (QUERIES / f"{query}.cypher").read_text()


class Neo4jClient:
    """One for each service; reads see what this client wrote before, whichever server answers them.

    Raises:
        StartupError: The URL cannot be used.
    """

    def __init__(self, options: Neo4jOptions) -> None:
        self._options = options
        try:
            self._driver = neo4j.AsyncGraphDatabase.driver(
                options.url,
                auth=(options.username, options.password),
                max_connection_pool_size=options.pool_size,
                connection_timeout=options.connect_timeout_s,
                connection_acquisition_timeout=options.connect_timeout_s,
                max_transaction_retry_time=options.write_timeout_s,
                notifications_min_severity="OFF",
                telemetry_disabled=True,
                user_agent=_USER_AGENT,
            )
        except (exceptions.DriverError, ValueError) as error:
            raise StartupError(f"GRAPH_STORE_URL {options.url!r} cannot be used: {error}") from error
        self._bookmarks = neo4j.AsyncGraphDatabase.bookmark_manager()

    @property
    def name(self) -> str:
        """What people call it."""
        return f"database {self._options.database} at {self._options.url}"

    async def wait_until_there(self, patience_s: float) -> None:
        """Return when the server answers.

        Raises:
            StartupError: It refuses us, or does not answer for so many seconds.
        """
        give_up = time.monotonic() + patience_s
        while True:
            left_s = max(_LOOK_S, give_up - time.monotonic())
            try:
                await self._do(lambda transaction: transaction.run("ping"), neo4j.READ_ACCESS, left_s)
            except ServiceError as error:
                refused = startup_error_from_neo4j(error.__cause__, self._options.url)
                if refused is not None:
                    raise refused from error
                if time.monotonic() + _LOOK_S > give_up:
                    raise StartupError(
                        f"Neo4j at {self._options.url} did not answer for {patience_s:g} s: start it or check "
                        "GRAPH_STORE_URL"
                    ) from error
            else:
                return
            await asyncio.sleep(_LOOK_S)

    async def read(self, work: Work[T]) -> T:
        """Do what only reads; in a cluster a replica may answer.

        Raises:
            UnavailableError: Neo4j cannot be reached.
            DeadlineExceededError: It took too long.
        """
        return await self._do(work, neo4j.READ_ACCESS, self._options.read_timeout_s)

    async def write(self, work: Work[T], timeout_s: float | None = None) -> T:
        """Do all of the work or none of it; it is durable when this returns.

        Raises:
            UnavailableError: Neo4j cannot be reached; the work may have been done all the same.
            DeadlineExceededError: It took too long; likewise.
        """
        return await self._do(work, neo4j.WRITE_ACCESS, timeout_s or self._options.write_timeout_s)

    async def close(self) -> None:
        """Close all connections."""
        await self._driver.close()

    async def _do(self, work: Work[T], access: str, timeout_s: float) -> T:
        require(_SHORTEST_S)
        limit_s = min(timeout_s, remaining_s())
        give_up = time.monotonic() + limit_s

        async def attempt(transaction: neo4j.AsyncManagedTransaction) -> T:
            return await work(Transaction(transaction))

        # The server drops what nobody waits for any more; it counts whole milliseconds, and 0 would be for ever.
        bounded = neo4j.unit_of_work(timeout=math.ceil(limit_s * 1e3) / 1e3)(attempt)
        with our_words():
            async with (
                asyncio.timeout(give_up - time.monotonic()),
                self._driver.session(
                    database=self._options.database,
                    default_access_mode=access,
                    bookmark_manager=self._bookmarks,
                    fetch_size=-1,
                ) as session,
            ):
                if access == neo4j.READ_ACCESS:
                    return await session.execute_read(bounded)
                return await session.execute_write(bounded)
