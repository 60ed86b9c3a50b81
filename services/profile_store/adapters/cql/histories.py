"""Reads what users did: histories for contexts, pages of lists, exports.

A user's interactions lie in one partition for each 365 days; `users` says in which. Contexts ask for that and, in the
same round, for the partitions that they expect; only when there are others a second round follows. What is asked for
many users travels as few queries: the driver's Python costs half a millisecond a query, whatever is in it.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from profile_store.adapters.cql.columns import Columns
from profile_store.adapters.cql.session import CqlSession, Row, Statement, chunks, gather
from profile_store.adapters.cql.types import CqlTypes
from profile_store.adapters.lru import Lru
from profile_store.domain.contexts import MAX_ROWS, ContextQuery, History, UserContext, build_history_from_columns
from profile_store.domain.interactions import (
    ExportPosition,
    Interaction,
    InteractionColumns,
    Position,
    StoredInteraction,
    UserCount,
)
from servicekit.clock import Clock
from servicekit.identity import user_key

BUCKET_MS = 365 * 24 * 3_600_000
USER_SHARDS = 256
_SHARD_SHIFT = 55
_REMEMBERED_USERS = 100_000
_USERS_AT_ONCE = 64
_USERS_OF_QUERY = 16
_BUCKETS_OF_QUERY = 4
"""Users, and buckets of each, of one query: Scylla refuses more than 100 partitions, and one node gathers them all."""
_SHARDS_AT_ONCE = 16
_USERS_PAGE = 2_000

_BUCKETS = Statement("SELECT bucket FROM users WHERE tenant = ? AND shard = ? AND user_key = ?")
_BUCKETS_OF_USERS = Statement("SELECT user_key, bucket FROM users WHERE tenant = ? AND shard IN ? AND user_key IN ?")
_NEWEST_OF_USERS = Statement(
    "SELECT user_key, bucket, item_key, type_key, value, occurred_at_ms, arrival FROM interactions "
    "WHERE tenant = ? AND user_key IN ? AND bucket IN ? PER PARTITION LIMIT ?"
)
_COUNT = Statement(
    "SELECT COUNT(event_id), user_id FROM interactions WHERE tenant = ? AND user_key = ? AND bucket = ?", "scan"
)
_LIST_COLUMNS = "event_id, user_id, item_type, item_id, type_key, value, occurred_at_ms, arrival"
_NEWEST_FIRST = Statement(
    f"SELECT {_LIST_COLUMNS} FROM interactions "  # noqa: S608 - constants only
    "WHERE tenant = ? AND user_key = ? AND bucket = ? AND occurred_at_ms <= ?"
)
_OLDEST_FIRST = Statement(
    f"SELECT {_LIST_COLUMNS} FROM interactions "  # noqa: S608 - constants only
    "WHERE tenant = ? AND user_key = ? AND bucket = ? AND occurred_at_ms >= ? "
    "ORDER BY occurred_at_ms ASC, event_id DESC"
)
_EXPORT = Statement(
    "SELECT item_key, type_key, value, occurred_at_ms, arrival FROM interactions "
    "WHERE tenant = ? AND user_key = ? AND bucket = ?",
    "scan",
)
_USERS = Statement("SELECT user_key, bucket FROM users WHERE tenant = ? AND shard = ? AND user_key >= ?", "scan")
STATEMENTS = (_BUCKETS, _BUCKETS_OF_USERS, _NEWEST_OF_USERS, _COUNT, _NEWEST_FIRST, _OLDEST_FIRST, _EXPORT, _USERS)

user_key_of = lru_cache(maxsize=32_768)(user_key)


def bucket_of(occurred_at_ms: int) -> int:
    """Give the bucket of a time; stored data depends on it."""
    return occurred_at_ms // BUCKET_MS


def shard_of(key: int) -> int:
    """Give the shard of a user; the shards in order are the keys in order, and stored data depends on it."""
    return key >> _SHARD_SHIFT


@dataclass(frozen=True, slots=True)
class _User:
    key: int
    buckets: tuple[int, ...]


class CqlHistories:
    """Reads interactions; nothing that a user did is remembered here, only in which buckets it may be."""

    def __init__(self, cql: CqlSession, types: CqlTypes, clock: Clock) -> None:
        self._cql = cql
        self._types = types
        self._clock = clock
        self._expected: Lru[int, tuple[int, ...]] = Lru("user_buckets", _REMEMBERED_USERS)

    async def contexts(self, queries: Sequence[ContextQuery]) -> list[UserContext]:
        """Read one context for each query; a user who is asked for twice is read once."""
        tenants: dict[str, dict[str, int]] = {}
        for query in queries:
            tenants.setdefault(query.tenant, {})[query.user_id] = user_key_of(query.tenant, query.user_id)
        found = await gather(self._histories(tenant, list(users.values())) for tenant, users in tenants.items())
        histories = dict(zip(tenants, found, strict=True))
        return [
            histories[query.tenant][tenants[query.tenant][query.user_id]].context(query.history_limit)
            for query in queries
        ]

    async def buckets(self, tenant: str, key: int) -> list[int]:
        """Read in which buckets a user may have interactions, oldest first."""
        return [row[0] for row in await self._cql.rows(_BUCKETS, tenant, shard_of(key), key)]

    async def page(
        self, tenant: str, user_id: str, *, newest_first: bool, after: Position | None, limit: int
    ) -> list[StoredInteraction]:
        """Read the next interactions in a direction."""
        key = user_key_of(tenant, user_id)
        buckets = await self.buckets(tenant, key)
        found: list[StoredInteraction] = []
        for bucket in reversed(buckets) if newest_first else buckets:
            if len(found) >= limit:
                break
            if after is not None:
                at = bucket_of(after.occurred_at_ms)
                if bucket > at if newest_first else bucket < at:
                    continue
            found += await self._page_of_bucket(tenant, key, bucket, newest_first, after, limit - len(found))
        return found[:limit]

    async def export(self, tenant: str, *, after: ExportPosition | None, limit: int) -> InteractionColumns:
        """Read the next interactions by user key, time and arrival: shard after shard, users in order."""
        parts: list[Columns] = []
        count = 0
        start = 0 if after is None else after.user_key
        while count < limit:
            users = await self._next_users(tenant, start)
            if not users:
                break
            for at in range(0, len(users), _USERS_AT_ONCE):
                some = users[at : at + _USERS_AT_ONCE]
                for columns in await gather(self._all_of(tenant, user, after) for user in some):
                    parts.append(columns)
                    count += len(columns["arrival"])
                if count >= limit:
                    break
            start = users[-1].key + 1
        return await self._columns(tenant, parts, limit)

    async def users(self, tenant: str, *, after: str, limit: int) -> list[UserCount]:
        """Read the next users by user key, with their counts."""
        found: list[UserCount] = []
        start = user_key_of(tenant, after) + 1 if after else 0
        while len(found) < limit:
            users = await self._next_users(tenant, start)
            if not users:
                break
            for at in range(0, len(users), _USERS_AT_ONCE):
                counts = await gather(self._count(tenant, user) for user in users[at : at + _USERS_AT_ONCE])
                found += [count for count in counts if count.interaction_count]
                if len(found) >= limit:
                    break
            start = users[-1].key + 1
        return found[:limit]

    # --- histories

    async def _histories(self, tenant: str, keys: Sequence[int]) -> dict[int, History]:
        now = bucket_of(self._clock.now_ms())
        expected = {key: tuple(sorted({now, *(self._expected.get(key) or (now - 1,))})) for key in keys}
        kinds, buckets, columns = await gather(
            (self._types.of(tenant), self._buckets_of(tenant, keys), self._newest(tenant, expected))
        )
        others = {
            key: further
            for key in keys
            if (further := tuple(each for each in buckets[key] if each not in expected[key]))
        }
        if others:
            columns = _join([columns, await self._newest(tenant, others)], *_USER_AND_BUCKET)
        for key in keys:
            self._expected.put(key, buckets[key])
        if not kinds.know(columns["type_key"]):
            kinds = await self._types.read(tenant)
        newest_first = np.lexsort((-columns["arrival"], -columns["occurred_at_ms"], columns["user_key"]))
        columns = {name: values[newest_first] for name, values in columns.items()}
        numbers, weights, seen = kinds.weigh(columns["type_key"], columns["value"])
        begins = np.searchsorted(columns["user_key"], keys, side="left").tolist()
        ends = np.searchsorted(columns["user_key"], keys, side="right").tolist()
        histories = {}
        for key, begin, end in zip(keys, begins, ends, strict=True):
            newest = slice(begin, min(end, begin + MAX_ROWS))
            histories[key] = build_history_from_columns(
                columns["item_key"][newest],
                numbers[newest],
                weights[newest],
                columns["occurred_at_ms"][newest],
                seen[newest],
                interaction_count=await self._count_of(tenant, key, columns["bucket"][begin:end]),
            )
        return histories

    async def _buckets_of(self, tenant: str, keys: Sequence[int]) -> dict[int, tuple[int, ...]]:
        """Read in which buckets users may have interactions, oldest first."""
        parts = await gather(
            self._cql.columns(_BUCKETS_OF_USERS, tenant, sorted({shard_of(key) for key in some}), sorted(some))
            for some in chunks(keys, _USERS_OF_QUERY)
        )
        found: dict[int, list[int]] = {key: [] for key in keys}
        for part in parts:
            for key, bucket in zip(part["user_key"].tolist(), part["bucket"].tolist(), strict=True):
                found[key].append(bucket)
        return {key: tuple(buckets) for key, buckets in found.items()}

    async def _newest(self, tenant: str, buckets: Mapping[int, tuple[int, ...]]) -> Columns:
        """Read the newest rows of partitions; users who have the same ones travel together."""
        alike: dict[tuple[int, ...], list[int]] = {}
        for key, of_user in buckets.items():
            if of_user:
                alike.setdefault(of_user, []).append(key)
        return _join(
            await gather(
                self._cql.columns(_NEWEST_OF_USERS, tenant, some, some_buckets, MAX_ROWS)
                for of_users, keys in alike.items()
                for some_buckets in chunks(of_users, _BUCKETS_OF_QUERY)
                for some in chunks(keys, _USERS_OF_QUERY)
            ),
            *_USER_AND_BUCKET,
        )

    async def _count_of(self, tenant: str, key: int, buckets: npt.NDArray[np.int32]) -> int:
        """Give how many interactions a user has, of which these buckets' were read; only cut ones are counted anew."""
        if len(buckets) < MAX_ROWS:
            return len(buckets)
        found, read = np.unique(buckets, return_counts=True)
        counts = await gather(
            self._cql.rows(_COUNT, tenant, key, bucket) for bucket in found[read == MAX_ROWS].tolist()
        )
        return int(read[read < MAX_ROWS].sum() + sum(row[0] for (row,) in counts))

    # --- one user

    async def _count(self, tenant: str, user: _User) -> UserCount:
        rows = await gather(self._cql.rows(_COUNT, tenant, user.key, bucket) for bucket in user.buckets)
        names = [row[1] for (row,) in rows if row[1] is not None]
        return UserCount(names[0] if names else "", sum(row[0] for (row,) in rows))

    async def _page_of_bucket(
        self, tenant: str, key: int, bucket: int, newest_first: bool, after: Position | None, limit: int
    ) -> list[StoredInteraction]:
        """Read on until `limit` are there and the last one's millisecond is complete, since arrival orders within."""
        if newest_first:
            statement, start = _NEWEST_FIRST, (bucket + 1) * BUCKET_MS if after is None else after.occurred_at_ms
        else:
            statement, start = _OLDEST_FIRST, 0 if after is None else after.occurred_at_ms
        found: list[Row] = []
        async for page in self._cql.pages(statement, tenant, key, bucket, start, page_rows=limit + 16):
            found += [row for row in page if after is None or _is_beyond(row, after, newest_first=newest_first)]
            if len(found) > limit and found[-1][6] != found[limit - 1][6]:
                break
        found.sort(key=lambda row: (row[6], row[7]), reverse=newest_first)
        kinds = await self._types.knowing(tenant, np.array([row[4] for row in found[:limit]], dtype=np.int64))
        return [
            StoredInteraction(
                Interaction(
                    event_id,
                    tenant,
                    user_id,
                    item_type,
                    item_id,
                    kinds.names[type_number],
                    None if np.isnan(value) else value,
                    occurred_at_ms,
                ),
                arrival,
            )
            for event_id, user_id, item_type, item_id, type_number, value, occurred_at_ms, arrival in found[:limit]
        ]

    # --- all users

    async def _next_users(self, tenant: str, start: int) -> list[_User]:
        """Read the next users from a key on; at least one when there is any, some thousands at most."""
        shard = shard_of(start)
        while shard < USER_SHARDS:
            shards = range(shard, min(shard + _SHARDS_AT_ONCE, USER_SHARDS))
            found = await gather(self._users_of_shard(tenant, each, start) for each in shards)
            users: list[_User] = []
            for some, complete in found:
                users += some
                if not complete:
                    break  # the next call goes on in this shard
            if users:
                return users
            shard = shards[-1] + 1
        return []

    async def _users_of_shard(self, tenant: str, shard: int, start: int) -> tuple[list[_User], bool]:
        """Read users of a shard, and whether these are the last ones; a user's buckets are never parted."""
        buckets: dict[int, list[int]] = {}
        async for page in self._cql.pages(_USERS, tenant, shard, start, page_rows=_USERS_PAGE):
            for key, bucket in page:
                buckets.setdefault(key, []).append(bucket)
            if len(page) == _USERS_PAGE and len(buckets) > 1:
                buckets.popitem()  # the page may have ended within this one
                return [_User(key, tuple(of_user)) for key, of_user in buckets.items()], False
        return [_User(key, tuple(of_user)) for key, of_user in buckets.items()], True

    async def _all_of(self, tenant: str, user: _User, after: ExportPosition | None) -> Columns:
        """Read all interactions of a user, oldest first; those beyond a position of that user."""
        columns = _join(await gather(self._cql.columns(_EXPORT, tenant, user.key, bucket) for bucket in user.buckets))
        order = np.lexsort((columns["arrival"], columns["occurred_at_ms"]))
        times, arrivals = columns["occurred_at_ms"][order], columns["arrival"][order]
        if after is not None and after.user_key == user.key:
            at = after.occurred_at_ms
            order = order[(times > at) | ((times == at) & (arrivals > after.arrival))]
        chosen = {name: values[order] for name, values in columns.items()}
        return {**chosen, "user_key": np.full(len(order), user.key, dtype=np.int64)}

    async def _columns(self, tenant: str, parts: Sequence[Columns], limit: int) -> InteractionColumns:
        joined = _join(parts, "user_key")
        columns = {name: values[:limit] for name, values in joined.items()}
        kinds = await self._types.knowing(tenant, columns["type_key"])
        weights = (await asyncio.to_thread(kinds.weigh, columns["type_key"], columns["value"]))[1]
        end = None
        if len(columns["user_key"]) == limit:
            end = ExportPosition(*(int(columns[name][-1]) for name in ("user_key", "occurred_at_ms", "arrival")))
        return InteractionColumns(
            columns["user_key"],
            columns["item_key"],
            weights.astype(np.float32),
            columns["occurred_at_ms"],
            end,
        )


_NUMBERS = ("item_key", "type_key", "occurred_at_ms", "arrival")
_USER_AND_BUCKET = ("user_key", "bucket")


def _join(parts: Sequence[Columns], *more: str) -> Columns:
    if len(parts) == 1:
        return parts[0]
    none = {**{name: np.empty(0, dtype=np.int64) for name in (*_NUMBERS, *more)}, "value": np.empty(0)}
    return {name: np.concatenate([empty, *(part[name] for part in parts)]) for name, empty in none.items()}


def _is_beyond(row: Row, after: Position, *, newest_first: bool) -> bool:
    position = Position(row[6], row[7])
    return position < after if newest_first else position > after
