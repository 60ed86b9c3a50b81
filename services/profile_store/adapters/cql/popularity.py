"""What is popular, kept in memory by every replica and brought up to date from the feed when it is asked for.

There is no counter in the store: the sums are those of the feed's rows, each counted once, so they are the same for
every replica, after any crash and any replay. Two sets of sums are kept: the *live* ones of all rows read so far, which
answer, and the *settled* ones of the slots that are complete, from which snapshots are made. A replica that starts
reads the latest snapshot and the feed after it.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field

from profile_store.adapters.cql import items, snapshots
from profile_store.adapters.cql.feed import Feed, FeedRow, Kind, first_arrival, slot_of
from profile_store.adapters.cql.session import CqlSession, gather
from profile_store.adapters.cql.snapshots import Head
from profile_store.adapters.cql.tally import Recount, Slot, Tally, columns_of
from profile_store.adapters.cql.types import CqlTypes
from profile_store.domain.items import Item
from profile_store.domain.popularity import DecayedSums, PopularityList, PopularityQuery
from servicekit.clock import Clock
from servicekit.deadline import begin_deadline
from servicekit.errors import InternalError
from servicekit.logs import get_logger

REFRESHED_AFTER_MS = 250
"""How old the sums may be when they answer; what this replica wrote itself is in them at once."""
_READ_AGAIN_MS = 10_000
"""So long after its arrival number was given a row may become visible; it is looked for until then, and once more when
its slot is complete."""
_MAX_TENANTS = 256
_UNUSED_MS = 12 * 3_600_000
"""After so long without a question everything is read anew, since the feed's rows of changed items last a day."""
_SNAPSHOT_AFTER = 20_000
_SLOTS_AT_ONCE = 8
_BACKGROUND_S = 600.0

_log = get_logger(__name__)


@dataclass(slots=True)
class _Asked:
    """A tenant that was asked for: its sums once they are read, and who reads them."""

    known: Tally | None = None
    due_ms: int = 0
    used_ms: int = 0
    reading: asyncio.Task[None] | None = None
    recounting: asyncio.Task[None] | None = None
    saving: asyncio.Task[None] | None = None
    written: list[FeedRow] = field(default_factory=list)
    """What this replica wrote while sums that are not in use yet were being made."""
    head: Head | None = None
    """The snapshot that this replica read or wrote last."""
    hints: int = 0
    """How often this replica wrote what has to be read back."""

    @property
    def is_busy(self) -> bool:
        return any(task is not None for task in (self.reading, self.recounting, self.saving))


