"""Tells how old records were when they were applied."""

import time
from collections.abc import Sequence

from servicekit import metrics
from servicekit.eventlog.port import Record


class RecordAges:
    """Keeps the metric of one consumer's topics; called after each poll, with what has been applied since."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def tell(self, records: Sequence[Record]) -> None:
        """Tell how old what was just applied is, and that nothing waits of which there was nothing to read."""
        newest: dict[str, int] = {}
        for record in records:
            newest[record.topic] = max(newest.get(record.topic, 0), record.timestamp_ms)
        for topic in self._told - newest.keys():
            metrics.REPLICATION_LAG.labels(topic).set(0.0)
        for topic, timestamp_ms in newest.items():
            metrics.REPLICATION_LAG.labels(topic).set(max(0.0, time.time() - timestamp_ms / 1000))
        self._told |= newest.keys()
