"""The event log as the gateway writes to it and hears from it: domain events to records and back."""

from collections.abc import Sequence

from hot_path_api.adapters.convert import item_to_proto, ref_to_proto
from hot_path_api.domain.events import Event, Interaction, ItemDeleted, ItemPut, ListServed
from recommendation.events.v1 import events_pb2
from servicekit.arrays import pack_floats, pack_keys
from servicekit.batching import MicroBatcher
from servicekit.errors import DeadlineExceededError, UnavailableError
from servicekit.eventlog import topics
from servicekit.eventlog.port import EventProducer, NewRecord

# A broker that is replaced by another is waited for; who calls shall hear of one that is not before giving up.
_APPEND_S = 3.0


class EventLogSink:
    """The EventSink on a producer: what several requests append at the same time is written together."""

    def __init__(self, producer: EventProducer) -> None:
        self._producer = producer
        self._appends: MicroBatcher[NewRecord, None] = MicroBatcher(
            self._append_batch, name="event_log", max_batch=1_000, max_queue=10_000
        )

    async def append(self, event: Event) -> None:
        """Append one event.

        Raises:
            UnavailableError: The log cannot be written now, or does not say in time whether it was.
        """
        try:
            await self._appends.submit(_record(event), timeout_s=_APPEND_S)
        except DeadlineExceededError as error:
            raise UnavailableError(
                "the event log did not acknowledge the write in time; send it again, and with the same event_id it "
                "counts once"
            ) from error

    async def append_many(self, events: Sequence[Event]) -> None:
        """Append events, all or none."""
        await self._producer.append([_record(event) for event in events])

    async def close(self) -> None:
        """Finish what was taken; the producer belongs to whoever made it."""
        await self._appends.close()

    async def _append_batch(self, records: list[NewRecord]) -> Sequence[None]:
        await self._producer.append(records)
        return [None] * len(records)


def _record(event: Event) -> NewRecord:
    if isinstance(event, Interaction):
        return _interaction_record(event)
    if isinstance(event, ListServed):
        return _served_record(event)
    return _item_record(event)


def _interaction_record(event: Interaction) -> NewRecord:
    message = events_pb2.InteractionRecorded(
        event_id=event.event_id,
        occurred_at_ms=event.occurred_at_ms,
        tenant=event.tenant,
        user_id=event.user_id,
        item_type=event.item.item_type,
        item_id=event.item.item_id,
        interaction_type=event.interaction_type,
        value=event.value,
    )
    return NewRecord(topics.USER_INTERACTIONS, f"{event.tenant}/{event.user_id}", message.SerializeToString())


def _item_record(event: ItemPut | ItemDeleted) -> NewRecord:
    if isinstance(event, ItemPut):
        tenant, ref = event.item.tenant, event.item.ref
        message = events_pb2.ContentChanged(
            event_id=event.event_id, occurred_at_ms=event.item.updated_at_ms, put=item_to_proto(event.item)
        )
    else:
        tenant, ref = event.tenant, event.item
        message = events_pb2.ContentChanged(
            event_id=event.event_id, occurred_at_ms=event.occurred_at_ms, deleted=ref_to_proto(tenant, ref)
        )
    key = f"{tenant}/{ref.item_type}/{ref.item_id}"
    return NewRecord(topics.CONTENT_CHANGED, key, message.SerializeToString())


def _served_record(event: ListServed) -> NewRecord:
    message = events_pb2.RecommendationServed(
        event_id=event.event_id,
        occurred_at_ms=event.occurred_at_ms,
        tenant=event.tenant,
        user_id=event.user_id,
        item_keys=pack_keys(event.item_keys),
        scores=pack_floats(event.scores),
        propensities=pack_floats(event.propensities),
        variant=event.variant,
        model_version=event.model_version,
        surface=event.surface,
    )
    return NewRecord(topics.RECOMMENDATIONS_SERVED, f"{event.tenant}/{event.user_id}", message.SerializeToString())
