"""The event log in a folder of SQLite files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from secrets import token_hex

from servicekit.clock import Clock, SystemClock
from servicekit.eventlog.port import NewRecord, Offsets, Start, TopicPartition, TopicSpec
from servicekit.eventlog.sqlite.connection import Sync
from servicekit.eventlog.sqlite.consumer import SqliteConsumer
from servicekit.eventlog.sqlite.reader import LogReader
from servicekit.eventlog.sqlite.topic_file import TopicFile
from servicekit.eventlog.sqlite.writer import AppendWriter

_SESSION_MS = 5_000


class SqliteEventLog:
    """See EventLog. One file a topic, one for the groups; used from one event loop.

    Args:
        folder: Where the files lie; made when needed. All processes that name the same folder share the log.
        sync: With "full" what was acknowledged survives a power loss, with "normal" the death of the processes.
        clock: Stamps records and judges leases.
        session_ms: How long a member of a group that says nothing counts as living.
    """

    def __init__(
        self, folder: Path, *, sync: Sync = "full", clock: Clock | None = None, session_ms: int = _SESSION_MS
    ) -> None:
        self._folder = folder
        self._clock = clock or SystemClock()
        self._session_ms = session_ms
        name = token_hex(8)
        self._reader = LogReader(folder, name=name)
        self._writer = AppendWriter(folder, name=name, sync=sync, clock=self._clock, on_commit=self._reader.wake)
        self._consumers: list[SqliteConsumer] = []

    async def ensure_topics(self, specs: Sequence[TopicSpec]) -> None:
        """See EventLog."""
        await self._reader.run(self._ensure_topics, specs)

    def producer(self) -> "SqliteProducer":
        """See EventLog."""
        return SqliteProducer(self._writer)

    def consumer(
        self, topics: Sequence[str], *, group: str | None, start: Start | Offsets = Start.COMMITTED, member: str = ""
    ) -> SqliteConsumer:
        """See EventLog."""
        consumer = SqliteConsumer(
            self._reader,
            topics,
            group=group,
            start=start,
            member=member,
            clock=self._clock,
            session_ms=self._session_ms,
        )
        self._consumers.append(consumer)
        return consumer

    async def end_offsets(self, topics: Sequence[str]) -> Offsets:
        """See EventLog."""
        return await self._ask(topics, TopicFile.end_offsets)

    async def begin_offsets(self, topics: Sequence[str]) -> Offsets:
        """See EventLog."""
        return await self._ask(topics, TopicFile.begin_offsets)

    async def committed_offsets(self, group: str, topics: Sequence[str]) -> Offsets:
        """See EventLog."""
        committed = await self._reader.run(lambda: self._reader.groups().offsets(group))
        return {where: committed.get(where, first) for where, first in (await self.begin_offsets(topics)).items()}

    async def offsets_for_time(self, topics: Sequence[str], timestamp_ms: int) -> Offsets:
        """See EventLog."""
        return await self._ask(topics, lambda file: file.offsets_for_time(timestamp_ms))

    async def close(self) -> None:
        """See EventLog."""
        await self._writer.close()
        for consumer in self._consumers:
            await consumer.close()
        await self._reader.close()

    def _ensure_topics(self, specs: Sequence[TopicSpec]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for spec in specs:
            TopicFile.ensure(self._folder, spec)

    async def _ask(
        self, topics: Sequence[str], question: Callable[[TopicFile], Mapping[TopicPartition, int]]
    ) -> Offsets:
        def ask_all() -> dict[TopicPartition, int]:
            answers: dict[TopicPartition, int] = {}
            for topic in topics:
                answers |= question(self._reader.topic(topic))
            return answers

        return await self._reader.run(ask_all)


class SqliteProducer:
    """See EventProducer."""

    def __init__(self, writer: AppendWriter) -> None:
        self._writer = writer

    async def append(self, records: Sequence[NewRecord]) -> Sequence[tuple[TopicPartition, int]]:
        """See EventProducer."""
        return await self._writer.append(records)

    async def close(self) -> None:
        """See EventProducer; the log's close finishes what was accepted."""
