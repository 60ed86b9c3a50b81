"""Runs the writes that came together in one transaction, so that they share its commit."""

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from servicekit.errors import InternalError, ServiceError, UnavailableError
from servicekit.sqlite.errors import error_from_sqlite

T = TypeVar("T")


class Write(Generic[T]):
    """A function that waits for the writer, and what became of it."""

    __slots__ = ("done", "error", "fn", "loop", "result")

    def __init__(self, fn: Callable[[sqlite3.Connection], T]) -> None:
        self.fn = fn
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[T] = self.loop.create_future()
        self.result: T | None = None
        self.error: BaseException | None = None


def run_group(connection: sqlite3.Connection, group: list[Write[Any]]) -> None:
    """Run all functions in one transaction; what spoils all of it is raised, and nothing of it stays."""
    if connection.in_transaction:  # not even the rollback went through last time
        connection.execute("ROLLBACK")
    connection.execute("BEGIN IMMEDIATE")
    try:
        for write in group:
            if not write.done.cancelled():
                _run_in_savepoint(connection, write)
        connection.execute("COMMIT")
    except (sqlite3.Error, ServiceError):
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _run_in_savepoint(connection: sqlite3.Connection, write: Write[Any]) -> None:
    connection.execute("SAVEPOINT one")
    try:
        write.result = write.fn(connection)
    except BaseException as error:  # whatever it is, it belongs to the one who sent the function
        write.error = told_error(error)
        if not connection.in_transaction:
            raise UnavailableError("database: SQLite undid the group that this write was in; try again") from error
        connection.execute("ROLLBACK TO one")
    connection.execute("RELEASE one")


def told_error(error: BaseException) -> Exception:
    """Give the error that the function's sender gets: SQLite's in our words, its own as it is."""
    told: Exception
    if isinstance(error, sqlite3.Error):
        told = error_from_sqlite(error)
    elif isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    else:  # a future refuses StopIteration, and the rest would end the loop that waits for it
        told = InternalError(f"the function of a write ended with {error!r}")
    told.__cause__ = error
    return told
