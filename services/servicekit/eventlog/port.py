"""What every event log promises, whichever store holds it.

A topic has partitions; a record's key decides its partition, so records of one key stay in order. An offset is a
record's place in its partition. Offsets grow, they may have gaps (retention, compaction), and a reader never passes
an offset that becomes visible later.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from servicekit.errors import FailedPreconditionError, StartupError

MAX_VALUE_BYTES = 1 << 20
"""The longest value of a record; Kafka's own default."""


class StaleOwnerError(FailedPreconditionError):
    """A commit named partitions that this consumer does not own, or no longer owns.

    What it still owns was committed. The partitions named here are read again by their new owner.
    """

    def __init__(self, partitions: Collection["TopicPartition"]) -> None:
        names = ", ".join(f"{p.topic}/{p.partition}" for p in sorted(partitions))
        super().__init__(f"this consumer does not own {names}; their records go to another member of the group")
        self.partitions = frozenset(partitions)


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A record to append; without a timestamp it gets the log's time."""

    topic: str
    key: str
    value: bytes
    headers: Mapping[str, bytes] = field(default_factory=dict)
    timestamp_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it stands in the log."""

    topic: str
    partition: int
    offset: int
    key: str
    value: bytes
    headers: Mapping[str, bytes]
    timestamp_ms: int


@dataclass(frozen=True, slots=True, order=True)
class TopicPartition:
    """Names one partition."""

    topic: str
    partition: int


Offsets = Mapping[TopicPartition, int]
"""For each partition the next offset to read."""


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """How a topic is kept.

    Args:
        name: 1 to 200 characters of a-z, 0-9, `.`, `_` and `-`.
        partitions: How many; fixed when the topic is made.
        retention_ms: Records older than this may go; None keeps them for ever.
        compacted: Of several records of one key only the last is kept for ever; the earlier ones may go.
    """

    name: str
    partitions: int = 4
    retention_ms: int | None = None
    compacted: bool = False


def wrong_partitions(spec: TopicSpec, partitions: int) -> StartupError:
    """Say that a topic has another number of partitions than it shall, and what to do about it.

    A topic of dead letters has one whatever the settings say.
    """
    remedy = "make the topic anew"
    if not spec.name.endswith(".dlq"):
        remedy = f"set EVENT_LOG_PARTITIONS={partitions}, which the topic has, or {remedy}"
    return StartupError(f"topic {spec.name} has {partitions} partitions, not {spec.partitions}; {remedy}")


class Start(Enum):
    """Where a consumer begins in a partition of which its group has committed nothing yet."""

    COMMITTED = "committed"  # the same as EARLIEST, and says that a committed offset is expected
    EARLIEST = "earliest"
    LATEST = "latest"


class EventProducer(Protocol):
    """Appends records."""

    async def append(self, records: Sequence[NewRecord]) -> Sequence[tuple[TopicPartition, int]]:
        """Append all of the records, or none, and return where each stands, in the order given.

        They are durable when this returns. When it raises, nothing of a topic's records is in the log, unless it
        raised UnavailableError over a network: then they may be there, and appending again is right, because every
        effect is idempotent. A cancelled call may have been carried out.

        Raises:
            NotFoundError: A topic does not exist.
            InvalidArgumentError: A value is longer than MAX_VALUE_BYTES.
            UnavailableError: The log cannot be written now; try again.
        """
        ...

    async def close(self) -> None:
        """Finish what was accepted; nothing may be appended afterwards."""
        ...


class EventConsumer(Protocol):
    """Reads topics, one task at a time; in a group each partition has one owner.

    A group's partitions move between its members only inside `poll`, so whoever commits what it has handled before
    it polls again loses nothing to a rebalance.
    """

    async def poll(self, *, max_records: int, timeout_s: float) -> Sequence[Record]:
        """Wait until there is something to read, at most `timeout_s`, and return it.

        Within a partition the records are in offset order. Paused partitions are left out.

        Raises:
            NotFoundError: A topic does not exist.
            UnavailableError: The log cannot be read now; try again.
            FailedPreconditionError: Another consumer has joined the group under this member's name.
        """
        ...

    async def commit(self, offsets: Offsets) -> None:
        """Remember for the group that everything before these offsets is done; without a group it does nothing.

        Raises:
            StaleOwnerError: Some of the partitions belong to somebody else now; the others were committed.
            UnavailableError: The log cannot be written now; try again.
        """
        ...

    async def seek(self, offsets: Offsets) -> None:
        """Go on reading at these offsets, forwards or backwards; partitions that are not owned are left out."""
        ...

    def position(self) -> Offsets:
        """Give the next offset to read of each owned partition; empty before the first poll."""
        ...

    async def lag(self) -> Mapping[TopicPartition, int]:
        """Give for each owned partition how far its end lies ahead of the position."""
        ...

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """Leave these out of polls until resumed; they stay owned."""
        ...

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        """Read these again."""
        ...

    async def close(self) -> None:
        """Leave the group, so that others take over at once; commits nothing.

        A log may keep the seat of a named member for a while, as if its process had died: it is expected back.
        """
        ...


class EventLog(Protocol):
    """A log of topics."""

    async def ensure_topics(self, specs: Sequence[TopicSpec]) -> None:
        """Make the topics that do not exist, and give those that do the retention and compaction asked for.

        Raises:
            StartupError: A topic exists with another number of partitions.
        """
        ...

    def producer(self) -> EventProducer:
        """Give a producer; several may append at once."""
        ...

    def consumer(
        self, topics: Sequence[str], *, group: str | None, start: Start | Offsets = Start.COMMITTED, member: str = ""
    ) -> EventConsumer:
        """Give a consumer; it joins its group at the first poll.

        Args:
            topics: What it reads.
            group: Whose offsets it shares; None reads all partitions and keeps its position to itself.
            start: Where it begins in a partition of which the group has committed nothing. Partitions that a mapping
                does not name are read from their beginning.
            member: A name that a process keeps over restarts, so that it takes its partitions up again at once
                instead of after the dead one's lease; unique within the group. Empty: a new name.
        """
        ...

    async def end_offsets(self, topics: Sequence[str]) -> Offsets:
        """Give for each partition the offset that the next record will get."""
        ...

    async def begin_offsets(self, topics: Sequence[str]) -> Offsets:
        """Give for each partition the first offset still there; the end offset when it is empty."""
        ...

    async def committed_offsets(self, group: str, topics: Sequence[str]) -> Offsets:
        """Give for each partition what a group has committed; the first offset still there where it has not."""
        ...

    async def offsets_for_time(self, topics: Sequence[str], timestamp_ms: int) -> Offsets:
        """Give for each partition the first offset whose timestamp is not earlier; the end offset when none is."""
        ...

    async def close(self) -> None:
        """Close the log and everything made from it."""
        ...
