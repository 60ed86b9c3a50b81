"""Writes numbers to a database and says each one that was committed: `python sqlite_process.py FILE START COUNT`."""

import asyncio
import sqlite3
import sys
from pathlib import Path

from servicekit.sqlite import Database

SCHEMA = "CREATE TABLE numbers (number INTEGER PRIMARY KEY, half REAL NOT NULL);"


async def main(path: Path, start: int, count: int) -> None:
    async with Database(path, migrations=[SCHEMA]) as database:

        async def write(number: int) -> None:
            def insert(connection: sqlite3.Connection) -> None:
                connection.execute("INSERT INTO numbers VALUES (?, ?)", (number, number / 2))

            await database.write(insert)
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()

        for first in range(start, start + count, 10):
            await asyncio.gather(*(write(number) for number in range(first, min(first + 10, start + count))))


asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
