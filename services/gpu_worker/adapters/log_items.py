"""The catalogue as the event log tells it: the last state of each item."""

from collections.abc import AsyncIterator, Sequence

from gpu_worker.application.embedding import Change, ItemPut
from gpu_worker.convert import change_from_message
from gpu_worker.domain.items import Item
from recommendation.events.v1 import events_pb2
from servicekit.errors import InvalidArgumentError
from servicekit.eventlog.decode import decode
from servicekit.eventlog.port import EventLog, Record
from servicekit.eventlog.topics import CONTENT_CHANGED

_TOPICS = (CONTENT_CHANGED,)
_BATCH = 1_000
_POLL_S = 0.1


class LogItems:
    """An ItemSource that reads `content.changed` twice: which record of each item is its last, then these.

    So only a key and a few numbers of each item are kept in memory. Records that cannot be read are passed over:
    profile_store puts them aside for all.
    """

    def __init__(self, log: EventLog) -> None:
        self._log = log

    async def export_items(self, tenant: str) -> AsyncIterator[Sequence[Item]]:
        """Give the items that are there at the end of the log."""
        last: dict[int, tuple[int, int, int]] = {}  # when, and where: the partition and the offset
        async for records in self._read(tenant):
            for record, change in records:
                stands = (change.occurred_at_ms, record.partition, record.offset)
                if change.key not in last or stands >= last[change.key]:
                    last[change.key] = stands
        async for records in self._read(tenant):
            page = [
                change.item
                for record, change in records
                if isinstance(change, ItemPut)
                and last.get(change.key) == (change.occurred_at_ms, record.partition, record.offset)
            ]
            if page:
                yield page

    async def _read(self, tenant: str) -> AsyncIterator[Sequence[tuple[Record, Change]]]:
        """Give a tenant's changes from the beginning of the log to the end that it has now."""
        end = await self._log.end_offsets(_TOPICS)
        begin = await self._log.begin_offsets(_TOPICS)
        left = {where for where, offset in end.items() if offset > begin.get(where, 0)}
        consumer = self._log.consumer(_TOPICS, group=None, start=begin)
        try:
            while left:
                records = await consumer.poll(max_records=_BATCH, timeout_s=_POLL_S)
                position = consumer.position()
                left = {where for where in left if position.get(where, 0) < end[where]}
                changes = ((record, _change_or_none(record)) for record in records)
                yield [(record, change) for record, change in changes if change is not None and change.tenant == tenant]
        finally:
            await consumer.close()


def _change_or_none(record: Record) -> Change | None:
    try:
        return change_from_message(decode(record, events_pb2.ContentChanged))
    except InvalidArgumentError:
        return None
