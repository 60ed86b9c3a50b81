"""Brings the schema of an outside store up to date: ordered, locked, resumable, expanding before contracting.

A file of migrations looks like this (with `//` in place of `--` in Cypher); each statement ends with a semicolon at the
end of a line:

    -- migration 0001 expand: items by key
    CREATE TABLE IF NOT EXISTS items (...);

    -- migration 0002 contract: the old table goes
    DROP TABLE IF EXISTS old_items;

*Expand* adds what the next program needs and leaves the running one in peace: it goes before a rollout. *Contract*
removes what only older programs need: it goes after the rollout, and only when asked for by name. Every statement says
IF (NOT) EXISTS, so that a run that was killed half-way is finished by the next one.
"""

import asyncio
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from typing import Literal, Protocol

from servicekit.errors import StartupError

Phase = Literal["expand", "contract"]

LOCK_TTL_S = 120.0
"""After so long the lock of a run that died is free again; no statement may take longer."""
LOCK_WAIT_S = 300.0
"""How long a run waits for another one to finish."""
_LOCK_POLL_S = 0.5
_HOW = "run `recommend migrate`"


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of a schema.

    Args:
        number: Its place in the order.
        name: What it does, for people.
        phase: Whether it goes before or after the rollout of the program that needs it.
        statements: What is executed, in order, without comments and closing semicolons.
        checksum: Of the statements, whatever their comments and white space.
    """

    number: int
    name: str
    phase: Phase
    statements: tuple[str, ...]
    checksum: str

    def __str__(self) -> str:
        return f"{self.number:04} {self.phase}: {self.name}"


class MigrationTarget(Protocol):
    """A store whose schema is migrated; one run calls it from one task."""

    @property
    def name(self) -> str:
        """What people call it, such as `keyspace recommendation`."""
        ...

    async def lock(self, owner: str, ttl_s: float) -> bool:
        """Take the lock for so many seconds, or prolong it; tell whether the owner has it now.

        Makes what locks and records are kept in, if that is not there yet.
        """
        ...

    async def unlock(self, owner: str) -> None:
        """Give the lock back, if it is the owner's."""
        ...

    async def applied(self) -> Mapping[int, str]:
        """Give the checksums of the recorded migrations by number; none where nothing was ever recorded."""
        ...

    async def execute(self, statement: str) -> None:
        """Execute a statement; return when it is done on all of the store."""
        ...

    async def record(self, migration: Migration) -> None:
        """Remember durably that a migration was applied."""
        ...


