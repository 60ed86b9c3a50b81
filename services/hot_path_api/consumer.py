"""Hears from the event log what other replicas and producers changed: items, and the model that serves."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from hot_path_api.adapters.convert import item_from_proto
from hot_path_api.application.catalogue import Catalogue
from hot_path_api.application.catalogue_epoch import CatalogueEpoch
from hot_path_api.application.models import ServingModels
from recommendation.events.v1 import events_pb2
from servicekit.errors import ServiceError
from servicekit.eventlog import topics
from servicekit.eventlog.decode import decode
from servicekit.eventlog.port import EventConsumer, Record
from servicekit.identity import item_key
from servicekit.logs import get_logger

TOPICS = (topics.CONTENT_CHANGED, topics.MODEL_PUBLISHED)
_BATCH = 1_000
_POLL_S = 0.25
_LONGEST_PAUSE_S = 5.0


class ChangeListener:
    """Keeps the catalogue right. Every replica reads everything from now on, in no group; nothing is put aside here.

    A record that cannot be decoded is skipped: profile_store, which owns the data, puts it aside for people.
    """

    def __init__(
        self, consumer: EventConsumer, *, catalogue: Catalogue, models: ServingModels, epoch: CatalogueEpoch
    ) -> None:
        self._consumer = consumer
        self._catalogue = catalogue
        self._models = models
        self._epoch = epoch
        self._log = get_logger(__name__)

    async def run(self, stop: asyncio.Event) -> None:
        """Listen until stopped; while the log cannot be read, try again and again."""
        pause_s = 0.0
        while not stop.is_set():
            try:
                self.apply(await self._consumer.poll(max_records=_BATCH, timeout_s=_POLL_S))
                pause_s = 0.0
            except ServiceError as error:
                pause_s = min(2 * pause_s + 0.1, _LONGEST_PAUSE_S)
                self._log.warning("the event log cannot be read", error=error.message, again_in_s=pause_s)
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), pause_s)

    def apply(self, records: Sequence[Record]) -> None:
        """Take note of what these records tell."""
        for record in records:
            try:
                if record.topic == topics.CONTENT_CHANGED:
                    self._epoch.heard(record.partition, record.offset)
                    self._apply_change(decode(record, events_pb2.ContentChanged))
                else:
                    published = decode(record, events_pb2.ModelPublished)
                    self._models.heard_of(published.tenant, published.version)
            except ServiceError as error:
                self._log.warning("record skipped", topic=record.topic, offset=record.offset, error=error.message)

    def _apply_change(self, change: events_pb2.ContentChanged) -> None:
        named = change.put if change.HasField("put") else change.deleted
        key = item_key(named.tenant, named.item_type, named.item_id)
        if self._catalogue.has_heard(key, change.occurred_at_ms):
            return  # most of them: what this replica wrote comes back to it
        if change.HasField("put"):
            self._catalogue.put(replace(item_from_proto(change.put), updated_at_ms=change.occurred_at_ms))
        elif change.HasField("deleted"):
            self._catalogue.delete(key, change.occurred_at_ms)
