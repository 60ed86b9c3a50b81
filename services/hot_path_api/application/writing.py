"""Writes: the event log first, then through to the store, so that the caller reads what was written."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from hot_path_api.application.catalogue import Catalogue
from hot_path_api.application.interaction_types import KnownInteractionTypes, check
from hot_path_api.domain.events import Interaction, ItemDeleted, ItemPut
from hot_path_api.domain.ports import EventSink, Interactions, Items
from servicekit import metrics
from servicekit.clock import Clock
from servicekit.errors import AlreadyExistsError, NotFoundError, ServiceError
from servicekit.logs import get_logger


class Outcome(Enum):
    """What became of a write that was not refused."""

    CREATED = "created"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"  # the event, or a newer one, was there before
    ACCEPTED = "accepted"  # it is in the log and will be applied; the store did not answer just now


@dataclass(frozen=True, slots=True)
class WriteTimeouts:
    """How long the store may take to take a write in, in seconds."""

    single_s: float = 1.0
    bulk_s: float = 15.0


class ItemWriter:
    """Writes items, and tells the catalogue at once."""

    def __init__(
        self, *, items: Items, catalogue: Catalogue, sink: EventSink, clock: Clock, timeouts: WriteTimeouts
    ) -> None:
        self._items = items
        self._catalogue = catalogue
        self._sink = sink
        self._clock = clock
        self._timeouts = timeouts
        self._log = get_logger(__name__)

    async def create(self, event: ItemPut) -> Outcome:
        """Write an item that must not exist yet.

        Raises:
            AlreadyExistsError: It does.
            ServiceError: The log cannot be written; nothing happened.
        """
        try:
            await self._catalogue.one(event.item.key, timeout_s=self._timeouts.single_s)
        except ServiceError:
            # Not there; or nobody can tell, and then it is accepted, and the last writer wins.
            return await self.put(event)
        raise AlreadyExistsError("the item exists already; PUT replaces it", field="item_id")

    async def put(self, event: ItemPut) -> Outcome:
        """Write an item, whether it exists or not.

        Raises:
            ServiceError: The log cannot be written; nothing happened. Or the store refuses the item.
        """
        await self._sink.append(event)
        (outcome,) = await self._write_through([event], timeout_s=self._timeouts.single_s)
        if isinstance(outcome, ServiceError):
            raise outcome
        return outcome

    async def put_many(self, events: Sequence[ItemPut]) -> Sequence[Outcome | ServiceError]:
        """Write items; one answer for each.

        Raises:
            ServiceError: The log cannot be written; nothing happened.
        """
        await self._sink.append_many(events)
        return await self._write_through(events, timeout_s=self._timeouts.bulk_s)

    async def delete(self, event: ItemDeleted, key: int) -> Outcome:
        """Delete an item.

        Raises:
            NotFoundError: It does not exist.
            ServiceError: The log cannot be written; nothing happened.
        """
        await self._sink.append(event)
        self._catalogue.delete(key, event.occurred_at_ms)
        try:
            (was_there,) = await self._items.delete_items(
                event.tenant, [event.item], occurred_at_ms=event.occurred_at_ms, timeout_s=self._timeouts.single_s
            )
        except ServiceError as error:
            _write_through_failed("items", 1, error)
            return Outcome.ACCEPTED
        if not was_there:
            raise NotFoundError("there is no such item", field="item_id")
        return Outcome.REPLACED

    async def _write_through(self, events: Sequence[ItemPut], *, timeout_s: float) -> list[Outcome | ServiceError]:
        try:
            written = await self._items.put_items([event.item for event in events], timeout_s=timeout_s)
        except ServiceError as error:
            _write_through_failed("items", len(events), error)
            for event in events:
                self._catalogue.put(event.item)
            return [Outcome.ACCEPTED] * len(events)
        outcomes: list[Outcome | ServiceError] = []
        for event, result in zip(events, written, strict=True):
            if isinstance(result, ServiceError):
                outcomes.append(result)
                continue
            self._catalogue.put(event.item)
            if not result.applied:
                outcomes.append(Outcome.UNCHANGED)
            else:
                outcomes.append(Outcome.CREATED if result.created else Outcome.REPLACED)
        return outcomes


class InteractionWriter:
    """Writes interactions of types that exist."""

    def __init__(
        self,
        *,
        interactions: Interactions,
        types: KnownInteractionTypes,
        sink: EventSink,
        timeouts: WriteTimeouts,
    ) -> None:
        self._interactions = interactions
        self._types = types
        self._sink = sink
        self._timeouts = timeouts

    async def append(self, interaction: Interaction) -> Outcome:
        """Write one interaction.

        Raises:
            InvalidArgumentError: There is no such interaction type, or it needs a value.
            ServiceError: The log cannot be written; nothing happened.
        """
        name = interaction.interaction_type
        types = await self._types.with_names(interaction.tenant, frozenset((name,)))
        check(types, name, interaction.value)
        await self._sink.append(interaction)
        try:
            is_new = await self._interactions.append_interaction(interaction, timeout_s=self._timeouts.single_s)
        except ServiceError as error:
            _write_through_failed("interactions", 1, error)
            return Outcome.ACCEPTED
        return Outcome.CREATED if is_new else Outcome.UNCHANGED

    async def append_many(self, tenant: str, interactions: Sequence[Interaction]) -> list[Outcome | ServiceError]:
        """Write interactions of one tenant; one answer for each, and a refused one keeps no other back.

        Raises:
            ServiceError: The log cannot be written, or the types cannot be read; nothing happened.
        """
        types = await self._types.with_names(tenant, frozenset(each.interaction_type for each in interactions))
        outcomes: list[Outcome | ServiceError] = []
        good: list[Interaction] = []
        for each in interactions:
            try:
                check(types, each.interaction_type, each.value)
            except ServiceError as error:
                outcomes.append(error)
            else:
                outcomes.append(Outcome.ACCEPTED)
                good.append(each)
        if not good:
            return outcomes
        await self._sink.append_many(good)
        try:
            stored = await self._interactions.append_interactions(good, timeout_s=self._timeouts.bulk_s)
        except ServiceError as error:
            _write_through_failed("interactions", len(good), error)
            return outcomes
        results = iter(stored)
        return [outcome if isinstance(outcome, ServiceError) else _outcome(next(results)) for outcome in outcomes]


def _outcome(stored: bool | ServiceError) -> Outcome | ServiceError:
    if isinstance(stored, ServiceError):
        return stored
    return Outcome.CREATED if stored else Outcome.UNCHANGED


def _write_through_failed(what: str, count: int, error: ServiceError) -> None:
    """The consumer applies it later, so nothing is lost; it is counted all the same."""
    metrics.DEGRADED.labels(f"write_{what}", error.code).inc(count)
    get_logger(__name__).warning("write-through failed", what=what, count=count, error=error.message)
