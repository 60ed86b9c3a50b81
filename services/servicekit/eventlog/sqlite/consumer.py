"""Reads partitions of the SQLite log, alone or as a member of a group."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from secrets import token_hex

from servicekit.clock import Clock
from servicekit.errors import FailedPreconditionError
from servicekit.eventlog.port import Offsets, Record, StaleOwnerError, Start, TopicPartition
from servicekit.eventlog.sqlite.group_file import Member, Share
from servicekit.eventlog.sqlite.membership import Membership
from servicekit.eventlog.sqlite.reader import LogReader
from servicekit.logs import get_logger

_log = get_logger(__name__)


class SqliteConsumer:
    """See EventConsumer."""

    def __init__(
        self,
        reader: LogReader,
        topics: Sequence[str],
        *,
        group: str | None,
        start: Start | Offsets,
        member: str,
        clock: Clock,
        session_ms: int,
    ) -> None:
        self._reader = reader
        self._topics = tuple(dict.fromkeys(topics))
        self._start = start
        self._changed = asyncio.Event()
        self._membership: Membership | None = None
        if group is not None:
            who = Member(group, member or token_hex(8), instance=token_hex(8), topics=self._topics)
            self._membership = Membership(reader, who, clock=clock, session_ms=session_ms, on_share=self._hear_share)
        self._positions: dict[TopicPartition, int] = {}
        self._floors: dict[TopicPartition, int] = {}  # a commit below belongs to an earlier ownership
        self._paused: set[TopicPartition] = set()
        self._turn = 0
        self._started = False
        self._share: Share | None = None  # what the group last said, until it is followed
        self._refused: FailedPreconditionError | None = None

    async def poll(self, *, max_records: int, timeout_s: float) -> Sequence[Record]:
        """See EventConsumer."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        await self._ensure_started()
        while True:
            await self._follow_group()
            self._changed.clear()
            if records := await self._fetch(max_records):
                return records
            try:
                async with asyncio.timeout_at(deadline):
                    await self._changed.wait()
            except TimeoutError:
                return ()

    async def commit(self, offsets: Offsets) -> None:
        """See EventConsumer."""
        if self._membership is None:
            return
        current = {w: o for w, o in offsets.items() if w in self._positions and o >= self._floors[w]}
        stale = offsets.keys() - current.keys()
        if current:
            lost = await self._membership.commit(current)
            for where in lost:
                self._positions.pop(where, None)
            stale |= lost
        if stale:
            raise StaleOwnerError(stale)

    async def seek(self, offsets: Offsets) -> None:
        """See EventConsumer."""
        await self._ensure_started()
        for where, offset in offsets.items():
            if where in self._positions:
                self._positions[where] = offset
                self._floors[where] = min(self._floors[where], offset)
        self._changed.set()

    def position(self) -> Offsets:
        """See EventConsumer."""
        return dict(self._positions)

    async def lag(self) -> Mapping[TopicPartition, int]:
        """See EventConsumer."""
        await self._ensure_started()
        ends = await self._reader.run(self._end_offsets)
        return {where: max(0, ends[where] - position) for where, position in self._positions.items()}

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        """See EventConsumer."""
        self._paused.update(partitions)

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        """See EventConsumer."""
        self._paused.difference_update(partitions)
        self._changed.set()

    async def close(self) -> None:
        """See EventConsumer."""
        self._reader.unwatch(self._changed)
        if self._membership is not None:
            await self._membership.leave()
        self._positions.clear()

    async def _ensure_started(self) -> None:
        if self._started:
            return
        await self._reader.watch(self._topics, self._changed)
        if self._membership is None:
            self._positions = await self._reader.run(self._first_offsets)
        else:
            self._share = await self._membership.join()
            await self._follow_group()
        self._started = True

    def _hear_share(self, share: Share | FailedPreconditionError) -> None:
        if isinstance(share, FailedPreconditionError):
            self._refused = share
        elif share.surplus or share.held != self._positions.keys():
            self._share = share
        else:
            return
        self._changed.set()

    async def _follow_group(self) -> None:
        """Give up what others shall have and take up what is ours; a cancelled call is caught up by the next."""
        if self._membership is None:
            return
        if self._refused is not None:
            raise self._refused
        while (share := self._share) is not None:
            for where in self._positions.keys() - (share.held - share.surplus):
                del self._positions[where]
            if share.surplus:
                self._share = await self._membership.give_up(share.surplus)
                continue
            if gained := share.held - self._positions.keys():
                starts = await self._reader.run(self._begin, gained, share.committed, self._membership)
                self._positions.update(starts)
                self._floors.update(starts)
            if self._share is share:
                self._share = None

    async def _fetch(self, max_records: int) -> list[Record]:
        order = sorted(self._positions.keys() - self._paused)
        if not order:
            return []
        self._turn = (self._turn + 1) % len(order)  # no partition may starve the others
        order = order[self._turn :] + order[: self._turn]
        positions = [(where, self._positions[where]) for where in order]
        records, reached = await self._reader.run(self._read, positions, max_records)
        self._positions.update(reached)
        return records

    # --- in the reading thread ---

    def _read(
        self, positions: Sequence[tuple[TopicPartition, int]], max_records: int
    ) -> tuple[list[Record], dict[TopicPartition, int]]:
        """Read on at these positions, and give the records and the positions behind them."""
        records: list[Record] = []
        reached: dict[TopicPartition, int] = {}
        for where, position in positions:
            room = max_records - len(records)
            if room > 0 and (found := self._reader.topic(where.topic).read(where.partition, position, room)):
                records.extend(found)
                reached[where] = found[-1].offset + 1
        return records, reached

    def _begin(
        self, gained: Collection[TopicPartition], committed: Offsets, membership: Membership
    ) -> dict[TopicPartition, int]:
        """Find where to read the partitions gained, and commit that where nothing was: the next owner goes on there."""
        first = self._first_offsets()
        ends = self._end_offsets()
        starts = {where: committed.get(where, first[where]) for where in gained}
        for where, offset in starts.items():
            starts[where] = self._inside(where, offset, ends[where])
        membership.commit_blocking({where: offset for where, offset in starts.items() if where not in committed})
        return starts

    def _first_offsets(self) -> dict[TopicPartition, int]:
        ends = self._end_offsets()
        if self._start is Start.LATEST:
            return ends
        begin: dict[TopicPartition, int] = {}
        for topic in self._topics:
            begin |= self._reader.topic(topic).begin_offsets()
        if isinstance(self._start, Start):
            return begin
        return {
            where: self._inside(where, self._start.get(where, offset), ends[where]) for where, offset in begin.items()
        }

    @staticmethod
    def _inside(where: TopicPartition, offset: int, end: int) -> int:
        if offset <= end:
            return offset
        _log.warning("offset lies behind the end, reading from the beginning", at=where, offset=offset, end=end)
        return 0

    def _end_offsets(self) -> dict[TopicPartition, int]:
        ends: dict[TopicPartition, int] = {}
        for topic in self._topics:
            ends |= self._reader.topic(topic).end_offsets()
        return ends
