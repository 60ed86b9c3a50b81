"""One writer thread that commits in groups, and reads beside it."""

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from servicekit import metrics
from servicekit.errors import ResourceExhaustedError, ServiceError, UnavailableError
from servicekit.sqlite.errors import error_from_sqlite
from servicekit.sqlite.group import Write, run_group, told_error
from servicekit.sqlite.schema import Synchronous, connect, enter_wal, migrate

T = TypeVar("T")


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
        self._queue: queue.SimpleQueue[Write[Any] | None] = queue.SimpleQueue()
        self._group_size = metrics.SQLITE_GROUP_SIZE.labels(path.stem)
        self._commit_latency = metrics.SQLITE_COMMIT_LATENCY.labels(path.stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._writer_connection = self._connect()
            enter_wal(self._writer_connection)
            migrate(self._writer_connection, migrations)
        except ServiceError:
            self._close_connections()
            raise
        except sqlite3.Error as error:
            self._close_connections()
            raise error_from_sqlite(error) from error
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
        write = Write(fn)
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
        connection = connect(self._path, self._synchronous)
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

    def _write_group(self, group: list[Write[Any]]) -> None:
        started = time.perf_counter()
        try:
            run_group(self._writer_connection, group)
        except (sqlite3.Error, ServiceError) as error:
            for write in group:
                write.error = write.error or told_error(error)
        self._group_size.observe(len(group))
        self._commit_latency.observe(time.perf_counter() - started)
        by_loop: dict[asyncio.AbstractEventLoop, list[Write[Any]]] = {}
        for write in group:
            by_loop.setdefault(write.loop, []).append(write)
        for loop, writes in by_loop.items():
            try:
                loop.call_soon_threadsafe(self._resolve, writes)
            except RuntimeError:  # the loop is closed: nobody waits any more
                self._pending -= len(writes)

    def _resolve(self, writes: list[Write[Any]]) -> None:
        self._pending -= len(writes)
        for write in writes:
            if write.done.done():
                continue
            if write.error is not None:
                write.done.set_exception(write.error)
            else:
                write.done.set_result(write.result)