class CqlPopularity:
    """Answers what is popular.

    Args:
        cql: Where feed and snapshots are.
        types: How interactions weigh.
        clock: Gives the time.
    """

    def __init__(self, cql: CqlSession, types: CqlTypes, clock: Clock) -> None:
        self._cql = cql
        self._types = types
        self._clock = clock
        self._tenants: OrderedDict[str, _Asked] = OrderedDict()
        self._feed: Feed

    def use(self, feed: Feed) -> None:
        """Say which feed to follow; called once, before anything else, since the feed in turn tells this object."""
        self._feed = feed

    async def close(self) -> None:
        """Stop what runs."""
        tasks = [
            task
            for asked in self._tenants.values()
            for task in (asked.reading, asked.recounting, asked.saving)
            if task is not None
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def most_popular(self, query: PopularityQuery, *, now_ms: int) -> PopularityList:
        """See PopularityStore."""
        asked = self._asked(query.tenant)
        # The second time for what was written while the first reading was under way.
        for _ in range(2):
            if asked.known is None or self._clock.now_ms() >= asked.due_ms:
                if asked.reading is None:
                    asked.reading = self._start(self._read(query.tenant, asked))
                await asyncio.shield(asked.reading)
        known = asked.known
        if known is None:
            raise InternalError("the sums were read and are not there")
        return await known.top.most_popular(query, now_ms=now_ms, read_items=self._read_items)

    def hear(self, tenant: str, rows: Sequence[FeedRow]) -> None:
        """Take what this replica has just written; the feed calls it."""
        asked = self._tenants.get(tenant)
        if asked is None:
            return
        if asked.known is None or asked.recounting is not None:
            asked.written.extend(rows)
        if asked.known is not None:
            self._hear(asked, asked.known, rows)

    async def recount(self, tenant: str) -> None:
        """Count a tenant anew now, if this replica has counted it at all."""
        asked = self._tenants.get(tenant)
        if asked is None:
            return
        if asked.recounting is not None:
            await asyncio.gather(asked.recounting, return_exceptions=True)  # it may have begun too early
        await asyncio.shield(self._begin_recount(tenant, asked))

    # --- reading

    def _asked(self, tenant: str) -> _Asked:
        now_ms = self._clock.now_ms()
        asked = self._tenants.get(tenant)
        if asked is None or (now_ms - asked.used_ms > _UNUSED_MS and not asked.is_busy):
            asked = self._tenants[tenant] = _Asked()
        asked.used_ms = now_ms
        self._tenants.move_to_end(tenant)
        for name in list(self._tenants)[: max(0, len(self._tenants) - _MAX_TENANTS)]:
            if not self._tenants[name].is_busy:
                del self._tenants[name]
        return asked

    @staticmethod
    def _start(work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        async def run() -> None:
            begin_deadline(_BACKGROUND_S)  # whoever waits has a deadline; others go on waiting
            await work

        task = asyncio.get_running_loop().create_task(run())
        task.add_done_callback(_notice)
        return task

    async def _read(self, tenant: str, asked: _Asked) -> None:
        """Read a tenant for the first time, or what is new of it."""
        due_ms, hints = self._clock.now_ms() + REFRESHED_AFTER_MS, asked.hints
        try:
            known = asked.known
            if known is None:
                asked.written.clear()  # what was written before is in the store, and is read now
                known = await self._load(tenant, asked)
                self._adopt(asked, known)
            else:
                try:
                    await self._follow(known)
                except Recount as recount:
                    # The old sums answer until the new ones are there.
                    if asked.recounting is None:
                        self._begin_recount(tenant, asked, after=recount.arrival)
            asked.due_ms = due_ms if hints == asked.hints else 0
            self._save_if_due(asked, known)
        finally:
            asked.reading = None

    def _begin_recount(self, tenant: str, asked: _Asked, after: int = 0) -> asyncio.Task[None]:
        asked.written.clear()

        async def recount() -> None:
            try:
                self._adopt(asked, await self._count(tenant, after))
            finally:
                asked.recounting = None

        asked.recounting = self._start(recount())
        return asked.recounting

    def _adopt(self, asked: _Asked, known: Tally) -> None:
        self._hear(asked, known, asked.written)
        asked.written.clear()
        if asked.known is None or asked.known.recounted <= known.recounted:
            asked.known = known

    def _hear(self, asked: _Asked, known: Tally, rows: Sequence[FeedRow]) -> None:
        """Apply rows at once where that is possible; the others are read before the next answer."""
        plain = [row for row in rows if row.kind is not Kind.RECOUNT]
        for slot in dict.fromkeys(slot_of(row.arrival) for row in plain):
            columns = columns_of([row for row in plain if slot_of(row.arrival) == slot])
            if slot > known.settled_through and known.kinds.know(columns["type_key"][columns["kind"] <= Kind.REMOVAL]):
                known.follow(slot, columns)
            else:
                asked.hints += 1
                asked.due_ms = 0

    async def _load(self, tenant: str, asked: _Asked) -> Tally:
        """Read the latest snapshot and follow the feed from there; without one, or when it is void, count all."""
        found = await snapshots.load(self._cql, tenant)
        if found is None:
            return await self._count(tenant, 0)
        head, keys, sums = found
        known = Tally(tenant, await self._types.read(tenant), head.recounted)
        known.start_from(head.slot, keys, sums, await self._feed.read(tenant, head.slot))
        try:
            await self._follow(known)
        except Recount as recount:
            return await self._count(tenant, recount.arrival)
        asked.head = head
        return known

    async def _count(self, tenant: str, recounted: int) -> Tally:
        """Count all of the feed."""
        while True:
            known = Tally(tenant, await self._types.read(tenant), recounted)
            try:
                await self._follow(known)
            except Recount as recount:
                recounted = recount.arrival
            else:
                return known

    async def _follow(self, known: Tally) -> None:
        """Read what is new in the feed."""
        slots = await self._feed.slots(known.tenant, after=known.settled_through)
        for start in range(0, len(slots), _SLOTS_AT_ONCE):
            some = slots[start : start + _SLOTS_AT_ONCE]
            # Asked before reading: what is closed now is complete in what is read after that.
            closed = [self._feed.is_closed(slot) for slot in some]
            read = await gather(
                self._feed.read(known.tenant, slot, from_arrival=0 if is_closed else _again_from(known.slots.get(slot)))
                for slot, is_closed in zip(some, closed, strict=True)
            )
            for slot, is_closed, rows in zip(some, closed, read, strict=True):
                if not known.kinds.know(rows["type_key"][rows["kind"] <= Kind.REMOVAL]):
                    known.kinds = await self._types.read(known.tenant)
                known.follow(slot, rows)
                if len(rows["arrival"]):
                    known.slots[slot].last_arrival = max(known.slots[slot].last_arrival, int(rows["arrival"][-1]))
                if is_closed:
                    known.settle(slot, rows)

    async def _read_items(self, keys: Sequence[int]) -> list[Item]:
        return await items.get_items(self._cql, keys)

    # --- snapshots

    def _save_if_due(self, asked: _Asked, known: Tally) -> None:
        if known.unsaved < _SNAPSHOT_AFTER or asked.saving is not None:
            return
        keys, sums = known.settled.all()
        slot = known.settled_through
        kept = DecayedSums(sums.reference_ms.copy(), sums.sums.copy())

        async def save() -> None:
            try:
                asked.head = await snapshots.save(
                    self._cql,
                    known.tenant,
                    slot=slot,
                    recounted=known.recounted,
                    keys=keys,
                    sums=kept,
                    before=asked.head,
                )
            finally:
                asked.saving = None

        known.unsaved = 0
        asked.saving = self._start(save())


def _notice(task: "asyncio.Task[None]") -> None:
    """Take the error of a task for which perhaps nobody waits any more."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.warning("popularity could not be brought up to date", error=repr(error))


def _again_from(slot: Slot | None) -> int:
    return 0 if slot is None else max(0, slot.last_arrival - first_arrival(_READ_AGAIN_MS))
