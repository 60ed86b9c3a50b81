"""A log with a prefix keeps all of a log's promises, and two of them on one log know nothing of each other."""

from pathlib import Path

from contract.eventlog.test_event_log_contract import PLAIN, EventLogContract, read, records_of

from servicekit.clock import ManualClock
from servicekit.eventlog.memory import MemoryEventLog
from servicekit.eventlog.port import EventLog, TopicPartition
from servicekit.eventlog.prefixed import PrefixedEventLog


class TestPrefixedEventLog(EventLogContract):
    adapter = "prefixed"

    def open_log(self, folder: Path, clock: ManualClock) -> EventLog:  # noqa: ARG002 - needs no folder
        self.beneath = MemoryEventLog(clock=clock)
        return PrefixedEventLog(self.beneath, "ours.")

    async def maintain(self, log: EventLog, folder: Path, clock: ManualClock) -> None:  # noqa: ARG002 - needs neither
        self.beneath.maintain()


async def test_two_prefixes_share_nothing() -> None:
    beneath = MemoryEventLog(clock=ManualClock())
    ours, theirs = PrefixedEventLog(beneath, "ours."), PrefixedEventLog(beneath, "theirs.")
    for log, value in ((ours, "a:1"), (theirs, "b:1")):
        await log.ensure_topics([PLAIN])
        await log.producer().append(records_of(PLAIN, value))
        consumer = log.consumer([PLAIN.name], group="group", member="same")
        (record,) = await read(consumer, 1)
        assert (record.topic, record.value.decode()) == (PLAIN.name, value)
        await consumer.commit({TopicPartition(PLAIN.name, record.partition): record.offset + 1})
    assert sum((await ours.committed_offsets("group", [PLAIN.name])).values()) == 1
    assert set(await beneath.end_offsets([f"ours.{PLAIN.name}"])) == {
        TopicPartition(f"ours.{PLAIN.name}", partition) for partition in range(PLAIN.partitions)
    }
    await beneath.close()
