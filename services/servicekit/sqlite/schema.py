"""Opens a connection and brings the schema of its file to the latest version."""

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from servicekit.errors import FailedPreconditionError

Synchronous = Literal["full", "normal", "off"]

# How long to wait for other processes, which hold the file for milliseconds each.
_BUSY_S = 5

_PRAGMAS = (
    f"PRAGMA busy_timeout = {_BUSY_S * 1000}",
    "PRAGMA foreign_keys = ON",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cache_size = -16000",  # KiB for each connection
    "PRAGMA journal_size_limit = 67108864",
)


def connect(path: Path, synchronous: Synchronous) -> sqlite3.Connection:
    """Open a connection that begins and ends transactions only when told to; any thread may close it."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=512)
    for pragma in (*_PRAGMAS, f"PRAGMA synchronous = {synchronous}"):
        connection.execute(pragma)
    return connection


def enter_wal(connection: sqlite3.Connection) -> None:
    """Switch to WAL; while another process does the same, SQLite says "busy" without waiting."""
    give_up = time.monotonic() + _BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
        else:
            return


def migrate(connection: sqlite3.Connection, migrations: Sequence[str]) -> None:
    """Bring the schema to the latest version; several processes may start at once, one of them does it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        _check_known(version, len(migrations))
        for number, script in enumerate(migrations[version:], start=version + 1):
            for statement in _statements(script):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _check_known(version: int, known: int) -> None:
    if version > known:
        raise FailedPreconditionError(
            f"the database has schema version {version} and this program knows {known}: start a newer one"
        )


def _statements(script: str) -> list[str]:
    """Split a script, since executescript would commit in between."""
    statements: list[str] = []
    start = 0
    for position, character in enumerate(script, start=1):
        # SQLite knows whether a semicolon ends a statement or stands in a text, a comment or a trigger.
        if character == ";" and sqlite3.complete_statement(script[start:position]):
            statements.append(script[start:position])
            start = position
    return [*statements, script[start:]]
