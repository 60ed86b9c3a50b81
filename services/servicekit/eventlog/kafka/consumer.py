"""A consumer of Kafka as asyncio sees it: what was fetched, what was given away, what is owned."""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

from servicekit.errors import FailedPreconditionError, ServiceError, UnavailableError
from servicekit.eventlog.kafka.reader import Committed, Fetched, KafkaReader
from servicekit.eventlog.kafka.thread import CALL_S, DriverThread
from servicekit.eventlog.kafka.topics import KafkaTopics
from servicekit.eventlog.port import Offsets, Record, StaleOwnerError, TopicPartition

_FETCH_RECORDS = 2_000
_LONGEST_FETCH_S = 0.5
_GLANCE_S = 0.1
_FETCH_SLACK_S = 0.02  # what a fetch takes beside waiting
_LONGEST_SILENCE_S = 20.0  # longer than the driver waits for an answer and for a rebalance


class KafkaEventConsumer:
    """See EventConsumer. Fetches ahead a little, on a thread of its own.

    Args:
        reader: What it reads by; belongs to the consumer's thread.
        read: The topics read.
        group: The group that the reader joins.
        topics: Tells what topics and members there are; asked on the thread `asking`.
        asking: The thread that `topics` belongs to.
        on_close: Told once, when the consumer is closed.
    """

    def __init__(
        self,
        reader: KafkaReader,
        read: Sequence[str],
        group: str | None,
        topics: KafkaTopics,
        asking: DriverThread,
        on_close: Callable[["KafkaEventConsumer"], None],
    ) -> None:
        self._reader = reader
        self._read = tuple(dict.fromkeys(read))
        self._group = group
        self._topics = topics
        self._asking = asking
        self._on_close = on_close
        self._thread = DriverThread(f"kafka-consumer-{group or 'all'}")
        self._fetching: asyncio.Future[Fetched] | None = None
        self._fetching_since = 0.0
        self._fetched: dict[TopicPartition, deque[Record]] = {}  # not given away yet
        self._positions: dict[TopicPartition, int] = {}
        self._floors: dict[TopicPartition, int] = {}  # a commit below belongs to an earlier ownership
        self._paused: set[TopicPartition] = set()
        self._turn = 0
        self._opened = False
        self._settled = False
        self._refused: FailedPreconditionError | None = None

    async def poll(self, *, max_records: int, timeout_s: float) -> Sequence[Record]:
        """See EventConsumer."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        await self._open()
        if not timeout_s:
            await self._look(max_records)
        while True:
            if records := self._take(max_records):
                return records
            left_s = deadline - loop.time()
            if left_s <= 0:
                return ()
            await self._fetch(min(left_s, _LONGEST_FETCH_S), max_records)

    async def commit(self, offsets: Offsets) -> None:
        """See EventConsumer."""
        if self._group is None:
            return
        give_up = asyncio.get_running_loop().time() + CALL_S
        while current := self._current(offsets):
            outcome = await self._thread.run(lambda current=current: self._reader.commit(current))  # type: ignore[misc]
            if outcome is Committed.DONE:
                break
            if outcome is Committed.LOST:
                for where in current:
                    self._forget(where)
            elif asyncio.get_running_loop().time() > give_up:
                raise UnavailableError(f"group {self._group} has been sharing its partitions out for {CALL_S:.0f} s")
            else:
                await self._fetch(_GLANCE_S, _FETCH_RECORDS)  # joins again
        if stale := offsets.keys() - current.keys():
            raise StaleOwnerError(stale)

    async def seek(self, offsets: Offsets) -> None:
        """See EventConsumer."""
        await self._settle()
        await self._thread.run(lambda: self._reader.seek(offsets))
        for where, offset in offsets.items():
            if where in self._positions:
                self._fetched.pop(where, None)
                self._positions[where] = offset
                self._floors[where] = min(self._floors[where], offset)

    def position(self) -> Offsets:
        """See EventConsumer."""
        return dict(self._positions)

    async def lag(self) -> Mapping[TopicPartition, int]:
        """See EventConsumer."""
        await self._settle()
        positions = dict(self._positions)
        ends = await self._thread.run(lambda: self._reader.end_offsets(positions))
        return {where: max(0, ends[where] - position) for where, position in positions.items()}

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """See EventConsumer."""
        self._paused.update(partitions)

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        """See EventConsumer."""
        self._paused.difference_update(partitions)

    async def close(self) -> None:
        """See EventConsumer. A named member's seat is kept for a while, as if it had died."""
        self._positions.clear()
        self._fetched.clear()
        self._on_close(self)
        self._reader.stop()
        await self._thread.close(self._reader.close)
        member = self._reader.left_behind
        if self._group is not None and member:
            group = self._group
            with suppress(ServiceError):  # then the group waits until the member's session ends
                await self._asking.run(lambda: self._topics.remove_member(group, member))

    async def _open(self) -> None:
        if self._refused is not None:
            raise self._refused
        if not self._opened:
            places = await self._asking.run(lambda: self._topics.places(self._read))
            await self._thread.run(lambda: self._reader.open(places), within_s=2 * CALL_S)
            self._opened = True

    async def _settle(self) -> None:
        await self._open()
        if not self._settled:
            await self._look(_FETCH_RECORDS)

    async def _look(self, max_records: int) -> None:
        """Fetch until there is something to take, or it is certain that nothing is there.

        Waits for the group while that concerns nobody else; others may take as long as they like.
        """
        give_up = asyncio.get_running_loop().time() + CALL_S
        while not self._has_some():
            fetched = await self._fetch(_GLANCE_S, max_records)
            paused = frozenset(self._paused)
            if self._has_some():
                return
            if fetched is not None and fetched.settled and fetched.positions.keys() == self._positions.keys():
                if await self._thread.run(lambda paused=paused: self._reader.is_at_end(paused)):  # type: ignore[misc]
                    return
            elif self._reader.is_joining and await self._members() > 1:
                return
            if asyncio.get_running_loop().time() > give_up:
                raise UnavailableError(f"Kafka did not share {', '.join(self._read)} out within {CALL_S:.0f} s")

    async def _members(self) -> int:
        group = self._group or ""
        return await self._asking.run(lambda: self._topics.members(group))

    async def _fetch(self, timeout_s: float, max_records: int) -> Fetched | None:
        """Wait for the fetch under way, else for a new one; None when it goes on. It is received in any case."""
        loop = asyncio.get_running_loop()
        if self._fetching is None or self._fetching.done():
            paused = frozenset(self._paused)
            count = max(max_records, _FETCH_RECORDS)
            self._fetching = self._thread.submit(
                lambda: self._reader.fetch(max_records=count, timeout_s=timeout_s, paused=paused)
            )
            self._fetching.add_done_callback(self._receive)
            self._fetching_since = loop.time()
        await asyncio.wait({self._fetching}, timeout=timeout_s + _FETCH_SLACK_S)
        if self._fetching.done():
            return self._fetching.result()
        if loop.time() > self._fetching_since + _LONGEST_SILENCE_S:
            raise UnavailableError("Kafka does not answer")
        return None

    def _receive(self, fetching: asyncio.Future[Fetched]) -> None:
        error = fetching.exception()
        if isinstance(error, FailedPreconditionError):
            self._refused = error
        if error is not None:
            return
        fetched = fetching.result()
        for where in fetched.lost:
            self._forget(where)
        for where, offset in fetched.gained.items():
            self._positions[where] = self._floors[where] = offset
        for record in fetched.records:
            where = TopicPartition(record.topic, record.partition)
            if where in self._positions:
                self._fetched.setdefault(where, deque()).append(record)
        for where, offset in fetched.positions.items():
            if where in self._positions and not self._fetched.get(where):
                self._positions[where] = offset
                self._floors[where] = min(self._floors[where], offset)  # the log was cut, or is another
        self._settled |= fetched.settled

    def _forget(self, where: TopicPartition) -> None:
        self._positions.pop(where, None)
        self._fetched.pop(where, None)

    def _current(self, offsets: Offsets) -> dict[TopicPartition, int]:
        return {w: o for w, o in offsets.items() if w in self._positions and o >= self._floors[w]}

    def _has_some(self) -> bool:
        return any(records and where not in self._paused for where, records in self._fetched.items())

    def _take(self, max_records: int) -> list[Record]:
        """Give of what was fetched, beginning with another partition each time, so that none starves the others."""
        order = sorted(where for where, records in self._fetched.items() if records and where not in self._paused)
        self._turn += 1
        taken: list[Record] = []
        for step in range(len(order)):
            where = order[(self._turn + step) % len(order)]
            records = self._fetched[where]
            while records and len(taken) < max_records:
                taken.append(records.popleft())
                self._positions[where] = taken[-1].offset + 1
        return taken
