"""The GraphCluster of Neo4j, by its administration commands (`SHOW SERVERS`, `ALTER DATABASE … SET TOPOLOGY`)."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import neo4j
from neo4j.exceptions import DriverError, Neo4jError

from servicekit.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9.-]{0,62}")

# The states of a server: a free one has not joined; what is being deallocated "cannot readily be enabled again", and a
# dropped one never comes back (Operations Manual 5, "Managing servers in a cluster").
_FREE = "Free"
_DEALLOCATING = "Deallocating"
_DEALLOCATED = "Deallocated"
_DROPPED = "Dropped"
_LEAVING = frozenset({_DEALLOCATING, _DEALLOCATED, _DROPPED})
_HOLDS_NOTHING = frozenset({_FREE, _DROPPED})


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
        free = [each for each in await self._servers() if each["state"] == _FREE]
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

    async def leaving(self) -> frozenset[int]:
        """Give the secondaries that are deallocating, deallocated or dropped.

        A server that was dropped may be seen for a while beside the new one at its address; that one stays.
        """
        numbered = [(self._number(each["address"]), each["state"] in _LEAVING) for each in await self._servers()]
        staying = {number for number, leaves in numbered if not leaves}
        return frozenset(number for number, leaves in numbered if leaves and number is not None) - staying

    async def release(self, count: int) -> bool:
        """Deallocate those whose number is `count` or higher, and drop them once that has come to its end.

        Neo4j copies what they hold elsewhere first, and refuses to drop a server before.
        """
        released = True
        for each in await self._servers():
            number = self._number(each["address"])
            if number is None or number < count or each["state"] in _HOLDS_NOTHING:
                continue
            if each["state"] == _DEALLOCATED:
                await self._run("DROP SERVER $name", name=each["name"])
                continue
            if each["state"] != _DEALLOCATING:
                await self._run("DEALLOCATE DATABASES FROM SERVERS $name", name=each["name"])
            released = False
        return released

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
