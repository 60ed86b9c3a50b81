"""The event log's way in: records to domain, the same use cases as the RPCs.

What a caller has already written through is applied again here and changes nothing. A record that can never be
applied is given back as a failure; what may succeed later is raised, and the runner tries again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from profile_store.application.profiles import ProfileService
from profile_store.convert.profiles import item_from_message, ref_from_message
from profile_store.domain.checks import check_id
from profile_store.domain.interactions import MAX_EVENT_ID, Interaction, check_user
from profile_store.domain.items import Item, ItemRef, check_item_ref
from recommendation.events.v1 import events_pb2
from servicekit.errors import InvalidArgumentError
from servicekit.eventlog.decode import decode
from servicekit.eventlog.port import Record
from servicekit.eventlog.runner import RecordFailure
from servicekit.eventlog.topics import CONTENT_CHANGED, USER_ERASED, USER_INTERACTIONS

TOPICS = (CONTENT_CHANGED, USER_INTERACTIONS, USER_ERASED)
GROUP = "profile_store"


@dataclass(frozen=True, slots=True)
class _Deletion:
    ref: ItemRef
    occurred_at_ms: int


@dataclass(frozen=True, slots=True)
class _Erasure:
    tenant: str
    user_id: str
    occurred_at_ms: int


_Change = Item | _Deletion | Interaction | _Erasure


class ProfileStoreConsumer:
    """Applies records of TOPICS in the order in which they come, each run of one kind in one batch."""

    def __init__(self, service: ProfileService) -> None:
        self._service = service

    async def handle(self, records: Sequence[Record]) -> Sequence[RecordFailure]:
        """Apply the records; for ConsumerRunner, which says what becomes of failures and of what is raised."""
        failures: list[RecordFailure] = []
        changes: list[tuple[Record, _Change]] = []
        for record in records:
            try:
                changes.append((record, _read(record)))
            except InvalidArgumentError as error:
                failures.append(RecordFailure(record, error))
        for _, run in groupby(changes, key=lambda pair: type(pair[1])):
            batch = list(run)
            outcomes = await self._apply([change for _, change in batch])
            failures.extend(
                RecordFailure(record, outcome)
                for (record, _), outcome in zip(batch, outcomes, strict=True)
                if isinstance(outcome, InvalidArgumentError)
            )
        return failures

    async def _apply(self, changes: Sequence[_Change]) -> Sequence[object]:
        """Apply changes of one kind, and give for each its outcome or its InvalidArgumentError."""
        if isinstance(changes[0], Item):
            return await self._service.put_items([item for item in changes if isinstance(item, Item)])
        if isinstance(changes[0], Interaction):
            return await self._service.append([did for did in changes if isinstance(did, Interaction)])
        return [await self._remove(change) for change in changes]

    async def _remove(self, change: _Change) -> InvalidArgumentError | None:
        try:
            match change:
                case _Deletion(ref, occurred_at_ms):
                    await self._service.delete_items([ref], occurred_at_ms=occurred_at_ms)
                case _Erasure(tenant, user_id, occurred_at_ms):
                    await self._service.erase_user(tenant, user_id, until_ms=occurred_at_ms)
        except InvalidArgumentError as error:
            return error
        return None


def _read(record: Record) -> _Change:
    """Read the change that a record tells; what is checked here fails alone, before its batch reaches the store.

    Raises:
        InvalidArgumentError: It cannot be read, or does not say what it is about.
    """
    if record.topic == CONTENT_CHANGED:
        return _content(decode(record, events_pb2.ContentChanged))
    if record.topic == USER_INTERACTIONS:
        return _interaction(decode(record, events_pb2.InteractionRecorded))
    event = decode(record, events_pb2.UserErased)
    check_user(event.tenant, event.user_id)
    return _Erasure(event.tenant, event.user_id, event.occurred_at_ms)


def _content(event: events_pb2.ContentChanged) -> Item | _Deletion:
    match event.WhichOneof("change"):
        case "put":
            item = item_from_message(event.put)
            check_item_ref(item.ref)
            # The state's time is the event's; a producer may leave it out of the state.
            return item if item.updated_at_ms else replace(item, updated_at_ms=event.occurred_at_ms)
        case "deleted":
            ref = ref_from_message(event.deleted)
            check_item_ref(ref)
            return _Deletion(ref, event.occurred_at_ms)
        case _:
            raise InvalidArgumentError("the event has neither put nor deleted", field="change")


def _interaction(event: events_pb2.InteractionRecorded) -> Interaction:
    check_id(event.event_id, "event_id", MAX_EVENT_ID)
    check_user(event.tenant, event.user_id)
    check_item_ref(ItemRef(event.tenant, event.item_type, event.item_id))
    return Interaction(
        event.event_id,
        event.tenant,
        event.user_id,
        event.item_type,
        event.item_id,
        event.interaction_type,
        event.value if event.HasField("value") else None,
        event.occurred_at_ms,
    )
