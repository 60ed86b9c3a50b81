"""The event log's way in: every replica reads all of what concerns items and versions, from where its version ends."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import numpy as np

from recommendation.events.v1 import events_pb2
from servicekit import metrics
from servicekit.arrays import unpack_floats, unpack_keys
from servicekit.errors import InvalidArgumentError, UnavailableError
from servicekit.eventlog.ages import RecordAges
from servicekit.eventlog.decode import decode
from servicekit.eventlog.port import EventLog, Offsets, Record, TopicPartition
from servicekit.eventlog.topics import CONTENT_CHANGED, CONTENT_EMBEDDED, MODEL_PUBLISHED
from servicekit.logs import get_logger
from vector_search.convert import item_from_message, key_of
from vector_search.domain.changes import Change, ItemDeleted, ItemEmbedded, ItemPut, VersionPublished
from vector_search.domain.ports import Position

ITEM_TOPICS = (CONTENT_CHANGED, CONTENT_EMBEDDED)
_BATCH = 1_000
_POLL_S = 1.0
_CATCH_UP_POLL_S = 0.02  # the end was there before the first poll: there is nothing to wait for
_PAUSE_S = 0.5

_log = get_logger(__name__)


def change_of(record: Record) -> Change:
    """Read what a record says happened.

    Raises:
        InvalidArgumentError: It cannot be read, or lacks what it must have.
    """
    if record.topic == CONTENT_CHANGED:
        return _content_changed(decode(record, events_pb2.ContentChanged))
    if record.topic == CONTENT_EMBEDDED:
        return _content_embedded(decode(record, events_pb2.ContentEmbedded))
    published = decode(record, events_pb2.ModelPublished)
    if not (published.tenant and published.version):
        raise InvalidArgumentError("a published model needs tenant and version", field="version")
    return VersionPublished(published.tenant, published.version)


class LogTail:
    """Reads a tenant's item changes between a position and now; see the port Tail."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    async def replay(self, tenant: str, position: Position) -> AsyncIterator[Sequence[Change]]:
        """Give a tenant's changes from a position to the end that the log has now."""
        end = await self._log.end_offsets(ITEM_TOPICS)
        start = offsets_of(position)
        if _reached(start, end):
            return
        consumer = self._log.consumer(ITEM_TOPICS, group=None, start=start)
        try:
            while not _reached(consumer.position(), end):
                records = await consumer.poll(max_records=_BATCH, timeout_s=_CATCH_UP_POLL_S)
                yield [change for change in map(_change_or_none, records) if change and change.tenant == tenant]
        finally:
            await consumer.close()


class LogFollower:
    """Applies the log from the positions of the versions onwards, for as long as the service runs."""

    def __init__(
        self, log: EventLog, apply: Callable[[Change], None], *, known: Mapping[str, Position], published: Offsets
    ) -> None:
        """Follow for tenants whose versions know the log up to a position; what they know is not applied again.

        Publications are read from `published` on: what went before is in what the model store says is active.
        """
        self._log = log
        self._apply = apply
        self._published = published
        self._known = {tenant: offsets_of(position) for tenant, position in known.items()}
        self.caught_up = asyncio.Event()
        self.applied: Offsets = {}
        """The next offset of each partition of which everything before has been applied."""

    async def run(self, stop: asyncio.Event) -> None:
        """Apply records as they come; `caught_up` is set when everything that was there at the start is applied."""
        topics = (*ITEM_TOPICS, MODEL_PUBLISHED)
        end = await self._log.end_offsets(ITEM_TOPICS)
        consumer = self._log.consumer(topics, group=None, start=self._published)
        ages = RecordAges()
        if not any(end.values()):
            self.caught_up.set()
        try:
            while not stop.is_set():
                try:
                    timeout_s = _POLL_S if self.caught_up.is_set() else _CATCH_UP_POLL_S
                    records = await consumer.poll(max_records=_BATCH, timeout_s=timeout_s)
                except UnavailableError as error:
                    _log.warning("the log cannot be read, trying again", error=error.message)
                    await asyncio.sleep(_PAUSE_S)
                    continue
                for record in records:
                    self._take(record)
                if self.caught_up.is_set():  # what is read again at a start is old, and says nothing of a lag
                    ages.tell(records)
                self.applied = consumer.position()
                if not self.caught_up.is_set() and _reached(self.applied, end):
                    self.caught_up.set()
        finally:
            await consumer.close()

    def _take(self, record: Record) -> None:
        known = self._known.get(record.key.partition("/")[0], {})
        if record.offset < known.get(TopicPartition(record.topic, record.partition), 0):
            return
        change = _change_or_none(record)
        if change is not None:
            self._apply(change)
            metrics.CONSUMED.labels(record.topic).inc()


def offsets_of(position: Position) -> Offsets:
    """Give a manifest's position as the log's offsets."""
    return {
        TopicPartition(topic, partition): offset
        for topic, offsets in position.items()
        if topic in ITEM_TOPICS
        for partition, offset in offsets.items()
    }


def _change_or_none(record: Record) -> Change | None:
    """Read a record; one that cannot be read is told and passed over: profile_store puts it aside for all."""
    try:
        return change_of(record)
    except InvalidArgumentError as error:
        _log.warning(
            "record passed over",
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            error=error.message,
        )
        metrics.DEAD_LETTERS.labels(record.topic).inc()
        return None


def _content_changed(event: events_pb2.ContentChanged) -> Change:
    match event.WhichOneof("change"):
        case "put":
            message = event.put
            if not message.updated_at_ms:
                message.updated_at_ms = event.occurred_at_ms  # a producer may leave it out of the state
            return ItemPut(message.tenant, item_from_message(message))
        case "deleted":
            return ItemDeleted(event.deleted.tenant, key_of(event.deleted), event.occurred_at_ms)
        case _:
            raise InvalidArgumentError("the event has neither put nor deleted", field="change")


def _content_embedded(event: events_pb2.ContentEmbedded) -> ItemEmbedded:
    keys = unpack_keys(event.neighbour_keys, field="neighbour_keys")
    scores = unpack_floats(event.neighbour_scores, field="neighbour_scores")
    if len(keys) != len(scores):
        raise InvalidArgumentError(f"{len(keys)} neighbours have {len(scores)} scores", field="neighbour_scores")
    order = np.argsort(-scores, kind="stable")
    item = item_from_message(event.item)
    return ItemEmbedded(event.item.tenant, item, keys[order], scores[order], event.model_id)


def _reached(position: Offsets, end: Offsets) -> bool:
    return all(position.get(where, 0) >= offset for where, offset in end.items())
