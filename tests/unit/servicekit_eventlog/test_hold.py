"""A batch that is held back is handled later, so that whoever writes through is done first."""

import asyncio
import time
from collections.abc import Sequence

from servicekit.eventlog.memory import MemoryEventLog
from servicekit.eventlog.port import NewRecord, Record, TopicSpec
from servicekit.eventlog.runner import ConsumerRunner, RecordFailure
from servicekit.testing import eventually


async def test_a_held_batch_waits() -> None:
    log = MemoryEventLog()
    await log.ensure_topics([TopicSpec("t", 1), TopicSpec("t.dlq", 1)])
    stop, handled_at = asyncio.Event(), []

    async def handle(_records: Sequence[Record]) -> Sequence[RecordFailure]:
        handled_at.append(time.monotonic())
        return []

    runner = ConsumerRunner(log.consumer(["t"], group="g"), handle, log.producer(), name="g", hold_s=0.2)
    task = asyncio.create_task(runner.run(stop))
    began = time.monotonic()
    await log.producer().append([NewRecord("t", "k", b"v")])
    await eventually(lambda: handled_at)
    assert handled_at[0] - began >= 0.2
    stop.set()
    await task
    await log.close()
