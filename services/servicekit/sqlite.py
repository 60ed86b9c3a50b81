"""An SQLite file for one service: one writer thread that commits in groups, reads beside it, our errors."""

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar

from servicekit import metrics
from servicekit.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
)

T = TypeVar("T")
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

# SQLite's primary result codes, for the exceptions whose class says too little.
_ERROR_BY_RESULT: dict[int, type[ServiceError]] = {
    sqlite3.SQLITE_BUSY: UnavailableError,
    sqlite3.SQLITE_LOCKED: UnavailableError,
    sqlite3.SQLITE_FULL: UnavailableError,
    sqlite3.SQLITE_IOERR: UnavailableError,
    sqlite3.SQLITE_CANTOPEN: UnavailableError,
    sqlite3.SQLITE_READONLY: UnavailableError,
    sqlite3.SQLITE_PROTOCOL: UnavailableError,
    sqlite3.SQLITE_INTERRUPT: UnavailableError,
    sqlite3.SQLITE_NOMEM: ResourceExhaustedError,
    sqlite3.SQLITE_TOOBIG: InvalidArgumentError,
}
_ERROR_BY_CONSTRAINT: dict[int, type[ServiceError]] = {
    sqlite3.SQLITE_CONSTRAINT_UNIQUE: AlreadyExistsError,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: AlreadyExistsError,
    sqlite3.SQLITE_CONSTRAINT_ROWID: AlreadyExistsError,
    sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY: FailedPreconditionError,
}
ERROR_BY_CLASS: dict[type[sqlite3.Error], type[ServiceError]] = {
    sqlite3.InterfaceError: InternalError,
    sqlite3.DatabaseError: InternalError,  # a damaged file among others
    sqlite3.DataError: InvalidArgumentError,
    sqlite3.OperationalError: InternalError,  # wrong SQL, unless its result code says otherwise
    sqlite3.IntegrityError: InvalidArgumentError,  # CHECK and NOT NULL, unless the constraint says otherwise
    sqlite3.InternalError: InternalError,
    sqlite3.ProgrammingError: InternalError,
    sqlite3.NotSupportedError: InternalError,
    sqlite3.Error: InternalError,
}


def error_from_sqlite(error: sqlite3.Error) -> ServiceError:
    """Say in our words what SQLite said."""
    extended = getattr(error, "sqlite_errorcode", None) or 0
    kind = _ERROR_BY_CONSTRAINT.get(extended) or _ERROR_BY_RESULT.get(extended & 0xFF)
    if kind is None:
        kind = next(ERROR_BY_CLASS[each] for each in type(error).__mro__ if each in ERROR_BY_CLASS)
    return kind(f"database: {error}")


class _Write(Generic[T]):
    __slots__ = ("done", "error", "fn", "loop", "result")

    def __init__(self, fn: Callable[[sqlite3.Connection], T]) -> None:
        self.fn = fn
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[T] = self.loop.create_future()
        self.result: T | None = None
        self.error: BaseException | None = None


