"""The event log, as far as it is written from here."""

from collections.abc import Sequence
from uuid import uuid4

from gpu_worker.domain.ports import EmbeddedItem, LogPosition
from recommendation.common.v1 import common_pb2
from recommendation.events.v1 import events_pb2
from servicekit.arrays import pack_floats, pack_keys
from servicekit.clock import Clock
from servicekit.eventlog.port import EventLog, NewRecord, Offsets
from servicekit.eventlog.topics import CONTENT_CHANGED, CONTENT_EMBEDDED, MODEL_PUBLISHED

_CATALOGUE_GROUP = "profile_store"  # whose committed offsets say what the catalogue knows


class LogAnnouncer:
    """See Announcer."""

    def __init__(self, log: EventLog, clock: Clock) -> None:
        self._log = log
        self._producer = log.producer()
        self._clock = clock

    async def announce_embedded(self, items: Sequence[EmbeddedItem]) -> None:
        """See Announcer."""
        now_ms = self._clock.now_ms()
        await self._producer.append([_embedded_record(item, now_ms) for item in items])

    async def announce_model(self, tenant: str, version: str) -> None:
        """See Announcer."""
        event = events_pb2.ModelPublished(
            event_id=uuid4().hex, occurred_at_ms=self._clock.now_ms(), tenant=tenant, version=version
        )
        await self._producer.append([NewRecord(MODEL_PUBLISHED, tenant, event.SerializeToString())])

    async def catalogue_position(self) -> LogPosition:
        """See Announcer.

        The catalogue is profile_store's, so its position is what profile_store has committed. Vectors are stored
        before they are announced, so theirs is the end of the log.
        """
        return {
            CONTENT_CHANGED: _by_partition(await self._log.committed_offsets(_CATALOGUE_GROUP, [CONTENT_CHANGED])),
            CONTENT_EMBEDDED: _by_partition(await self._log.end_offsets([CONTENT_EMBEDDED])),
        }


def _by_partition(offsets: Offsets) -> dict[str, int]:
    return {str(where.partition): offset for where, offset in offsets.items()}


def _embedded_record(embedded: EmbeddedItem, now_ms: int) -> NewRecord:
    item = embedded.item
    event = events_pb2.ContentEmbedded(
        event_id=embedded.event_id,
        occurred_at_ms=now_ms,
        item=common_pb2.Item.FromString(item.packed),
        model_id=embedded.mark.model_id,
        content_hash=embedded.mark.content_hash,
        neighbour_keys=pack_keys(embedded.neighbours.keys),
        neighbour_scores=pack_floats(embedded.neighbours.scores),
    )
    return NewRecord(CONTENT_EMBEDDED, f"{item.tenant}/{item.item_type}/{item.item_id}", event.SerializeToString())
