"""Sends records to the gateway in bulk over a few connections, each user's in the given order."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final
from zlib import crc32

import orjson

from recommend_cli.clients.gateway import Written
from recommend_cli.datasets.files import BadLine, Line, Record

BATCH: Final = 1_000
BATCH_BYTES: Final = 4 << 20  # far below the gateway's cap of 16 MiB, and far above the longest record that it takes
CONNECTIONS: Final = 4
_BATCHES_AHEAD: Final = 2  # read from the file while a connection is busy


@dataclass(slots=True)
class LoadOutcome:
    """How many records were new or known before, and the lines that were not loaded with their reasons."""

    new: int = 0
    known: int = 0
    bad: dict[int, str] = field(default_factory=dict)

    @property
    def loaded(self) -> int:
        """How many records are there now."""
        return self.new + self.known

    @property
    def lines(self) -> int:
        """How many lines were read."""
        return self.loaded + len(self.bad)


async def send_all(
    lines: Iterable[Line | BadLine],
    send: Callable[[Sequence[Record]], Awaitable[Written]],
    *,
    stream_key: str,
    on_progress: Callable[[int], None] = lambda _: None,
) -> LoadOutcome:
    """Send every good line.

    Args:
        lines: What was read; bad lines end up in the outcome.
        send: Writes one batch.
        stream_key: The field that decides the connection: records with the same value are sent one batch after the
            other, in the order of the lines.
        on_progress: Takes how many lines were dealt with since the last call.

    Raises:
        CommandError: The gateway cannot be reached, or refuses a batch as a whole.
    """
    outcome = LoadOutcome()
    queues: list[asyncio.Queue[list[Line]]] = [asyncio.Queue(_BATCHES_AHEAD) for _ in range(CONNECTIONS)]

    async def work(queue: asyncio.Queue[list[Line]]) -> None:
        while batch := await queue.get():
            written = await send([line.record for line in batch])
            outcome.new += written.new
            outcome.known += written.known
            outcome.bad.update((batch[refused.index].number, refused.reason) for refused in written.refused)
            on_progress(len(batch))

    try:
        async with asyncio.TaskGroup() as workers:
            for queue in queues:
                workers.create_task(work(queue))
            for at, batch in _batches(lines, stream_key, outcome, on_progress):
                await queues[at].put(batch)
            for queue in queues:
                await queue.put([])  # the end
    except ExceptionGroup as group:
        raise group.exceptions[0] from group
    return outcome


def _batches(
    lines: Iterable[Line | BadLine], stream_key: str, outcome: LoadOutcome, on_progress: Callable[[int], None]
) -> Iterator[tuple[int, list[Line]]]:
    """Give full batches with the number of their stream, and at last the rest; note the bad lines in passing."""
    batches: list[list[Line]] = [[] for _ in range(CONNECTIONS)]
    sizes = [0] * CONNECTIONS
    for line in lines:
        size = 0 if isinstance(line, BadLine) else len(orjson.dumps(line.record))
        if isinstance(line, BadLine) or size > BATCH_BYTES:
            too_long = f"{size:,} bytes as JSON, and no valid record has more than {BATCH_BYTES:,}"
            outcome.bad[line.number] = line.reason if isinstance(line, BadLine) else too_long
            on_progress(1)
            continue
        at = crc32(str(line.record.get(stream_key)).encode()) % CONNECTIONS
        if len(batches[at]) == BATCH or sizes[at] + size > BATCH_BYTES:
            yield at, batches[at]
            batches[at], sizes[at] = [], 0
        batches[at].append(line)
        sizes[at] += size
    yield from ((at, batch) for at, batch in enumerate(batches) if batch)