class Database:
    """One SQLite file in WAL mode; several processes may open it. Also an async context manager.

    Args:
        path: The file; its folder is made.
        migrations: SQL scripts in order; script n brings the schema to version n (PRAGMA user_version). Never change
            one that was released, append another.
        synchronous: "full": a commit is on the disk; "normal": it survives a killed process, not a power cut.
        max_queue: The most writes waiting; one more is refused.
        max_group: The most writes in one transaction.
    """

    def __init__(
        self,
        path: Path,
        *,
        migrations: Sequence[str] = (),
        synchronous: Synchronous = "normal",
        max_queue: int = 4096,
        max_group: int = 256,
    ) -> None:
        self._path = path
        self._synchronous = synchronous
        self._max_queue = max_queue
        self._max_group = max_group
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._pending = 0
        self._closed = False
        self._queue: queue.SimpleQueue[_Write[Any] | None] = queue.SimpleQueue()
        self._group_size = metrics.SQLITE_GROUP_SIZE.labels(path.stem)
        self._commit_latency = metrics.SQLITE_COMMIT_LATENCY.labels(path.stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._writer_connection = self._connect()
            _enter_wal(self._writer_connection)
            _migrate(self._writer_connection, migrations)
        except (sqlite3.Error, ServiceError) as error:
            self._close_connections()
            raise (error_from_sqlite(error) if isinstance(error, sqlite3.Error) else error) from error
        self._readers = ThreadPoolExecutor(max_workers=2, thread_name_prefix=f"{path.stem}-read")
        self._writer = threading.Thread(target=self._write_groups, name=f"{path.stem}-write", daemon=True)
        self._writer.start()

    async def write(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run `fn` on the writer thread inside a transaction and give its result after the commit.

        Functions that wait at the same time share a transaction; each has a savepoint, so one that raises leaves
        nothing behind and does not touch the others. `fn` neither commits nor rolls back.

        Raises:
            ResourceExhaustedError: Too many writes are waiting.
            UnavailableError: The database is closed, full, locked or out of reach; nothing was written.
            ServiceError: What `fn` raised, SQLite's errors among it.
        """
        if self._closed:
            raise self._is_closed()
        if self._pending >= self._max_queue:
            raise ResourceExhaustedError(f"database {self._path.name} has {self._max_queue} writes waiting")
        write = _Write(fn)
        self._pending += 1
        self._queue.put(write)
        return await write.done

    def read(self, sql: str, parameters: Sequence[Any] | dict[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Read a few rows at once, on the calling thread; for look-ups by key that take microseconds.

        Raises:
            ServiceError: SQLite's error in our words.
        """
        try:
            return self._reader().execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise error_from_sqlite(error) from error

    async def read_in_thread(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run a long read on a reader thread, with a connection that cannot write.

        Raises:
            ServiceError: SQLite's error in our words.
        """
        if self._closed:
            raise self._is_closed()

        def call() -> T:
            try:
                return fn(self._reader())
            except sqlite3.Error as error:
                raise error_from_sqlite(error) from error

        return await asyncio.get_running_loop().run_in_executor(self._readers, call)

    async def close(self) -> None:
        """Take no more, commit what was taken, close the file."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._join)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _join(self) -> None:
        self._writer.join()
        self._readers.shutdown()
        self._close_connections()

    def _close_connections(self) -> None:
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, cached_statements=512)
        for pragma in _PRAGMAS:
            connection.execute(pragma)
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        with self._lock:
            self._connections.append(connection)
        return connection

    def _reader(self) -> sqlite3.Connection:
        if self._closed:
            raise self._is_closed()
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._connect()
            connection.execute("PRAGMA query_only = ON")
            self._local.connection = connection
        return connection

    def _is_closed(self) -> UnavailableError:
        return UnavailableError(f"database {self._path.name} is closed")

    # --- on the writer thread ---

    def _write_groups(self) -> None:
        while True:
            first = self._queue.get()
            if first is None:
                return
            group = [first]
            closing = False
            while len(group) < self._max_group and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    closing = True
                    break
                group.append(following)
            self._write_group(group)
            if closing:
                return

    def _write_group(self, group: list[_Write[Any]]) -> None:
        started = time.perf_counter()
        try:
            _run_group(self._writer_connection, group)
        except (sqlite3.Error, ServiceError) as error:
            for write in group:
                write.error = write.error or _told(error)
        self._group_size.observe(len(group))
        self._commit_latency.observe(time.perf_counter() - started)
        by_loop: dict[asyncio.AbstractEventLoop, list[_Write[Any]]] = {}
        for write in group:
            by_loop.setdefault(write.loop, []).append(write)
        for loop, writes in by_loop.items():
            try:
                loop.call_soon_threadsafe(self._resolve, writes)
            except RuntimeError:  # the loop is closed: nobody waits any more
                self._pending -= len(writes)

    def _resolve(self, writes: list[_Write[Any]]) -> None:
        self._pending -= len(writes)
        for write in writes:
            if write.done.done():
                continue
            if write.error is not None:
                write.done.set_exception(write.error)
            else:
                write.done.set_result(write.result)


def _run_group(connection: sqlite3.Connection, group: list[_Write[Any]]) -> None:
    """Run all functions in one transaction; what spoils all of it is raised, and nothing of it stays."""
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


def _run_in_savepoint(connection: sqlite3.Connection, write: _Write[Any]) -> None:
    connection.execute("SAVEPOINT one")
    try:
        write.result = write.fn(connection)
    except BaseException as error:  # whatever it is, it belongs to the one who sent the function
        write.error = _told(error)
        if not connection.in_transaction:
            raise UnavailableError("database: SQLite undid the group that this write was in; try again") from error
        connection.execute("ROLLBACK TO one")
    connection.execute("RELEASE one")


def _told(error: BaseException) -> Exception:
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


def _enter_wal(connection: sqlite3.Connection) -> None:
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


def _migrate(connection: sqlite3.Connection, migrations: Sequence[str]) -> None:
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
