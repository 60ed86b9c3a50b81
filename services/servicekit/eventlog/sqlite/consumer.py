"""Reads partitions of the SQLite log, alone or as a member of a group."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from secrets import token_hex

from servicekit.clock import Clock
from servicekit.errors import FailedPreconditionError, UnavailableError
from servicekit.eventlog.port import Offsets, Record, StaleOwnerError, Start, TopicPartition
from servicekit.eventlog.sqlite.group_file import Member, Share
from servicekit.eventlog.sqlite.reader import LogReader


class SqliteConsumer:
    """See EventConsumer.

    In a group a task renews the membership while the consumer is open, also during a long handler. A member that
    cannot renew for `session_ms` has died for the others: they take its partitions, and its commits are refused.
    """

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
        self._member = None if group is None else Member(group, member or token_hex(8), token_hex(8), self._topics)
        self._start = start
        self._clock = clock
        self._session_ms = session_ms
        self._changed = asyncio.Event()
        self._positions: dict[TopicPartition, int] = {}
        self._floors: dict[TopicPartition, int] = {}  # a commit below is one of an earlier ownership
        self._paused: set[TopicPartition] = set()
        self._turn = 0
        self._started = False
        self._share: Share | None = None
        self._refused: FailedPreconditionError | None = None
        self._renewal: asyncio.Task[None] | None = None

    async def poll(self, *, max_records: int, timeout_s: float) -> Sequence[Record]:
        """See EventConsumer."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while True:
            await self._take_up_share()
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
        if self._member is None or not offsets:
            return
        current = {w: o for w, o in offsets.items() if w in self._positions and o >= self._floors[w]}
        refused = await self._reader.run(self._commit, self._member, current)
        for where in refused:
            self._positions.pop(where, None)
        if stale := refused | (offsets.keys() - current.keys()):
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
        positions = dict(self._positions)
        ends = await self._reader.run(self._end_offsets)
        return {where: max(0, ends[where] - position) for where, position in positions.items()}

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
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None
        if self._started and self._member is not None:
            member = self._member
            await self._reader.run(lambda: self._reader.groups().leave(member))
        self._started = False
        self._positions.clear()

    async def _ensure_started(self) -> None:
        if self._started:
            return
        await self._reader.watch(self._topics, self._changed)
        if self._member is None:
            self._positions = await self._reader.run(self._first_offsets)
        else:
            await self._apply(await self._reader.run(self._renew, joining=True))
            self._renewal = asyncio.create_task(self._keep_renewing(), name="event-log-membership")
        self._started = True

    async def _take_up_share(self) -> None:
        await self._ensure_started()
        if self._refused is not None:
            raise self._refused
        if self._share is None:
            return
        share, self._share = self._share, None
        await self._apply(share)

    async def _apply(self, share: Share) -> None:
        if share.surplus:
            for where in share.surplus:
                self._positions.pop(where, None)
            share = await self._reader.run(self._give_up, share.surplus)
            self._share = None  # computed before this one
        for where in self._positions.keys() - share.held:
            del self._positions[where]
        gained = share.held - self._positions.keys()
        if gained:
            starts = await self._reader.run(self._starts, gained, share.committed)
            self._positions.update(starts)
            self._floors.update(starts)

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(self._session_ms / 1000 / 5)
            try:
                share = await self._reader.run(self._renew, joining=False)
            except UnavailableError:
                continue  # the lease outlasts several failures; when it does not, commits are refused
            except FailedPreconditionError as error:
                self._refused = error
                self._changed.set()
                return
            if share.surplus or share.held != self._positions.keys():
                self._share = share
                self._changed.set()

    async def _fetch(self, max_records: int) -> list[Record]:
        order = sorted(self._positions.keys() - self._paused)
        if not order:
            return []
        self._turn = (self._turn + 1) % len(order)  # no partition may starve the others
        order = order[self._turn :] + order[: self._turn]
        records = await self._reader.run(self._read, [(where, self._positions[where]) for where in order], max_records)
        for record in records:
            self._positions[TopicPartition(record.topic, record.partition)] = record.offset + 1
        return records

    # What follows runs in the reading thread.

    def _read(self, positions: Sequence[tuple[TopicPartition, int]], max_records: int) -> list[Record]:
        records: list[Record] = []
        for where, position in positions:
            room = max_records - len(records)
            if room <= 0:
                break
            records.extend(self._reader.topic(where.topic).read(where.partition, position, room))
        return records

    def _renew(self, *, joining: bool) -> Share:
        assert self._member is not None
        return self._reader.groups().renew(
            self._member,
            joining=joining,
            now_ms=self._clock.now_ms(),
            session_ms=self._session_ms,
            count=lambda topic: self._reader.topic(topic).partitions,
        )

    def _give_up(self, surplus: Collection[TopicPartition]) -> Share:
        assert self._member is not None
        self._reader.groups().release(self._member, set(surplus))
        return self._renew(joining=False)

    def _commit(self, member: Member, offsets: Offsets) -> set[TopicPartition]:
        return self._reader.groups().commit(member, offsets)

    def _starts(self, gained: Collection[TopicPartition], committed: Offsets) -> dict[TopicPartition, int]:
        starts = {where: committed[where] for where in gained if where in committed}
        if fresh := gained - starts.keys():
            first = self._first_offsets()
            begun = {where: first[where] for where in fresh}
            assert self._member is not None
            self._reader.groups().commit(self._member, begun)
            starts |= begun
        return starts

    def _first_offsets(self) -> dict[TopicPartition, int]:
        if self._start is Start.LATEST:
            return self._end_offsets()
        begin: dict[TopicPartition, int] = {}
        for topic in self._topics:
            begin |= self._reader.topic(topic).begin_offsets()
        return begin if isinstance(self._start, Start) else {w: self._start.get(w, first) for w, first in begin.items()}

    def _end_offsets(self) -> dict[TopicPartition, int]:
        ends: dict[TopicPartition, int] = {}
        for topic in self._topics:
            ends |= self._reader.topic(topic).end_offsets()
        return ends
