"""A process for the tests: appends to or consumes from a log until it is killed, and says what it has done."""

import asyncio
import os
import sys
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from random import Random

from servicekit.eventlog.port import NewRecord, Record
from servicekit.eventlog.runner import ConsumerRunner, RecordFailure
from servicekit.eventlog.sqlite import SqliteEventLog

SESSION_MS = 600


async def append(log: SqliteEventLog, topic: str, name: str) -> None:
    """Append batches; print the values of each once it is acknowledged."""
    random = Random(name)
    producer = log.producer()
    numbers = count()
    while True:
        values = [f"{name}.{random.randrange(5)}:{next(numbers)}" for _ in range(random.randrange(1, 50))]
        await producer.append([NewRecord(topic, value.partition(":")[0], value.encode()) for value in values])
        os.write(1, "".join(f"{value}\n" for value in values).encode())


async def consume(log: SqliteEventLog, topic: str, effects: str) -> None:
    """Write a line for each record handled into a file that all consumers share."""
    file = os.open(effects, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def handle(records: Sequence[Record]) -> Sequence[RecordFailure]:
        for record in records:
            os.write(file, f"{record.partition} {record.offset} {record.value.decode()}\n".encode())
            await asyncio.sleep(0)
        return ()

    runner = ConsumerRunner(log.consumer([topic], group="g"), handle, log.producer(), name="test", max_batch=40)
    await runner.run(asyncio.Event())


async def main(what: str, folder: str, topic: str, argument: str) -> None:
    log = SqliteEventLog(Path(folder), sync="normal", session_ms=SESSION_MS)
    await {"append": append, "consume": consume}[what](log, topic, argument)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
