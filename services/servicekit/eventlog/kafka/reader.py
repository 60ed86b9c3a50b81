"""Reads partitions of Kafka, alone or as a member of a group, by blocking calls of one thread."""

import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer
from kafka import errors as driver
from kafka import structs as wire
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import MemberState

from servicekit.errors import FailedPreconditionError
from servicekit.eventlog.kafka.client import connecting
from servicekit.eventlog.kafka.options import KafkaOptions
from servicekit.eventlog.port import Offsets, Record, Start, TopicPartition
from servicekit.logs import get_logger

_CONNECT_MS = 10_000
_REQUEST_MS = 8_000
_HELD_FETCH_MS = 250  # how long a broker holds a fetch that finds nothing; a partition resumed meanwhile waits for it
_FETCH_BYTES = 16 << 20
_PARTITION_FETCH_BYTES = 256 << 10  # so that none starves the others; a record that is longer comes alone
_HEARTBEAT_MS = 500  # how soon a member hears that others come or go
_SESSION_MS = 10_000
_NAMED_SESSION_MS = 20_000  # long enough for a process that crashed to come back before its partitions move
_LONGEST_ABSENCE_MS = 60_000  # between polls; bounds a rebalance, which waits for members that are busy
_CLOSE_MS = 3_000
_FENCE_CHECK_S = 3.0
_LONGEST_JOIN_S = 5.0
_JOIN_STEP_S = 1.0

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Membership:
    """How a reader belongs to a group.

    Args:
        group: The group's name.
        member: The name that the process keeps over restarts; empty when it keeps none.
    """

    group: str
    member: str


class Committed(Enum):
    """What became of a commit."""

    DONE = "done"
    REBALANCING = "rebalancing"  # the group is about to say who owns what
    LOST = "lost"  # the partitions are somebody else's


@dataclass(slots=True)
class Fetched:
    """What a fetch brought.

    Args:
        lost: Partitions that went to others before the records were fetched; they may have come back.
        gained: Where the partitions that came are read from.
        records: In offset order within a partition.
        positions: Of every partition owned, the next offset to fetch.
        settled: Whether the partitions are this reader's for the time being.
    """

    lost: set[TopicPartition] = field(default_factory=set)
    gained: dict[TopicPartition, int] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    positions: dict[TopicPartition, int] = field(default_factory=dict)
    settled: bool = True


class _Moves(ConsumerRebalanceListener):  # type: ignore[misc] # the driver ships no types
    """Notes what the driver's own thread says of partitions that come and go."""

    def __init__(self) -> None:
        self.noted: deque[tuple[bool, frozenset[TopicPartition]]] = deque()

    def on_partitions_revoked(self, revoked: Iterable[wire.TopicPartition]) -> None:
        self.noted.append((False, _ours(revoked)))

    def on_partitions_lost(self, lost: Iterable[wire.TopicPartition]) -> None:
        self.noted.append((False, _ours(lost)))

    def on_partitions_assigned(self, assigned: Iterable[wire.TopicPartition]) -> None:
        self.noted.append((True, _ours(assigned)))


