"""The event log's way in: one replica applies each record to the store, and every replica's cache learns of it."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from graph_service.application.use_cases import GraphUseCases
from graph_service.convert.changes import MutationReader
from graph_service.convert.records import GROUP, TOPICS, read_record
from graph_service.domain.graph import Mutation
from servicekit.errors import InvalidArgumentError
from servicekit.eventlog.port import EventConsumer, EventLog, Record, TopicPartition
from servicekit.eventlog.runner import TRANSIENT, RecordFailure
from servicekit.eventlog.topics import CONTENT_CHANGED, USER_INTERACTIONS
from servicekit.logs import get_logger

TAIL_TOPICS: Final = (CONTENT_CHANGED, USER_INTERACTIONS)
"""What makes lists older; whom an erasure leaves without edges is not in its record, and lists end by their age."""

_POLL_S: Final = 1.0
_LOOK_S: Final = 0.05
_PAUSE_S: Final = 0.5

_log = get_logger(__name__)


class GraphConsumer:
    """Applies records of TOPICS, a batch in one go; their order between topics does not matter."""

    topics: Final = TOPICS

    def __init__(self, use_cases: GraphUseCases, reader: MutationReader) -> None:
        self._use_cases = use_cases
        self._reader = reader
        self.is_settled = True
        """Whether everything handed over so far is applied."""

    async def handle(self, records: Sequence[Record]) -> Sequence[RecordFailure]:
        """Apply the records that can be read and give back the others; for ConsumerRunner.

        Raises:
            UnavailableError: The store cannot be reached; the runner tries again.
        """
        self.is_settled = False
        mutations: list[Mutation] = []
        failures: list[RecordFailure] = []
        for record in records:
            try:
                mutations.append(read_record(self._reader, record))
            except InvalidArgumentError as error:
                failures.append(RecordFailure(record, error))
        if mutations:
            await self._use_cases.apply(mutations)
        self.is_settled = True
        return failures


class GraphTail:
    """Tells this replica's cache what the group has applied to the store, whichever replica did it.

    A record says only that something happens; what is so is in the store, once the group has committed the record.

    Args:
        log: Asked how far the group is.
        consumer: Without a group, on TAIL_TOPICS, from where the group is when nothing is cached yet.
        max_batch: The most records looked at together.
    """

    topics: Final = TAIL_TOPICS

    def __init__(
        self,
        log: EventLog,
        consumer: EventConsumer,
        use_cases: GraphUseCases,
        reader: MutationReader,
        *,
        max_batch: int,
    ) -> None:
        self._log = log
        self.consumer: Final = consumer
        self._use_cases = use_cases
        self._reader = reader
        self._max_batch = max_batch
        self.is_settled = True
        """Whether the cache knows everything that was read so far."""

    async def run(self) -> None:
        """Follow the log for ever; a store or a log that cannot be reached is tried again."""
        while True:
            records = await self._poll()
            if records:
                await self._learn(records)
            self.is_settled = True

    async def _poll(self) -> Sequence[Record]:
        while True:
            try:
                records = await self.consumer.poll(max_records=self._max_batch, timeout_s=_POLL_S)
            except TRANSIENT as error:
                _log.warning("the log cannot be followed, trying again", error=error.message)
                await asyncio.sleep(_PAUSE_S)
                continue
            self.is_settled = not records
            return records

    async def _learn(self, records: Sequence[Record]) -> None:
        ends: dict[TopicPartition, int] = {}
        changes: list[Mutation] = []
        for record in records:
            ends[TopicPartition(record.topic, record.partition)] = record.offset + 1
            try:
                changes.append(read_record(self._reader, record))
            except InvalidArgumentError as error:
                _log.debug("a record that nobody applies", topic=record.topic, error=error.message)
        while True:
            try:
                if await self._are_applied(ends):
                    await self._use_cases.learn(changes)
                    return
            except TRANSIENT as error:
                _log.warning("the cache cannot learn what changed, trying again", error=error.message)
                await asyncio.sleep(_PAUSE_S)
            await asyncio.sleep(_LOOK_S)

    async def _are_applied(self, ends: Mapping[TopicPartition, int]) -> bool:
        committed = await self._log.committed_offsets(GROUP, sorted({each.topic for each in ends}))
        return all(committed.get(where, 0) >= end for where, end in ends.items())
