"""Opens SQLite files for several processes at once and turns their errors into ours."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from servicekit.sqlite import error_from_sqlite

Sync = Literal["full", "normal"]

_BUSY_TIMEOUT_S = 10.0
_CHECKPOINT_BYTES = 16 << 20
_CHECKPOINT_PATIENCE_MS = 50


def connect(path: Path, *, sync: Sync = "normal") -> sqlite3.Connection:
    """Open a file in WAL mode; any thread may use the connection, one at a time."""
    connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    _switch_to_wal(connection)
    connection.execute(f"PRAGMA synchronous={sync}")
    # See Checkpointer: SQLite's own checkpoints do not hold the write lock.
    connection.execute("PRAGMA wal_autocheckpoint=0")
    return connection


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn a driver's error into ours."""
    try:
        yield
    except sqlite3.Error as error:
        raise error_from_sqlite(error) from error


@contextmanager
def write_transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Hold the write lock of a file from the first statement on, so that no statement can fail for want of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


class Checkpointer:
    """Moves the write-ahead log into the file while holding the write lock.

    SQLite before 3.51.3 can lose a transaction when an automatic (passive) checkpoint of one process meets another
    process that begins the write-ahead log anew (the "WAL-reset bug" of its documentation). A truncating checkpoint
    takes the write lock first, so the two cannot meet. It gives up soon when readers are in the way, and tries again
    when the log has grown further.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._wal = path.with_name(f"{path.name}-wal")
        self._due_bytes = _CHECKPOINT_BYTES

    def checkpoint_if_due(self) -> None:
        """Checkpoint if the write-ahead log has grown long enough; not inside a transaction."""
        size = self._wal.stat().st_size
        if size < self._due_bytes:
            return
        self._connection.execute(f"PRAGMA busy_timeout={_CHECKPOINT_PATIENCE_MS}")
        (busy, _, _) = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._connection.execute(f"PRAGMA busy_timeout={int(_BUSY_TIMEOUT_S * 1000)}")
        self._due_bytes = size + _CHECKPOINT_BYTES if busy else _CHECKPOINT_BYTES


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Set WAL mode; SQLite does not wait for the lock here when two processes open a new file at once."""
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchone()
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
        else:
            return
