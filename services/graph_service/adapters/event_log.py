"""The event log, as far as a rebuild reads it."""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final

from graph_service.convert.changes import MutationReader
from graph_service.convert.records import GROUP, TOPICS, read_record
from graph_service.domain.graph import DeletedItem, Mutation, PutItem
from graph_service.domain.sources import Position
from servicekit.errors import InvalidArgumentError
from servicekit.eventlog.port import EventLog, Offsets, Record, TopicPartition
from servicekit.eventlog.topics import CONTENT_CHANGED, USER_ERASED

_BATCH: Final = 5_000
_POLL_S: Final = 1.0


class LoggedChanges:
    """See ChangeLog."""

    def __init__(self, log: EventLog, reader: MutationReader) -> None:
        self._log = log
        self._reader = reader

    async def applied(self) -> Position:
        """See ChangeLog."""
        committed = await self._log.committed_offsets(GROUP, TOPICS)
        return {(each.topic, each.partition): offset for each, offset in committed.items()}

    async def described(self) -> AsyncIterator[Sequence[Mutation]]:
        """See ChangeLog."""
        async for records in self._records((CONTENT_CHANGED, USER_ERASED), {}):
            yield list(self._changes(records))

    async def since(self, position: Position) -> AsyncIterator[Sequence[Mutation]]:
        """See ChangeLog."""
        start = {TopicPartition(*where): offset for where, offset in position.items()}
        async for records in self._records(TOPICS, start):
            yield list(self._changes(records))

    async def tenants(self) -> frozenset[str]:
        """See ChangeLog."""
        found: set[str] = set()
        async for records in self._records((CONTENT_CHANGED,), {}):
            for change in self._changes(records):
                if isinstance(change, PutItem | DeletedItem):
                    found.add(change.facts.tenant)
        return frozenset(found)

    async def _records(self, topics: Sequence[str], start: Offsets) -> AsyncIterator[Sequence[Record]]:
        ends = await self._log.end_offsets(topics)
        begins = await self._log.begin_offsets(topics)
        left = {where for where, end in ends.items() if max(start.get(where, 0), begins.get(where, 0)) < end}
        consumer = self._log.consumer(topics, group=None, start=start)
        try:
            while left:
                records = await consumer.poll(max_records=_BATCH, timeout_s=_POLL_S)
                position = consumer.position()
                left = {where for where in left if position.get(where, 0) < ends[where]}
                if records:
                    yield records
        finally:
            await consumer.close()

    def _changes(self, records: Sequence[Record]) -> Iterator[Mutation]:
        for record in records:
            try:
                yield read_record(self._reader, record)
            except InvalidArgumentError:
                continue  # it is among the dead letters of who applied the log
