"""The feed: what changes popularity, in the order of arrival, for every replica to follow.

A row's key is its arrival number and a hash of its event, so a row written again is the same row. The arrival numbers
lie in slots of five minutes; a slot is a partition. Two replicas that take in one event at the same moment may give it
two arrival numbers, seconds apart: readers count an event once within a slot and its neighbours.

Readers take a slot for complete a minute after its end. Whoever writes into a slot later than that, because what was
begun before a crash is finished by another one, adds a row that says "count anew".
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from enum import IntEnum
from hashlib import blake2b
from math import nan
from random import Random

from profile_store.adapters.cql.columns import Columns
from profile_store.adapters.cql.session import CqlSession, Statement
from servicekit.clock import Clock

SLOT_MS = 5 * 60 * 1_000
CLOSED_AFTER_MS = 60_000
"""So long after its end a slot is complete for readers."""
_LATE_AFTER_MS = 45_000
"""So long after a slot's end a writer takes itself for late; the rest is for clocks that differ."""
_ITEM_ROWS_LAST_S = 24 * 3600
_REMEMBERED_SLOTS = 10_000
_SALT_BITS = 10
_MASK_63 = (1 << 63) - 1

_PUT = Statement(
    "INSERT INTO feed (tenant, slot, arrival, event_key, kind, item_key, type_key, value, occurred_at_ms, original) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TTL ?",
    "write",
)
_PUT_SLOT = Statement("INSERT INTO feed_slots (tenant, slot) VALUES (?, ?)", "write")
_READ = Statement(
    "SELECT arrival, event_key, kind, item_key, type_key, value, occurred_at_ms, original FROM feed "
    "WHERE tenant = ? AND slot = ? AND arrival >= ?"
)
_SLOTS = Statement("SELECT slot FROM feed_slots WHERE tenant = ? AND slot > ?")
STATEMENTS = (_PUT, _PUT_SLOT, _READ, _SLOTS)


class Kind(IntEnum):
    """What a row says."""

    DEED = 0
    """An interaction is stored."""
    REMOVAL = 1
    """An interaction is erased; `original` is the arrival number of its deed."""
    ITEM = 2
    """An item may have changed."""
    RECOUNT = 3
    """Sums made before this row came are wrong: interactions weigh differently, or somebody was late."""


@dataclass(frozen=True, slots=True)
class FeedRow:
    """A row; the columns that its kind does not need are 0, the value of an interaction without one is NaN."""

    arrival: int
    event_key: int
    kind: Kind
    item_key: int = 0
    type_key: int = 0
    value: float = nan
    occurred_at_ms: int = 0
    original: int = 0


def slot_of(arrival: int) -> int:
    """Give the slot of an arrival number."""
    return (arrival >> _SALT_BITS) // (SLOT_MS * 1_000)


def first_arrival(time_ms: int) -> int:
    """Give a number that is not larger than any arrival number given from that time on."""
    return max(time_ms, 0) * 1_000 << _SALT_BITS


def event_key(event_id: str, occurred_at_ms: int) -> int:
    """Give the number that stands for an event in the feed, a positive 63-bit hash.

    The time is part of it, since an id may be used again for something later once its user was erased.
    """
    digest = blake2b(f"{occurred_at_ms} {event_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & _MASK_63


class Feed:
    """Writes and reads the feeds of all tenants.

    Args:
        cql: Where they are.
        clock: Gives the time for arrival numbers; the replicas' clocks may differ by some seconds.
        random: Gives the digits that tell this replica's arrival numbers from those of others.
        told: Called with what this replica has written.
    """

    def __init__(
        self, cql: CqlSession, clock: Clock, random: Random, told: Callable[[str, Sequence[FeedRow]], None]
    ) -> None:
        self._cql = cql
        self._clock = clock
        self._told = told
        self._salt = random.getrandbits(_SALT_BITS)
        self._last_us = 0
        self._slots: OrderedDict[tuple[str, int], None] = OrderedDict()

    def arrivals(self, count: int) -> list[int]:
        """Give so many arrival numbers, growing: microseconds, and below them this replica's digits."""
        first = max(self._last_us + 1, self._clock.now_ms() * 1_000)
        self._last_us = first + count - 1
        return [(first + place << _SALT_BITS) + self._salt for place in range(count)]

    async def put(self, tenant: str, rows: Sequence[FeedRow]) -> None:
        """Write rows; readers that have passed their slots already are told to count anew."""
        by_slot: dict[int, list[FeedRow]] = {}
        for row in rows:
            by_slot.setdefault(slot_of(row.arrival), []).append(row)
        for slot, of_slot in by_slot.items():
            await self._put_slot(tenant, slot)
            await self._cql.write_all(_PUT, [_parameters(tenant, slot, row) for row in of_slot], same_partition=True)
        self._told(tenant, rows)
        if any(self._clock.now_ms() > (slot + 1) * SLOT_MS + _LATE_AFTER_MS for slot in by_slot):
            await self.ask_to_recount(tenant)

    async def ask_to_recount(self, tenant: str) -> None:
        """Tell all readers to count anew."""
        (arrival,) = self.arrivals(1)
        await self.put(tenant, [FeedRow(arrival, 0, Kind.RECOUNT)])

    async def put_items(self, tenant: str, item_keys: Sequence[int]) -> None:
        """Tell all readers that items may have changed."""
        arrivals = self.arrivals(len(item_keys))
        await self.put(
            tenant,
            [FeedRow(arrival, key, Kind.ITEM, key) for arrival, key in zip(arrivals, item_keys, strict=True)],
        )

    async def read(self, tenant: str, slot: int, *, from_arrival: int = 0) -> Columns:
        """Read a slot's rows from an arrival number on, as columns named like the fields of FeedRow."""
        return await self._cql.columns(_READ, tenant, slot, from_arrival)

    async def slots(self, tenant: str, *, after: int) -> list[int]:
        """Read which later slots there are, in order."""
        return [slot async for page in self._cql.pages(_SLOTS, tenant, after, page_rows=5_000) for (slot,) in page]

    def is_closed(self, slot: int) -> bool:
        """Tell whether nothing can come into a slot any more without a request to count anew."""
        return self._clock.now_ms() > (slot + 1) * SLOT_MS + CLOSED_AFTER_MS

    async def _put_slot(self, tenant: str, slot: int) -> None:
        if (tenant, slot) in self._slots:
            return
        await self._cql.write(_PUT_SLOT, tenant, slot)
        self._slots[tenant, slot] = None
        if len(self._slots) > _REMEMBERED_SLOTS:
            self._slots.popitem(last=False)


def _parameters(tenant: str, slot: int, row: FeedRow) -> tuple[object, ...]:
    arrival, key, kind, *rest = astuple(row)
    return tenant, slot, arrival, key, int(kind), *rest, _ITEM_ROWS_LAST_S if kind is Kind.ITEM else 0