class KafkaReader:
    """A driver's consumer; every method blocks and belongs to one thread.

    Args:
        servers: Where to ask for the brokers.
        options: How to connect.
        topics: What is read; they exist.
        membership: How it belongs to a group; None reads all partitions.
        start: Where it begins in a partition of which the group has committed nothing.
    """

    def __init__(
        self,
        servers: Sequence[str],
        options: KafkaOptions,
        topics: Sequence[str],
        membership: Membership | None,
        start: Start | Offsets,
    ) -> None:
        self._servers = list(servers)
        self._options = options
        self._topics = list(topics)
        self._membership = membership
        self._start = start
        self._moves = _Moves()
        self._consumer: KafkaConsumer | None = None
        self._lost: set[TopicPartition] = set()  # went, and it is not told yet
        self._placeless: set[TopicPartition] = set()  # came, and it is not known yet where they are read from
        self._positions: dict[TopicPartition, int] = {}
        self._fence_check_due = 0.0
        self._stopping = threading.Event()
        self.is_joining = False
        """Whether the last poll left the reader waiting for its group; for any thread."""
        self.left_behind = ""
        """After `close`: the member that has to be taken out of the group on another connection."""

    def stop(self) -> None:
        """Let a fetch that waits for a rebalance end; for any thread."""
        self._stopping.set()

    def open(self, places: Collection[TopicPartition]) -> None:
        """Connect; without a group take all these partitions, in a group join at the first fetch."""
        if self._consumer is not None:
            return
        with connecting(self._options) as settings:
            consumer = KafkaConsumer(**self._settings(), **settings)
            if self._membership is not None:
                consumer.subscribe(self._topics, listener=self._moves)
                _require_partitions(consumer, self._topics)
            else:
                consumer.assign([_theirs(where) for where in places])
                for where, offset in self._starts(consumer, places).items():
                    consumer.seek(_theirs(where), offset)
                self._moves.on_partitions_assigned(map(_theirs, places))
        self._consumer = consumer

    def fetch(self, *, max_records: int, timeout_s: float, paused: Collection[TopicPartition]) -> Fetched:
        """Wait for records of partitions that are not paused; follow the group.

        A rebalance that has begun is waited for, longer than `timeout_s` if need be: the driver begins another when
        one comes to its end while nobody waits for it.

        Raises:
            FailedPreconditionError: Another consumer has joined the group under this member's name.
        """
        consumer = self._opened()
        self._pause(consumer, paused)
        try:
            records = self._poll_until_settled(consumer, max_records, timeout_s)
            # What may be well next time must not fail this one: the driver would not give these records again.
            with suppress(driver.RetriableError):
                self._check_fence(consumer)
            fetched = self._follow(consumer)
        except driver.FencedInstanceIdError as error:
            name = self._membership.member if self._membership is not None else ""
            raise FailedPreconditionError(
                f"another consumer has joined as {name}; give each process a member name of its own"
            ) from error
        fetched.records = records
        for record in reversed(records):
            where = TopicPartition(record.topic, record.partition)
            if where in fetched.gained:
                fetched.gained[where] = record.offset
        return fetched

    def is_at_end(self, paused: Collection[TopicPartition]) -> bool:
        """Tell whether nothing more is there of the partitions that are not paused."""
        ends = self.end_offsets([where for where in self._positions if where not in paused])
        return all(self._positions[where] >= end for where, end in ends.items())

    def commit(self, offsets: Offsets) -> Committed:
        """Commit for the group."""
        try:
            self._commit(self._opened(), offsets)
        except driver.RebalanceInProgressError:
            return Committed.REBALANCING
        except driver.CommitFailedError as error:
            moving = isinstance(error.args[0], driver.RebalanceInProgressError)
            return Committed.REBALANCING if moving else Committed.LOST
        except driver.FencedInstanceIdError:
            return Committed.LOST
        return Committed.DONE

    def seek(self, offsets: Offsets) -> None:
        """Fetch on from these offsets; partitions that are not owned are left out."""
        consumer = self._opened()
        owned = _ours(consumer.assignment())
        for where, offset in offsets.items():
            if where in owned:
                consumer.seek(_theirs(where), offset)
                self._positions[where] = offset

    def end_offsets(self, places: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Give the ends of partitions: their last stable offsets, since nobody reads further."""
        if not places:
            return {}
        ends = self._opened().end_offsets([_theirs(where) for where in places], timeout_ms=_REQUEST_MS)
        return {TopicPartition(where.topic, where.partition): end for where, end in ends.items()}

    def close(self) -> None:
        """Leave the group and close the connections; a named member's seat is kept, as if it had died."""
        if self._consumer is None:
            return
        settled = self._settled(self._consumer)
        if self._membership is not None and not self._membership.member and not settled:
            # The broker hears no goodbye on a connection where it owes an answer: to join.
            self.left_behind = self._consumer.group_metadata().member_id
        self._consumer.close(autocommit=False, timeout_ms=_CLOSE_MS if settled else 0)
        self._consumer = None

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "bootstrap_servers": self._servers,
            "bootstrap_timeout_ms": _CONNECT_MS,
            "request_timeout_ms": _REQUEST_MS,
            "reconnect_backoff_max_ms": 1_000,
            "auto_offset_reset": "none",  # where to begin is decided here, where it can be committed
            "enable_auto_commit": False,
            "allow_auto_create_topics": False,
            "fetch_max_wait_ms": _HELD_FETCH_MS,
            "fetch_max_bytes": _FETCH_BYTES,
            "max_partition_fetch_bytes": _PARTITION_FETCH_BYTES,
            "isolation_level": "read_committed",  # what an external producer took back has not happened
            "client_rack": self._options.client_rack,
            "metrics_enabled": False,
        }
        if self._membership is not None:
            settings |= {
                "group_id": self._membership.group,
                "group_instance_id": self._membership.member or None,
                "partition_assignment_strategy": [CooperativeStickyAssignor],
                "session_timeout_ms": _NAMED_SESSION_MS if self._membership.member else _SESSION_MS,
                "heartbeat_interval_ms": _HEARTBEAT_MS,
                "max_poll_interval_ms": _LONGEST_ABSENCE_MS,
            }
        return settings

    def _opened(self) -> KafkaConsumer:
        if self._consumer is None:
            raise driver.IllegalStateError("the reader is not open")
        return self._consumer

    def _settled(self, consumer: KafkaConsumer) -> bool:
        return self._membership is None or consumer.group_metadata().state == MemberState.STABLE

    @staticmethod
    def _pause(consumer: KafkaConsumer, paused: Collection[TopicPartition]) -> None:
        wanted = {_theirs(where) for where in paused} & consumer.assignment()
        already = consumer.paused()
        consumer.pause(*(wanted - already))
        consumer.resume(*(already - wanted))

    def _poll_until_settled(self, consumer: KafkaConsumer, max_records: int, timeout_s: float) -> list[Record]:
        if self._settled(consumer):
            records = self._poll(consumer, max_records, timeout_s)
            if records or self._settled(consumer):
                return records
        give_up = time.monotonic() + _LONGEST_JOIN_S
        while not self._settled(consumer):
            self.is_joining = True
            if self._stopping.is_set() or time.monotonic() > give_up:
                return []
            # This waits for the group only; the consumer's own poll would go on to wait for records.
            coordinator = consumer._coordinator  # noqa: SLF001 - there is no other way to say it
            if coordinator.poll(timeout_ms=1_000 * _JOIN_STEP_S) and not self._settled(consumer):
                # It has joined while nobody waited, and forgot that it wanted to: it would neither say so nor beat.
                coordinator.request_rejoin()
        self.is_joining = False
        return self._poll(consumer, max_records, 0.0)

    def _poll(self, consumer: KafkaConsumer, max_records: int, timeout_s: float) -> list[Record]:
        try:
            batches = consumer.poll(timeout_ms=int(1_000 * timeout_s), max_records=max_records)
            return [_record(each) for batch in batches.values() for each in batch]
        except driver.NoOffsetForPartitionError:
            self._begin(consumer)
        except driver.OffsetOutOfRangeError as error:
            self._rewind(consumer, dict.fromkeys(error.args[0]))
        except driver.LogTruncationError as error:
            self._rewind(consumer, error.divergent_offsets)
        return []

    def _follow(self, consumer: KafkaConsumer) -> Fetched:
        """Tell what came and went, and where everything stands."""
        while self._moves.noted:
            came, places = self._moves.noted.popleft()
            if came:
                self._placeless |= places
            else:
                self._lost |= places
                self._placeless -= places
                for where in places:
                    self._positions.pop(where, None)
        gained = {}
        for where in _ours(consumer.assignment()):
            position = self._position(consumer, where)
            if position is None:
                continue  # the next fetch knows
            self._positions[where] = position
            if where in self._placeless:
                gained[where] = position
        self._placeless -= gained.keys()
        lost, self._lost = self._lost, set()
        return Fetched(lost, gained, positions=dict(self._positions), settled=self._settled(consumer))

    def _position(self, consumer: KafkaConsumer, where: TopicPartition) -> int | None:
        with suppress(driver.RetriableError):
            try:
                position = consumer.position(_theirs(where), timeout_ms=_REQUEST_MS)
            except driver.NoOffsetForPartitionError:
                if not self._begin(consumer):
                    return None
                position = consumer.position(_theirs(where), timeout_ms=_REQUEST_MS)
            return None if position is None else int(position)
        return None

    def _begin(self, consumer: KafkaConsumer) -> bool:
        """Find where to begin where nothing is committed, and commit that: the next owner goes on there.

        False when the group is sharing its partitions out anew; whoever gets them begins.
        """
        unknown = [
            where
            for where in _ours(consumer.assignment())
            if where not in self._positions and consumer.committed(_theirs(where), timeout_ms=_REQUEST_MS) is None
        ]
        starts = self._starts(consumer, unknown)
        try:
            if starts:
                self._commit(consumer, starts)
        except (driver.CommitFailedError, driver.RebalanceInProgressError):
            return False
        for where, offset in starts.items():
            consumer.seek(_theirs(where), offset)
        return True

    def _starts(self, consumer: KafkaConsumer, places: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """Give where to begin in partitions of which the group has committed nothing."""
        if not places:
            return {}
        theirs = [_theirs(where) for where in places]
        ends = consumer.end_offsets(theirs, timeout_ms=_REQUEST_MS)
        if self._start is Start.LATEST:
            return {where: ends[_theirs(where)] for where in places}
        begins = consumer.beginning_offsets(theirs, timeout_ms=_REQUEST_MS)
        starts = {where: begins[_theirs(where)] for where in places}
        asked: Offsets = {} if isinstance(self._start, Start) else self._start
        for where in places:
            offset = asked.get(where, starts[where])
            if offset <= ends[_theirs(where)]:
                starts[where] = max(offset, starts[where])
            else:
                _log.warning("offset lies behind the end, reading from the beginning", at=where, offset=offset)
        return starts

    def _rewind(self, consumer: KafkaConsumer, places: Mapping[wire.TopicPartition, Any]) -> None:
        """Read on where the log still is the one that was read, else from its beginning."""
        owned = [where for where in places if where in consumer.assignment()]
        begins = consumer.beginning_offsets(owned, timeout_ms=_REQUEST_MS) if owned else {}
        for where in owned:
            known = places[where]
            offset = begins[where] if known is None else known.offset
            _log.warning("offset is out of range, reading on elsewhere", at=tuple(where), offset=offset)
            consumer.seek(where, offset)

    def _check_fence(self, consumer: KafkaConsumer) -> None:
        """See now and then that nobody else has this member's name; the driver alone would read on for ever.

        A broker tells it to whoever commits, so what is committed is committed again.
        """
        if self._membership is None or not self._membership.member or not self._settled(consumer):
            return
        if time.monotonic() < self._fence_check_due:
            return
        self._fence_check_due = time.monotonic() + _FENCE_CHECK_S
        for where in sorted(self._positions)[:1]:
            committed = consumer.committed(_theirs(where), timeout_ms=_REQUEST_MS)
            if committed is not None:
                with suppress(driver.CommitFailedError, driver.RebalanceInProgressError):  # the next poll joins again
                    self._commit(consumer, {where: committed})

    def _commit(self, consumer: KafkaConsumer, offsets: Offsets) -> None:
        consumer.commit(
            {_theirs(where): wire.OffsetAndMetadata(offset, "", -1) for where, offset in offsets.items()},
            timeout_ms=_REQUEST_MS,
        )


def _require_partitions(consumer: KafkaConsumer, topics: Sequence[str]) -> None:
    """See that the driver knows the partitions; a leader that joins a group before shares out none."""
    unknown = [topic for topic in topics if not consumer.partitions_for_topic(topic)]
    if unknown:
        raise driver.LeaderNotAvailableError(", ".join(unknown))


def _record(wired: Any) -> Record:
    """Give a record as strangers may have written it: without a key, a value or a text where we write one."""
    return Record(
        wired.topic,
        wired.partition,
        wired.offset,
        (wired.key or b"").decode(errors="replace"),
        wired.value or b"",
        {name: value or b"" for name, value in wired.headers or ()},
        wired.timestamp,
    )


def _ours(places: Iterable[wire.TopicPartition]) -> frozenset[TopicPartition]:
    return frozenset(TopicPartition(where.topic, where.partition) for where in places)


def _theirs(where: TopicPartition) -> wire.TopicPartition:
    return wire.TopicPartition(where.topic, where.partition)
