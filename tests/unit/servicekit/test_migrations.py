import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from servicekit.errors import StartupError, UnavailableError
from servicekit.migrate_command import run_migrate_command
from servicekit.migrations import MemoryMigrationTarget, MigrationTarget, check, migrate, parse_migrations

TEXT = """-- What stands here is for people.

-- migration 0001 expand: items by key
-- why
CREATE TABLE IF NOT EXISTS items (
    key bigint,   -- no comment begins inside a line; it belongs to the statement
    name text
);
CREATE INDEX IF NOT EXISTS a ON items (name);

-- migration 0003 contract: the old table goes
DROP TABLE IF EXISTS old;
-- migration 0004 expand: users
CREATE TABLE IF NOT EXISTS users (a text DEFAULT ';x');
"""
MIGRATIONS = parse_migrations(TEXT, comment="--")
ONE, CONTRACTS, TWO = MIGRATIONS


class DyingTarget(MemoryMigrationTarget):
    """Raises at one of the statements, once."""

    def __init__(self, dies_at: str) -> None:
        super().__init__()
        self._dies_at = dies_at

    async def execute(self, statement: str) -> None:
        if statement == self._dies_at:
            self._dies_at = ""
            raise UnavailableError("gone")
        await super().execute(statement)


def test_a_file_is_read() -> None:
    assert [str(each) for each in MIGRATIONS] == [
        "0001 expand: items by key",
        "0003 contract: the old table goes",
        "0004 expand: users",
    ]
    table, index = ONE.statements
    assert table.startswith("CREATE TABLE")
    assert table.endswith(")")
    assert index == "CREATE INDEX IF NOT EXISTS a ON items (name)"
    assert TWO.statements == ("CREATE TABLE IF NOT EXISTS users (a text DEFAULT ';x')",)


def test_a_checksum_is_of_what_is_executed() -> None:
    text = "// migration 0001 expand: a\n{}\n"
    sums = [
        parse_migrations(text.format(body), comment="//")[0].checksum
        for body in ("MAKE A;", "// said\n  MAKE\n  A;", "MAKE B;", "MAKE;\nA;")
    ]
    assert sums[0] == sums[1]
    assert len(set(sums)) == 3


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("-- migration 1 expand: a\nA;", "line 1"),
        ("-- migration 0001 explode: a\nA;", "line 1"),
        ("A;\n-- migration 0001 expand: a\nA;", "before the first"),
        ("-- migration 0001 expand: a\nA", "semicolon"),
        ("-- migration 0001 expand: a", "semicolon"),
        ("-- migration 0002 expand: a\nA;\n-- migration 0002 expand: b\nB;", "0002 comes after 0002"),
    ],
)
def test_a_file_that_is_wrong_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_migrations(text, comment="--")


async def test_expanding_comes_in_order_and_leaves_contracting_alone() -> None:
    target = MemoryMigrationTarget()
    assert await migrate(target, MIGRATIONS) == [ONE, TWO]
    assert target.executed == [*ONE.statements, *TWO.statements]
    assert await migrate(target, MIGRATIONS) == []


async def test_contracting_needs_what_expands() -> None:
    target = MemoryMigrationTarget()
    with pytest.raises(StartupError, match="expand before you contract"):
        await migrate(target, MIGRATIONS, phase="contract")
    assert target.executed == []
    await migrate(target, MIGRATIONS)
    assert await migrate(target, MIGRATIONS, phase="contract") == [CONTRACTS]


@pytest.mark.parametrize("statement", [each for migration in (ONE, TWO) for each in migration.statements])
async def test_a_run_that_died_is_finished_by_the_next(statement: str) -> None:
    target = DyingTarget(statement)
    with pytest.raises(UnavailableError):
        await migrate(target, MIGRATIONS)
    with pytest.raises(StartupError, match="is behind"):
        await check(target, MIGRATIONS)
    await migrate(target, MIGRATIONS)
    await check(target, MIGRATIONS)
    assert set(target.executed) == {*ONE.statements, *TWO.statements}


async def test_of_many_runs_one_works() -> None:
    target = MemoryMigrationTarget()
    done = await asyncio.gather(*(migrate(target, MIGRATIONS) for _ in range(5)))
    assert sorted(map(len, done)) == [0, 0, 0, 0, 2]
    assert target.executed == [*ONE.statements, *TWO.statements]


async def test_a_lock_that_is_held_is_waited_for_and_told() -> None:
    now_s = 0.0
    target = MemoryMigrationTarget(lambda: now_s)
    await target.lock("somebody", 10.0)
    with pytest.raises(StartupError, match="another run"):
        await migrate(target, MIGRATIONS, lock_wait_s=0.0)
    now_s = 10.0  # the other one died, and its lock has run out
    assert await migrate(target, MIGRATIONS, lock_wait_s=0.0) == [ONE, TWO]


async def test_a_lost_lock_stops_the_run() -> None:
    now_s = 0.0

    class SlowTarget(MemoryMigrationTarget):
        async def execute(self, statement: str) -> None:
            nonlocal now_s
            await super().execute(statement)
            now_s += 100.0
            await self.lock("somebody", 1_000.0)

    target = SlowTarget(lambda: now_s)
    with pytest.raises(StartupError, match="taken the lock"):
        await migrate(target, MIGRATIONS, lock_ttl_s=50.0)
    assert target.executed == [ONE.statements[0]]


async def test_a_changed_migration_is_refused() -> None:
    target = MemoryMigrationTarget()
    await migrate(target, MIGRATIONS)
    changed = parse_migrations(TEXT.replace("bigint", "int"), comment="--")
    for act in (check(target, changed), migrate(target, changed)):
        with pytest.raises(StartupError, match="0001 expand: items by key was changed"):
            await act


async def test_a_newer_schema_serves_an_older_program() -> None:
    target = MemoryMigrationTarget()
    await migrate(target, MIGRATIONS)
    await check(target, MIGRATIONS[:1])


def test_the_command_tells_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    target = MemoryMigrationTarget()

    @asynccontextmanager
    async def opened() -> AsyncIterator[MigrationTarget]:
        yield target

    def lines(*arguments: str) -> list[str]:
        assert run_migrate_command("some_service", opened, MIGRATIONS, arguments) == 0
        return capsys.readouterr().out.splitlines()

    assert lines("--dry-run") == [f"memory: missing {ONE}", f"memory: missing {TWO}"]
    assert target.executed == []
    assert lines() == [f"memory: applied {ONE}", f"memory: applied {TWO}"]
    assert lines() == ["memory: nothing to expand"]
    assert lines("--phase", "contract") == [f"memory: applied {CONTRACTS}"]


@pytest.mark.parametrize(("error", "code"), [(StartupError("no such keyspace"), 2), (UnavailableError("gone"), 1)])
def test_the_command_says_in_one_line_what_is_wrong(
    capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    @asynccontextmanager
    async def opened() -> AsyncIterator[MigrationTarget]:
        raise error
        yield MemoryMigrationTarget()

    assert run_migrate_command("some_service", opened, MIGRATIONS, []) == code
    assert capsys.readouterr().err == f"{error}\n"
