"""The event log's way in: what changed in the catalogue is embedded, what users did is counted."""

from collections import Counter
from collections.abc import Sequence

from gpu_worker.application.embedding import Change, ContentEmbedder
from gpu_worker.application.schedule import TrainingSchedule
from gpu_worker.convert import change_from_message
from recommendation.events.v1 import events_pb2
from servicekit.errors import InvalidArgumentError
from servicekit.eventlog.decode import decode
from servicekit.eventlog.port import Record
from servicekit.eventlog.runner import RecordFailure

GROUP = "gpu_worker"


class ContentConsumer:
    """Applies records of `content.changed`."""

    def __init__(self, embedder: ContentEmbedder) -> None:
        self._embedder = embedder

    async def handle(self, records: Sequence[Record]) -> Sequence[RecordFailure]:
        """Apply the records; for ConsumerRunner, which says what becomes of failures and of what is raised."""
        failures: list[RecordFailure] = []
        changes: list[tuple[Record, Change]] = []
        for record in records:
            try:
                changes.append((record, change_from_message(decode(record, events_pb2.ContentChanged))))
            except InvalidArgumentError as error:
                failures.append(RecordFailure(record, error))
        outcomes = await self._embedder.apply([change for _, change in changes])
        failures += [
            RecordFailure(record, outcome)
            for (record, _), outcome in zip(changes, outcomes, strict=True)
            if outcome is not None
        ]
        return failures


class InteractionCounter:
    """Counts records of `user.interactions` for the schedule; bad ones are profile_store's to put aside."""

    def __init__(self, schedule: TrainingSchedule) -> None:
        self._schedule = schedule

    async def handle(self, records: Sequence[Record]) -> Sequence[RecordFailure]:
        """Count the records; for ConsumerRunner."""
        counts: Counter[str] = Counter()
        for record in records:
            try:
                counts[decode(record, events_pb2.InteractionRecorded).tenant] += 1
            except InvalidArgumentError:
                continue
        for tenant, count in counts.items():
            self._schedule.note(tenant, count)
        return ()
