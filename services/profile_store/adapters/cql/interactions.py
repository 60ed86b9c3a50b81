"""Takes interactions in, once per event, and takes them back; exact with several replicas, and after any crash.

Taking an event in has five steps, each complete on a quorum before the next begins:

1. Read what is known of the event, and up to when its user was erased.
2. Note the event with the arrival number that it gets.
3. Write everything that follows from it under keys made of the event and that number: the interaction, the user's
   bucket, the feed. Writing it again changes nothing.
4. Read the erasures once more. Whoever erases writes the erasure first and then reads the interactions: so either they
   saw this interaction, or this step sees the erasure and takes the interaction back.
5. Note that the event is applied; nobody waits for that. An event that is noted and not applied is finished by the
   next one who brings it, with the same number.

No step is conditional (LWT): two replicas that take in the same event at the same moment write the same rows. Two
*different* events with one id, sent to two replicas within the same milliseconds, may both be stored; a condition for
each event would cost four times as much as the write itself.

An interaction is written with its time as the timestamp, and an erasure deletes partitions as of its moment. So the
store itself hides what is written after the erasure and occurred before.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import nan
from typing import Any

from profile_store.adapters.cql.feed import Feed, FeedRow, Kind, event_key
from profile_store.adapters.cql.histories import BUCKET_MS, CqlHistories, bucket_of, shard_of, user_key_of
from profile_store.adapters.cql.session import CqlSession, Row, Statement, chunks, gather
from profile_store.adapters.cql.types import type_key
from profile_store.adapters.lru import Lru
from profile_store.domain.interactions import Interaction
from servicekit.clock import Clock
from servicekit.deadline import begin_deadline
from servicekit.identity import item_key

_READ_TOGETHER = 32
_ERASED_AT_ONCE = 5_000
_REMEMBERED_BUCKETS = 200_000
_BACKGROUND_S = 10.0

_EVENTS = Statement("SELECT event_id, occurred_at_ms, arrival, applied FROM events WHERE tenant = ? AND event_id IN ?")
_NOTE = Statement(
    "INSERT INTO events (tenant, event_id, occurred_at_ms, arrival) VALUES (?, ?, ?, ?) USING TTL ?", "write"
)
_APPLIED = Statement("UPDATE events USING TTL ? SET applied = true WHERE tenant = ? AND event_id = ?", "write")
_FORGET = Statement("DELETE FROM events WHERE tenant = ? AND event_id = ?", "write")
_ERASURES = Statement("SELECT user_key, until_ms, arrival FROM erasures WHERE user_key IN ?")
_PUT_ERASURE = Statement(
    "INSERT INTO erasures (user_key, until_ms, arrival) VALUES (?, ?, ?) USING TIMESTAMP ?", "write"
)
_PUT = Statement(
    "INSERT INTO interactions (tenant, user_key, bucket, occurred_at_ms, event_id, user_id, arrival, item_key, "
    "item_type, item_id, type_key, value) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?",
    "write",
)
_PUT_BUCKET = Statement(
    "INSERT INTO users (tenant, shard, user_key, bucket) VALUES (?, ?, ?, ?) USING TIMESTAMP ? AND TTL ?", "write"
)
_UNTIL = Statement(
    "SELECT event_id, arrival, item_key, type_key, value, occurred_at_ms FROM interactions "
    "WHERE tenant = ? AND user_key = ? AND bucket = ? AND occurred_at_ms <= ?",
    "scan",
)
_ERASE = Statement(
    "DELETE FROM interactions USING TIMESTAMP ? WHERE tenant = ? AND user_key = ? AND bucket = ?", "write"
)
_ERASE_BUCKET = Statement(
    "DELETE FROM users USING TIMESTAMP ? WHERE tenant = ? AND shard = ? AND user_key = ? AND bucket = ?", "write"
)
STATEMENTS = (
    _EVENTS,
    _NOTE,
    _APPLIED,
    _FORGET,
    _ERASURES,
    _PUT_ERASURE,
    _PUT,
    _PUT_BUCKET,
    _UNTIL,
    _ERASE,
    _ERASE_BUCKET,
)

_item_key_of = lru_cache(maxsize=32_768)(item_key)


@dataclass(frozen=True, slots=True)
class _Taken:
    """An interaction on its way in."""

    place: int
    did: Interaction
    arrival: int
    new: bool

    @property
    def user_key(self) -> int:
        return user_key_of(self.did.tenant, self.did.user_id)

    @property
    def bucket(self) -> int:
        return bucket_of(self.did.occurred_at_ms)

    def feed_row(self) -> FeedRow:
        did = self.did
        return FeedRow(
            self.arrival,
            event_key(did.event_id, did.occurred_at_ms),
            Kind.DEED,
            _item_key_of(did.tenant, did.item_type, did.item_id),
            type_key(did.interaction_type),
            nan if did.value is None else did.value,
            did.occurred_at_ms,
        )


class CqlInteractions:
    """Writes interactions and erasures.

    Args:
        cql: Where they are stored.
        feed: Where popularity hears of them.
        histories: Knows in which buckets a user has interactions.
        clock: For the time that is left to an interaction.
        interactions_ttl_s: How long after its time an interaction is kept; 0: for ever.
        event_ids_ttl_s: How long it is known that an event was taken in; 0: for ever.
    """

    def __init__(
        self,
        cql: CqlSession,
        feed: Feed,
        histories: CqlHistories,
        clock: Clock,
        *,
        interactions_ttl_s: int,
        event_ids_ttl_s: int,
    ) -> None:
        self._cql = cql
        self._feed = feed
        self._histories = histories
        self._clock = clock
        self._interactions_ttl_s = interactions_ttl_s
        self._event_ids_ttl_s = event_ids_ttl_s
        self._known_buckets: Lru[tuple[int, int], bool] = Lru("written_buckets", _REMEMBERED_BUCKETS)
        self._background: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Finish what nobody waits for."""
        await asyncio.gather(*self._background, return_exceptions=True)

    async def append(self, interactions: Sequence[Interaction]) -> list[bool]:
        """Take interactions in; tell which are new."""
        places: dict[str, list[int]] = {}
        for place, did in enumerate(interactions):
            places.setdefault(did.tenant, []).append(place)
        applied = [False] * len(interactions)
        for new in await gather(
            self._append_of_tenant(tenant, interactions, of_tenant) for tenant, of_tenant in places.items()
        ):
            for place in new:
                applied[place] = True
        return applied

    async def erase_user(self, tenant: str, user_id: str, until_ms: int) -> int:
        """Delete a user's interactions up to a moment and remember that moment; count them."""
        key = user_key_of(tenant, user_id)
        arrival = await self._note_erasure(key, until_ms)
        buckets = [each for each in await self._histories.buckets(tenant, key) if each <= bucket_of(until_ms)]
        counts = await gather(self._erase_bucket(tenant, key, bucket, until_ms, arrival) for bucket in buckets)
        return sum(counts)

    # --- taking in

    async def _append_of_tenant(
        self, tenant: str, interactions: Sequence[Interaction], places: Sequence[int]
    ) -> list[int]:
        """Take in interactions of one tenant; give the places of those that are new."""
        users = {user_key_of(tenant, interactions[place].user_id) for place in places}
        event_ids = dict.fromkeys(interactions[place].event_id for place in places)
        erased, known = await gather((self._erased_until(users), self._known_events(tenant, list(event_ids))))
        first: dict[str, Interaction] = {}
        place_of: dict[str, int] = {}
        for place in places:
            did = interactions[place]
            if did.occurred_at_ms > erased.get(user_key_of(tenant, did.user_id), 0):
                first.setdefault(did.event_id, did)
                place_of.setdefault(did.event_id, place)
        new_ids = [event_id for event_id in first if event_id not in known]
        arrivals = dict(zip(new_ids, self._feed.arrivals(len(new_ids)), strict=True))
        taken: list[_Taken] = []
        for event_id, did in first.items():
            noted = known.get(event_id)
            if noted is None:
                taken.append(_Taken(place_of[event_id], did, arrivals[event_id], new=True))
            elif not noted[3] and noted[1] == did.occurred_at_ms:
                taken.append(_Taken(place_of[event_id], did, noted[2], new=False))  # somebody did not come to its end
        if not taken:
            return []
        await self._cql.write_all(
            _NOTE,
            [
                (tenant, each.did.event_id, each.did.occurred_at_ms, each.arrival, self._event_ids_ttl_s)
                for each in taken
                if each.new
            ],
        )
        await self._store(tenant, taken)
        return await self._settle(tenant, taken)

    async def _store(self, tenant: str, taken: Sequence[_Taken]) -> None:
        """Write what follows from the events."""
        rows = [self._row(each) for each in sorted(taken, key=lambda each: (each.user_key, each.bucket))]
        buckets = {
            (each.user_key, each.bucket) for each in taken if not self._known_buckets.get((each.user_key, each.bucket))
        }
        now_s = self._clock.now_ms() // 1_000
        await gather(
            (
                self._cql.write_all(_PUT, rows),
                self._feed.put(tenant, [each.feed_row() for each in taken]),
                self._cql.write_all(
                    _PUT_BUCKET,
                    [
                        (
                            tenant,
                            shard_of(key),
                            key,
                            bucket,
                            _timestamp(bucket * BUCKET_MS),
                            _left_s(self._interactions_ttl_s, _end_ms(bucket) // 1_000, now_s),
                        )
                        for key, bucket in buckets
                    ],
                ),
            )
        )
        for each in buckets:
            # The row is written with the bucket's end as its time. An erasure that deletes it is later than that, and
            # nothing of the bucket is let in after it: so the row need not be written again.
            self._known_buckets.put(each, True)

    async def _settle(self, tenant: str, taken: Sequence[_Taken]) -> list[int]:
        """Take back what was erased meanwhile, note the rest as applied; give the places of those that are new."""
        erased = await self._erased_until({each.user_key for each in taken})
        kept = [each for each in taken if each.did.occurred_at_ms > erased.get(each.user_key, 0)]
        back = [each for each in taken if each.did.occurred_at_ms <= erased.get(each.user_key, 0)]
        if back:
            await self._take_back(tenant, back, erased)
        self._in_background(
            self._cql.write_all(_APPLIED, [(self._event_ids_ttl_s, tenant, each.did.event_id) for each in kept])
        )
        return [each.place for each in kept if each.new]

    async def _take_back(self, tenant: str, back: Sequence[_Taken], erased: dict[int, int]) -> None:
        arrivals = self._feed.arrivals(len(back))
        rows = (each.feed_row() for each in back)
        await self._feed.put(
            tenant,
            [
                FeedRow(
                    arrival,
                    row.event_key,
                    Kind.REMOVAL,
                    row.item_key,
                    row.type_key,
                    row.value,
                    row.occurred_at_ms,
                    row.arrival,
                )
                for arrival, row in zip(arrivals, rows, strict=True)
            ],
        )
        await self._forget(tenant, [each.did.event_id for each in back])
        for key, bucket in {(each.user_key, each.bucket) for each in back}:
            await self._delete_bucket(tenant, key, bucket, erased[key])

    def _row(self, each: _Taken) -> tuple[object, ...]:
        did = each.did
        return (
            did.tenant,
            each.user_key,
            each.bucket,
            did.occurred_at_ms,
            did.event_id,
            did.user_id,
            each.arrival,
            _item_key_of(did.tenant, did.item_type, did.item_id),
            did.item_type,
            did.item_id,
            type_key(did.interaction_type),
            nan if did.value is None else did.value,
            _timestamp(did.occurred_at_ms),
            _left_s(self._interactions_ttl_s, did.occurred_at_ms // 1_000, self._clock.now_ms() // 1_000),
        )

    async def _known_events(self, tenant: str, event_ids: Sequence[str]) -> dict[str, Row]:
        parts = chunks(event_ids, _READ_TOGETHER)
        rows = await gather(self._cql.rows(_EVENTS, tenant, list(part)) for part in parts)
        return {row[0]: row for part in rows for row in part if row[2] is not None}

    async def _erased_until(self, user_keys: Iterable[int]) -> dict[int, int]:
        parts = chunks(list(user_keys), _READ_TOGETHER)
        rows = await gather(self._cql.rows(_ERASURES, list(part)) for part in parts)
        return {row[0]: row[1] for part in rows for row in part}

    # --- erasing

    async def _note_erasure(self, key: int, until_ms: int) -> int:
        """Write up to when a user is erased; the latest moment stays. Give the arrival number of its removals.

        A repetition, after a crash perhaps, gets the same number, so that it writes the same removals.
        """
        rows = await self._cql.rows(_ERASURES, [key])
        if rows and rows[0][1] >= until_ms:
            return int(rows[0][2])
        (arrival,) = self._feed.arrivals(1)
        await self._cql.write(_PUT_ERASURE, key, until_ms, arrival, _timestamp(until_ms))
        return arrival

    async def _erase_bucket(self, tenant: str, key: int, bucket: int, until_ms: int, arrival: int) -> int:
        """Tell the feed, then forget the events, then delete: whoever repeats a half of it finds the rows again."""
        count = 0
        async for page in self._cql.pages(_UNTIL, tenant, key, bucket, until_ms, page_rows=_ERASED_AT_ONCE):
            rows = [row for row in page if row[0] is not None]
            count += len(rows)
            await self._feed.put(
                tenant,
                [
                    FeedRow(arrival, event_key(row[0], row[5]), Kind.REMOVAL, row[2], row[3], row[4], row[5], row[1])
                    for row in rows
                ],
            )
            await self._forget(tenant, [row[0] for row in rows])
        await self._delete_bucket(tenant, key, bucket, until_ms)
        return count

    async def _delete_bucket(self, tenant: str, key: int, bucket: int, until_ms: int) -> None:
        await self._cql.write(_ERASE, _timestamp(until_ms), tenant, key, bucket)
        if until_ms >= _end_ms(bucket):
            await self._cql.write(_ERASE_BUCKET, _timestamp(until_ms), tenant, shard_of(key), key, bucket)

    async def _forget(self, tenant: str, event_ids: Sequence[str]) -> None:
        await self._cql.write_all(_FORGET, [(tenant, event_id) for event_id in event_ids])

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(_with_time_of_its_own(work))
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled():
            task.exception()  # the event is then finished by the next one who brings it


async def _with_time_of_its_own(work: Coroutine[Any, Any, None]) -> None:
    begin_deadline(_BACKGROUND_S)
    await work


def _timestamp(time_ms: int) -> int:
    return time_ms * 1_000


def _end_ms(bucket: int) -> int:
    return (bucket + 1) * BUCKET_MS - 1


def _left_s(ttl_s: int, since_s: int, now_s: int) -> int:
    """Give the seconds that are left of a TTL that began at some time, 0 when there is none."""
    return max(1, since_s + ttl_s - now_s) if ttl_s else 0
