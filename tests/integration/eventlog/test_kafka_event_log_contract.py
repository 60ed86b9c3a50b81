"""The promises of the event log, kept by a real Kafka."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
from contract.eventlog import test_event_log_contract as contract
from servers.addresses import Addresses

from servicekit.clock import Clock, ManualClock
from servicekit.eventlog.kafka.consumer import KafkaEventConsumer
from servicekit.eventlog.kafka.log import KafkaEventLog
from servicekit.eventlog.port import EventLog, Offsets, Start, TopicSpec
from servicekit.testing import eventually


class LogOfOneTest(KafkaEventLog):
    """A log on a cluster that many tests share: the groups are this test's own."""

    def __init__(self, server: str, name: str, clock: Clock) -> None:
        super().__init__([server], clock=clock)
        self._name = name

    def consumer(
        self, topics: Sequence[str], *, group: str | None, start: Start | Offsets = Start.COMMITTED, member: str = ""
    ) -> KafkaEventConsumer:
        own = None if group is None else f"{self._name}-{group}"
        return super().consumer(topics, group=own, start=start, member=member)

    async def committed_offsets(self, group: str, topics: Sequence[str]) -> Offsets:
        return await super().committed_offsets(f"{self._name}-{group}", topics)


@pytest.mark.integration
class TestKafkaEventLog(contract.EventLogContract):
    adapter = "kafka"
    COMPACTS_ALL = False

    @pytest.fixture
    def clock(self) -> ManualClock:
        """A broker takes no records from the future, so the test begins in the past."""
        return ManualClock(time.time_ns() // 1_000_000 - 200 * contract.DAY_MS)

    @pytest.fixture
    async def log(
        self, tmp_path: Path, clock: ManualClock, servers: Addresses, unique_name: str
    ) -> AsyncIterator[EventLog]:
        def own(name: str) -> TopicSpec:
            spec: TopicSpec = getattr(contract, name)
            return replace(spec, name=f"{unique_name}.{name.lower()}")

        names = {name: own(name) for name in ("PLAIN", "SINGLE", "COMPACTED")}
        names["EXPIRING"] = replace(own("EXPIRING"), retention_ms=None)  # `maintain` says when, by the test's clock
        self.server, self.name = servers.kafka, unique_name
        with ExitStack() as own_names:
            for name, spec in names.items():
                own_names.enter_context(patch.object(contract, name, spec))
            log = self.open_log(tmp_path, clock)
            await log.ensure_topics(list(names.values()))
            yield log
            await log.close()

    def open_log(self, folder: Path, clock: ManualClock) -> EventLog:  # noqa: ARG002 - lies on a server
        return LogOfOneTest(self.server, self.name, clock)

    async def maintain(self, log: EventLog, folder: Path, clock: ManualClock) -> None:  # noqa: ARG002 - see open_log
        """Let the broker expire at its own time what shall have expired by the test's."""
        topic = contract.EXPIRING.name
        oldest_ms = clock.now_ms() - 100 * contract.DAY_MS
        kept_ms = time.time_ns() // 1_000_000 - oldest_ms
        await log.ensure_topics([replace(contract.EXPIRING, retention_ms=kept_ms)])
        first = await log.offsets_for_time([topic], oldest_ms)

        async def expired() -> bool:
            return await log.begin_offsets([topic]) == first

        await eventually(expired, timeout_s=30)