class MemoryMigrationTarget:
    """A target in memory, the reference of what the port means.

    Args:
        now_s: Gives the seconds by which a lock runs out.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self.executed: list[str] = []
        self._now_s = now_s
        self._checksums: dict[int, str] = {}
        self._owner = ""
        self._locked_until = 0.0

    @property
    def name(self) -> str:
        """See MigrationTarget."""
        return "memory"

    async def lock(self, owner: str, ttl_s: float) -> bool:
        """See MigrationTarget."""
        if self._owner not in {"", owner} and self._now_s() < self._locked_until:
            return False
        self._owner, self._locked_until = owner, self._now_s() + ttl_s
        return True

    async def unlock(self, owner: str) -> None:
        """See MigrationTarget."""
        if self._owner == owner:
            self._owner = ""

    async def applied(self) -> Mapping[int, str]:
        """See MigrationTarget."""
        return dict(self._checksums)

    async def execute(self, statement: str) -> None:
        """See MigrationTarget."""
        self.executed.append(statement)

    async def record(self, migration: Migration) -> None:
        """See MigrationTarget."""
        self._checksums[migration.number] = migration.checksum


def parse_migrations(text: str, *, comment: str) -> tuple[Migration, ...]:
    """Read a file of migrations.

    Args:
        text: The file.
        comment: What begins a comment that lasts to the end of the line.

    Raises:
        ValueError: The file is not as the module says; it names the line or the migration.
    """
    header = re.compile(rf"{re.escape(comment)} migration (\d{{4}}) (expand|contract): (.*\S)\s*")
    found: list[tuple[re.Match[str], list[str]]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        match = header.fullmatch(line)
        if match is not None:
            found.append((match, []))
        elif line.startswith(f"{comment} migration"):
            raise ValueError(f"line {number} is no header of a migration: {line}")
        elif line.strip() and not line.lstrip().startswith(comment):
            if not found:
                raise ValueError(f"line {number} stands before the first migration: {line}")
            found[-1][1].append(line.rstrip())
    migrations = tuple(_migration(match, lines) for match, lines in found)
    for earlier, later in pairwise(migrations):
        if later.number <= earlier.number:
            raise ValueError(f"migration {later.number:04} comes after {earlier.number:04}")
    return migrations


def missing(applied: Mapping[int, str], migrations: Sequence[Migration], phase: Phase) -> list[Migration]:
    """Give what a run of a phase would apply, in order.

    Raises:
        StartupError: A migration was changed after it was applied.
    """
    for migration in migrations:
        if applied.get(migration.number, migration.checksum) != migration.checksum:
            raise StartupError(
                f"migration {migration} was changed after it was applied: put it back as it was and add a new one"
            )
    return [each for each in migrations if each.phase == phase and each.number not in applied]


async def migrate(
    target: MigrationTarget,
    migrations: Sequence[Migration],
    *,
    phase: Phase = "expand",
    lock_ttl_s: float = LOCK_TTL_S,
    lock_wait_s: float = LOCK_WAIT_S,
) -> list[Migration]:
    """Apply what is missing of a phase, in order; give what was applied.

    Several processes may do so at once: one works, the others wait for it and find nothing left to do.

    Raises:
        StartupError: A migration was changed after it was applied; the lock could not be had or was lost; the phase is
            "contract" and a migration that expands is missing.
    """
    owner = uuid.uuid4().hex
    await _lock(target, owner, lock_ttl_s, lock_wait_s)
    try:
        applied = await target.applied()
        if phase == "contract" and (first := missing(applied, migrations, "expand")):
            raise StartupError(f"{target.name} lacks migration {first[0]}: expand before you contract")
        todo = missing(applied, migrations, phase)
        for migration in todo:
            for statement in migration.statements:
                if not await target.lock(owner, lock_ttl_s):
                    raise StartupError(f"another run has taken the lock of {target.name}: run this one again")
                await target.execute(statement)
            await target.record(migration)
        return todo
    finally:
        await target.unlock(owner)


async def check(target: MigrationTarget, migrations: Sequence[Migration]) -> None:
    """Make sure that the schema has all that this program needs; what newer programs added does not matter.

    Raises:
        StartupError: A migration that expands is missing, or one was changed after it was applied.
    """
    behind = missing(await target.applied(), migrations, "expand")
    if behind:
        raise StartupError(f"the schema of {target.name} is behind, it lacks migration {behind[0]}: {_HOW}")


async def _lock(target: MigrationTarget, owner: str, ttl_s: float, wait_s: float) -> None:
    give_up = time.monotonic() + wait_s
    while not await target.lock(owner, ttl_s):
        if time.monotonic() >= give_up:
            raise StartupError(f"another run has held the lock of {target.name} for {wait_s:.0f} s: try again later")
        await asyncio.sleep(min(_LOCK_POLL_S, ttl_s))


def _migration(header: re.Match[str], lines: Sequence[str]) -> Migration:
    body = "\n".join(lines)
    if not body.endswith(";"):
        raise ValueError(f"migration {header[1]} does not end with a semicolon")
    statements = tuple(each.strip() for each in f"{body}\n".split(";\n") if each.strip())
    checksum = sha256("\n".join(" ".join(each.split()) for each in statements).encode()).hexdigest()
    phase: Phase = "contract" if header[2] == "contract" else "expand"
    return Migration(int(header[1]), header[3], phase, statements, checksum)
