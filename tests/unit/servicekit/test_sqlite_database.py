"""The SQLite file of a service: groups, isolation, errors, migrations, several processes, sudden death."""

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from servicekit.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
)
from servicekit.sqlite import ERROR_BY_CLASS, Database, error_from_sqlite
from servicekit.testing import eventually

SCHEMA = """
-- What is written; with a comment; that has semicolons.
CREATE TABLE things (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE, -- no two alike; ever
    parent INTEGER REFERENCES things (id),
    CHECK (id < 1000000)
);
CREATE TRIGGER no_zero BEFORE INSERT ON things WHEN NEW.id = 0 BEGIN
    SELECT RAISE(ABORT, 'zero; is no thing');
END;
INSERT INTO things VALUES (1, 'one; first', NULL);
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "things.db"


@pytest.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    async with Database(path, migrations=[SCHEMA]) as database:
        yield database


def insert(number: int, name: str | None = None) -> Callable[[sqlite3.Connection], int]:
    def write(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO things (id, name) VALUES (?, ?)", (number, name or f"name {number}"))
        return number

    return write


def execute(sql: str) -> Callable[[sqlite3.Connection], None]:
    def write(connection: sqlite3.Connection) -> None:
        connection.execute(sql)

    return write


def ids(database: Database) -> list[int]:
    return [row[0] for row in database.read("SELECT id FROM things ORDER BY id")]


async def test_what_was_written_is_read_at_once(database: Database) -> None:
    assert await database.write(insert(5)) == 5
    assert database.read("SELECT id, name FROM things WHERE id = ?", (5,)) == [(5, "name 5")]
    assert database.read("SELECT id FROM things WHERE name = :name", {"name": "name 5"}) == [(5,)]
    assert database.read("SELECT id FROM things WHERE id = 99") == []


async def test_writes_of_the_same_moment_share_a_commit(database: Database) -> None:
    def groups() -> float:
        return REGISTRY.get_sample_value("sqlite_group_size_count", {"database": "things"}) or 0.0

    before = groups()
    assert await asyncio.gather(*(database.write(insert(number)) for number in range(2, 502))) == list(range(2, 502))
    assert ids(database) == list(range(1, 502))
    assert groups() - before < 100


async def test_one_that_fails_leaves_nothing_and_harms_nobody(database: Database) -> None:
    started = threading.Event()

    def hold(_connection: sqlite3.Connection) -> None:
        started.wait(5.0)  # so that all that follow are one group

    def half_done(connection: sqlite3.Connection) -> None:
        insert(50)(connection)
        raise NotFoundError("changed my mind", field="x")

    writes = [
        asyncio.create_task(database.write(each))
        for each in (hold, insert(10), half_done, insert(1), insert(11), execute("nonsense"), insert(12))
    ]
    await asyncio.sleep(0.01)
    started.set()
    outcomes = await asyncio.gather(*writes, return_exceptions=True)

    assert [type(each) for each in outcomes] == [
        type(None),
        int,
        NotFoundError,
        AlreadyExistsError,
        int,
        InternalError,
        int,
    ]
    assert ids(database) == [1, 10, 11, 12]


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), NotFoundError("x")])
async def test_the_functions_own_error_is_given_as_it_is(database: Database, error: Exception) -> None:
    def fail(_connection: sqlite3.Connection) -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        await database.write(fail)
    assert raised.value is error


async def test_even_odd_errors_reach_their_caller(database: Database) -> None:
    def run_out(_connection: sqlite3.Connection) -> int:
        return next(iter(()))

    def leave(_connection: sqlite3.Connection) -> None:
        raise SystemExit(3)

    with pytest.raises(InternalError, match="StopIteration"):
        await database.write(run_out)
    with pytest.raises(InternalError, match="SystemExit"):
        await database.write(leave)
    assert await database.write(insert(7)) == 7


async def test_a_transaction_that_sqlite_rolls_back_fails_the_whole_group(database: Database) -> None:
    started = threading.Event()

    def hold(_connection: sqlite3.Connection) -> None:
        started.wait(5.0)

    writes = [
        asyncio.create_task(database.write(each))
        for each in (hold, insert(10), execute("INSERT OR ROLLBACK INTO things (id, name) VALUES (1, 'x')"), insert(11))
    ]
    await asyncio.sleep(0.01)
    started.set()
    outcomes = await asyncio.gather(*writes, return_exceptions=True)

    assert [type(each) for each in outcomes] == [
        UnavailableError,
        UnavailableError,
        AlreadyExistsError,
        UnavailableError,
    ]
    assert ids(database) == [1]
    assert await database.write(insert(12)) == 12


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("INSERT INTO things (id, name) VALUES (1, 'x')", AlreadyExistsError),
        ("INSERT INTO things (id, name) VALUES (2, 'one; first')", AlreadyExistsError),
        ("INSERT INTO things (id, name, parent) VALUES (2, 'x', 77)", FailedPreconditionError),
        ("INSERT INTO things (id) VALUES (2)", InvalidArgumentError),
        ("INSERT INTO things (id, name) VALUES (1000000, 'x')", InvalidArgumentError),
        ("INSERT INTO things (id, name) VALUES (0, 'x')", InvalidArgumentError),
        ("SELECT zeroblob(2000000000)", InvalidArgumentError),
        ("SELECT * FROM nowhere", InternalError),
        ("SELECT ?", InternalError),
    ],
)
async def test_sqlites_errors_are_told_in_our_words(database: Database, sql: str, kind: type[ServiceError]) -> None:
    with pytest.raises(ServiceError) as raised:
        await database.write(execute(sql))
    assert type(raised.value) is kind
    assert isinstance(raised.value.__cause__, sqlite3.Error)


def test_each_exception_class_of_sqlite_is_in_the_table() -> None:
    def walk(kind: type[sqlite3.Error]) -> Iterator[type[sqlite3.Error]]:
        yield kind
        for child in kind.__subclasses__():
            yield from walk(child)

    shipped = {kind for kind in walk(sqlite3.Error) if kind.__module__ == "sqlite3"}
    assert shipped == set(ERROR_BY_CLASS)
    for kind in shipped:
        assert type(error_from_sqlite(kind("what happened"))) is ERROR_BY_CLASS[kind]


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (sqlite3.SQLITE_BUSY, UnavailableError),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, UnavailableError),
        (sqlite3.SQLITE_LOCKED, UnavailableError),
        (sqlite3.SQLITE_FULL, UnavailableError),
        (sqlite3.SQLITE_IOERR, UnavailableError),
        (sqlite3.SQLITE_IOERR_FSYNC, UnavailableError),
        (sqlite3.SQLITE_CANTOPEN, UnavailableError),
        (sqlite3.SQLITE_READONLY, UnavailableError),
        (sqlite3.SQLITE_INTERRUPT, UnavailableError),
        (sqlite3.SQLITE_NOMEM, ResourceExhaustedError),
        (sqlite3.SQLITE_TOOBIG, InvalidArgumentError),
        (sqlite3.SQLITE_CORRUPT, InternalError),
        (sqlite3.SQLITE_ERROR, InternalError),
    ],
)
def test_result_codes_say_more_than_the_class(result: int, kind: type[ServiceError]) -> None:
    error = sqlite3.OperationalError("what happened")
    error.sqlite_errorcode = result
    assert type(error_from_sqlite(error)) is kind


async def test_a_full_queue_refuses_at_once(path: Path) -> None:
    may_go = threading.Event()
    async with Database(path, migrations=[SCHEMA], max_queue=3) as database:

        def hold(_connection: sqlite3.Connection) -> None:
            may_go.wait(5.0)

        waiting = [asyncio.create_task(database.write(each)) for each in (hold, insert(2), insert(3))]
        await asyncio.sleep(0.01)
        with pytest.raises(ResourceExhaustedError, match="3 writes"):
            await database.write(insert(4))
        may_go.set()
        await asyncio.gather(*waiting)
        assert await database.write(insert(4)) == 4


async def test_a_write_whose_caller_left_in_time_is_not_done(database: Database) -> None:
    started, may_go = threading.Event(), threading.Event()

    def hold(_connection: sqlite3.Connection) -> None:
        started.set()
        may_go.wait(5.0)

    first = asyncio.create_task(database.write(hold))
    await eventually(started.is_set)
    second = asyncio.create_task(database.write(insert(2)))
    third = asyncio.create_task(database.write(insert(3)))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    may_go.set()
    await asyncio.gather(first, third)
    assert ids(database) == [1, 3]


async def test_long_reads_run_beside_and_cannot_write(database: Database) -> None:
    thread: list[str] = []

    def count(connection: sqlite3.Connection) -> int:
        thread.append(threading.current_thread().name)
        return int(connection.execute("SELECT count(*) FROM things").fetchone()[0])

    assert await database.read_in_thread(count) == 1
    assert thread[0].startswith("things-read")
    with pytest.raises(UnavailableError, match="readonly"):
        await database.read_in_thread(insert(2))
    with pytest.raises(UnavailableError, match="readonly"):
        database.read("DELETE FROM things")
    with pytest.raises(InternalError, match="nowhere"):
        database.read("SELECT * FROM nowhere")


async def test_closing_commits_what_was_taken_and_takes_no_more(path: Path) -> None:
    database = Database(path, migrations=[SCHEMA])
    writes = [asyncio.create_task(database.write(insert(number))) for number in range(2, 400)]
    await asyncio.sleep(0)
    await database.close()
    assert await asyncio.gather(*writes) == list(range(2, 400))
    with pytest.raises(UnavailableError, match="closed"):
        await database.write(insert(1000))
    with pytest.raises(UnavailableError, match="closed"):
        database.read("SELECT 1")
    with pytest.raises(UnavailableError, match="closed"):
        await database.read_in_thread(lambda connection: connection.execute("SELECT 1").fetchone())
    await database.close()


async def test_migrations_run_once_and_in_order(path: Path) -> None:
    second = "ALTER TABLE things ADD COLUMN size REAL; UPDATE things SET size = id * 2"
    async with Database(path, migrations=[SCHEMA]) as database:
        await database.write(insert(2))
    for _ in range(2):
        async with Database(path, migrations=[SCHEMA, second]) as database:
            assert database.read("SELECT id, size FROM things ORDER BY id") == [(1, 2.0), (2, 4.0)]
            assert database.read("PRAGMA user_version") == [(2,)]


async def test_a_failing_migration_leaves_the_old_version(path: Path) -> None:
    async with Database(path, migrations=[SCHEMA]):
        pass
    with pytest.raises(InternalError, match="nowhere"):
        Database(path, migrations=[SCHEMA, "CREATE TABLE more (id INTEGER); INSERT INTO nowhere VALUES (1);"])
    async with Database(path, migrations=[SCHEMA]) as database:
        assert database.read("SELECT name FROM sqlite_master WHERE name = 'more'") == []


async def test_a_newer_schema_is_refused(path: Path) -> None:
    async with Database(path, migrations=[SCHEMA, "SELECT 1;"]):
        pass
    with pytest.raises(FailedPreconditionError, match="version 2 and this program knows 1"):
        Database(path, migrations=[SCHEMA])


def test_a_file_that_is_no_database_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "text.db"
    path.write_text("this is no database, and long enough to see that" * 50)
    with pytest.raises(InternalError, match="not a database"):
        Database(path)


def test_a_folder_out_of_reach_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "a.db").mkdir()
    with pytest.raises(UnavailableError, match="unable to open"):
        Database(tmp_path / "a.db")


async def test_it_is_in_wal_mode_with_the_wanted_durability(path: Path) -> None:
    for synchronous, number in (("full", 2), ("normal", 1), ("off", 0)):
        async with Database(path, synchronous=synchronous) as database:  # type: ignore[arg-type]
            assert database.read("PRAGMA journal_mode") == [("wal",)]
            assert await database.write(lambda connection: connection.execute("PRAGMA synchronous").fetchone()) == (
                number,
            )


def start_writer(path: Path, first: int, count: int) -> subprocess.Popen[str]:
    script = Path(__file__).with_name("sqlite_process.py")
    return subprocess.Popen(
        [sys.executable, str(script), str(path), str(first), str(count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_several_processes_may_start_and_write_at_once(path: Path) -> None:
    writers = [start_writer(path, 1000 * number, 100) for number in range(3)]
    for writer in writers:
        out, err = writer.communicate(timeout=60)
        assert (writer.returncode, err) == (0, "")
        assert len(out.splitlines()) == 100
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM numbers").fetchone() == (300,)
    connection.close()


def test_a_killed_process_loses_nothing_that_it_acknowledged(path: Path) -> None:
    writer = start_writer(path, 0, 1_000_000)
    assert writer.stdout is not None
    acknowledged = [int(writer.stdout.readline()) for _ in range(200)]
    writer.kill()
    rest, _ = writer.communicate(timeout=30)
    acknowledged += [int(line) for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    with sqlite3.connect(path) as connection:
        stored = {number for (number,) in connection.execute("SELECT number FROM numbers")}
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    assert set(acknowledged) <= stored


def test_it_serves_several_event_loops_one_after_the_other(path: Path) -> None:
    database = Database(path, migrations=[SCHEMA])

    async def write(number: int) -> int:
        return await database.write(insert(number))

    async def leave_early() -> None:
        task = asyncio.create_task(write(9))
        await asyncio.sleep(0)
        task.cancel()

    async def close() -> list[int]:
        found = ids(database)
        await database.close()
        return found

    assert asyncio.run(write(2)) == 2
    asyncio.run(leave_early())
    assert asyncio.run(write(3)) == 3
    assert set(asyncio.run(close())) - {9} == {1, 2, 3}
