"""The GraphCluster of Neo4j, by its administration commands (`SHOW SERVERS`, `ALTER DATABASE … SET TOPOLOGY`)."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import neo4j
from neo4j.exceptions import DriverError, Neo4jError

from servicekit.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9.-]{0,62}")


class Neo4jCluster:
    """Manages the servers through the system database.

    Args:
        driver: Logged in as somebody who may.
        database: Whose secondaries are meant.
        replica_set: How the addresses of the secondaries begin.
    """

    def __init__(self, driver: neo4j.AsyncDriver, *, database: str, replica_set: str) -> None:
        if not _NAME.fullmatch(database):
            raise InvalidArgumentError(f"{database!r} is no name of a database", field="neo4j_database")
        self._driver = driver
        self._database = database
        self._replica_set = replica_set

    async def admit_new(self) -> int:
        """Enable those that are free."""
        free = [each for each in await self._servers() if each["state"] == "Free"]
        for each in free:
            await self._run("ENABLE SERVER $name", name=each["name"])
        return len(free)

    async def set_secondaries(self, count: int) -> None:
        """Change the topology when it is another one."""
        (found,) = await self._run(
            "SHOW DATABASE $name YIELD requestedPrimariesCount, requestedSecondariesCount "
            "RETURN DISTINCT requestedPrimariesCount AS primaries, requestedSecondariesCount AS secondaries",
            name=self._database,
        )
        if found["secondaries"] == count:
            return
        # Numbers are no parameters in this command; these two are integers.
        primaries = int(found["primaries"])
        topology = f"{primaries} PRIMARIES" + (f" {int(count)} SECONDARIES" if count else "")
        await self._run(f"ALTER DATABASE `{self._database}` SET TOPOLOGY {topology} WAIT")

    async def release(self, count: int) -> None:
        """Deallocate and drop those whose number is `count` or higher: a StatefulSet stops the highest ones."""
        for each in await self._servers():
            number = self._number(each["address"])
            if number is None or number < count:
                continue
            await self._run("DEALLOCATE DATABASES FROM SERVERS $name", name=each["name"])
            await self._run("DROP SERVER $name", name=each["name"])

    async def _servers(self) -> list[dict[str, Any]]:
        return await self._run("SHOW SERVERS YIELD name, address, state RETURN name, address, state")

    def _number(self, address: str) -> int | None:
        found = re.match(rf"{re.escape(self._replica_set)}-(\d+)\.", address or "")
        return int(found.group(1)) if found else None

    async def _run(self, command: str, **parameters: Any) -> list[dict[str, Any]]:
        with _mapped():
            result = await self._driver.execute_query(command, parameters, database_="system")
            return [record.data() for record in result.records]


@contextmanager
def _mapped() -> Iterator[None]:
    try:
        yield
    except Neo4jError as error:
        kind = UnavailableError if error.is_retryable() else FailedPreconditionError
        raise kind(f"Neo4j: {error.message}") from error
    except DriverError as error:
        raise UnavailableError(f"Neo4j cannot be reached: {error}") from error
