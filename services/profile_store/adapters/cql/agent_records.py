"""Episodes and rewards of agents: rows by agent, user and week, in the order of time.

Each is written with its own time as the timestamp, and an erasure deletes partitions as of its moment: so the store
itself hides what is written after the erasure and occurred before. The id is noted last: who comes to an end half-way
and is asked again writes the same rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any, Generic, TypeVar

from profile_store.adapters.cql import footprints
from profile_store.adapters.cql.footprints import Footprint, timestamp
from profile_store.adapters.cql.histories import user_key_of
from profile_store.adapters.cql.session import CqlSession, Row, Statement, chunks, gather
from profile_store.domain.episodes import Episode, RecordQuery, Reward
from servicekit.clock import Clock

RECORD_BUCKET_MS = 7 * 24 * 3_600_000
_READ_TOGETHER = 32
_PAGE = 200
_ERASED_AT_ONCE = 5_000

Record = TypeVar("Record", Episode, Reward)

_KNOWN = Statement("SELECT record_id FROM record_ids WHERE tenant = ? AND agent_id = ? AND kind = ? AND record_id IN ?")
_NOTE = Statement("INSERT INTO record_ids (tenant, agent_id, kind, record_id) VALUES (?, ?, ?, ?) USING TTL ?", "write")
_FORGET = Statement("DELETE FROM record_ids WHERE tenant = ? AND agent_id = ? AND kind = ? AND record_id = ?", "write")


@dataclass(frozen=True, slots=True)
class _Table(Generic[Record]):
    """One of the two kinds: its statements, and how its own columns are written and read."""

    kind: str
    put: Statement
    newest_first: Statement
    oldest_first: Statement
    ids_until: Statement
    erase: Statement
    written: Callable[[Record], tuple[object, ...]]
    read: Callable[[RecordQuery, Row], Record]

    @property
    def statements(self) -> tuple[Statement, ...]:
        return self.put, self.newest_first, self.oldest_first, self.ids_until, self.erase


def _table(
    kind: str,
    columns: Sequence[str],
    written: Callable[[Record], tuple[object, ...]],
    read: Callable[[RecordQuery, Row], Record],
) -> _Table[Record]:
    # Nothing but constants of this module gets into these texts.
    names = ", ".join(columns)
    partition = "WHERE tenant = ? AND agent_id = ? AND user_key = ? AND bucket = ?"
    between = "AND (occurred_at_ms, record_id) > (?, ?) AND (occurred_at_ms, record_id) < (?, ?)"
    listed = f"SELECT occurred_at_ms, record_id, {names} FROM {kind} {partition} {between}"  # noqa: S608
    return _Table(
        kind,
        Statement(
            f"INSERT INTO {kind} (tenant, agent_id, user_key, bucket, occurred_at_ms, record_id, {names}) "  # noqa: S608
            f"VALUES (?, ?, ?, ?, ?, ?{', ?' * len(columns)}) USING TIMESTAMP ? AND TTL ?",
            "write",
        ),
        Statement(f"{listed} LIMIT ?"),
        Statement(f"{listed} ORDER BY occurred_at_ms ASC, record_id ASC LIMIT ?"),
        Statement(f"SELECT record_id FROM {kind} {partition} AND occurred_at_ms <= ?", "scan"),  # noqa: S608
        Statement(f"DELETE FROM {kind} USING TIMESTAMP ? {partition}", "write"),  # noqa: S608
        written,
        read,
    )


def _episode(query: RecordQuery, row: Row) -> Episode:
    occurred_at_ms, episode_id, state, action, probability, document = row
    return Episode(
        episode_id,
        query.tenant,
        query.agent_id,
        query.user_id,
        state,
        action,
        None if isnan(probability) else probability,
        document,
        occurred_at_ms,
    )


def _reward(query: RecordQuery, row: Row) -> Reward:
    occurred_at_ms, reward_id, episode_id, value = row
    return Reward(reward_id, query.tenant, query.agent_id, query.user_id, episode_id, value, occurred_at_ms)


EPISODES = _table(
    "episodes",
    ("state", "action", "probability", "document"),
    lambda each: (each.state, each.action, nan if each.probability is None else each.probability, each.document),
    _episode,
)
REWARDS = _table("rewards", ("episode_id", "value"), lambda each: (each.episode_id, each.value), _reward)
_TABLES: dict[str, Any] = {table.kind: table for table in (EPISODES, REWARDS)}
STATEMENTS = (_KNOWN, _NOTE, _FORGET, *EPISODES.statements, *REWARDS.statements)


def record_bucket(occurred_at_ms: int) -> int:
    """Give the bucket of a time; stored data depends on it."""
    return occurred_at_ms // RECORD_BUCKET_MS


class CqlRecords:
    """Writes, reads and erases episodes and rewards.

    Args:
        cql: Where they are stored.
        clock: For the time that is left to one.
        ttl_s: How long after its time one is kept; 0: for ever.
    """

    def __init__(self, cql: CqlSession, clock: Clock, *, ttl_s: int) -> None:
        self._cql = cql
        self._clock = clock
        self._ttl_s = ttl_s

    async def append(self, table: _Table[Record], records: Sequence[Record]) -> list[bool]:
        """Take records in; tell which are new."""
        users = {_user(each) for each in records}
        erased, known = await gather(
            (footprints.erased_until(self._cql, users), self._known(table.kind, {_name(each) for each in records}))
        )
        taken: dict[tuple[str, str, str], int] = {}
        for place, each in enumerate(records):
            if _name(each) not in known and each.occurred_at_ms > erased.get(_user(each), 0):
                taken.setdefault(_name(each), place)
        new = [records[place] for place in taken.values()]
        await gather((self._put_footprints(table.kind, new), self._put(table, new)))
        # Somebody may have erased a user meanwhile, and not found the footprints.
        erased = await footprints.erased_until(self._cql, users) if new else {}
        back = {_footprint(table.kind, each) for each in new if _is_erased(each, erased)}
        await gather(self._erase_rows(table, each, erased[each.tenant, each.user_key]) for each in back)
        kept = {name: place for name, place in taken.items() if not _is_erased(records[place], erased)}
        await self._cql.write_all(
            _NOTE,
            [
                (tenant, agent_id, table.kind, record_id, self._left_s(records[place].occurred_at_ms))
                for (tenant, agent_id, record_id), place in kept.items()
            ],
        )
        places = set(kept.values())
        return [place in places for place in range(len(records))]

    async def page(self, table: _Table[Record], query: RecordQuery) -> list[Record]:
        """Read the next records: week after week, those in which there may be some."""
        key = user_key_of(query.tenant, query.user_id)
        lower, upper = query.lower, query.upper
        between: tuple[int, str, int, str] = (
            lower.occurred_at_ms,
            lower.record_id,
            upper.occurred_at_ms,
            upper.record_id,
        )
        statement = table.newest_first if query.newest_first else table.oldest_first
        buckets = await footprints.buckets(self._cql, query.tenant, key, query.agent_id, table.kind)
        found: list[Record] = []
        for bucket in reversed(buckets) if query.newest_first else buckets:
            if len(found) == query.limit:
                break
            if not record_bucket(lower.occurred_at_ms) <= bucket <= record_bucket(upper.occurred_at_ms):
                continue
            parameters = (query.tenant, query.agent_id, key, bucket, *between, query.limit - len(found))
            async for rows in self._cql.pages(statement, *parameters, page_rows=_PAGE):
                found += [table.read(query, row) for row in rows]
        return found

    async def erase(self, footprint: Footprint, until_ms: int) -> None:
        """Forget the ids and then delete the rows of a partition that occurred up to a moment."""
        await self._erase_rows(_TABLES[footprint.kind], footprint, until_ms)
        if until_ms >= _end_ms(footprint.bucket):
            await footprints.delete(self._cql, footprint, until_ms)

    async def _erase_rows(self, table: _Table[Any], at: Footprint, until_ms: int) -> None:
        partition = (at.tenant, at.agent_id, at.user_key, at.bucket)
        async for page in self._cql.pages(table.ids_until, *partition, until_ms, page_rows=_ERASED_AT_ONCE):
            await self._cql.write_all(_FORGET, [(at.tenant, at.agent_id, at.kind, row[0]) for row in page])
        await self._cql.write(table.erase, timestamp(until_ms), *partition)

    async def _known(self, kind: str, names: set[tuple[str, str, str]]) -> set[tuple[str, str, str]]:
        """Give those of the names that are noted."""
        by_agent: dict[tuple[str, str], list[str]] = {}
        for tenant, agent_id, record_id in names:
            by_agent.setdefault((tenant, agent_id), []).append(record_id)

        async def read(agent: tuple[str, str], ids: Sequence[str]) -> list[tuple[str, str, str]]:
            return [(*agent, row[0]) for row in await self._cql.rows(_KNOWN, *agent, kind, list(ids))]

        parts = await gather(
            read(agent, part) for agent, ids in by_agent.items() for part in chunks(ids, _READ_TOGETHER)
        )
        return {name for part in parts for name in part}

    async def _put_footprints(self, kind: str, records: Sequence[Record]) -> None:
        found = {_footprint(kind, each) for each in records}
        await footprints.put(
            self._cql,
            {each: (each.bucket * RECORD_BUCKET_MS, self._left_s(_end_ms(each.bucket))) for each in found},
        )

    async def _put(self, table: _Table[Record], records: Sequence[Record]) -> None:
        """Write rows one by one: several with long documents would be more than the server takes at once."""
        await gather(
            self._cql.write(
                table.put,
                each.tenant,
                each.agent_id,
                user_key_of(*_owner(each)),
                record_bucket(each.occurred_at_ms),
                each.occurred_at_ms,
                each.record_id,
                *table.written(each),
                timestamp(each.occurred_at_ms),
                self._left_s(each.occurred_at_ms),
            )
            for each in records
        )

    def _left_s(self, since_ms: int) -> int:
        """Give the seconds that are left of the TTL, 0 when there is none."""
        return max(1, (since_ms - self._clock.now_ms()) // 1_000 + self._ttl_s) if self._ttl_s else 0


def _owner(each: Episode | Reward) -> tuple[str, str]:
    return each.tenant, each.user_id


def _user(each: Episode | Reward) -> tuple[str, int]:
    return each.tenant, user_key_of(*_owner(each))


def _name(each: Episode | Reward) -> tuple[str, str, str]:
    return each.tenant, each.agent_id, each.record_id


def _is_erased(each: Episode | Reward, erased: dict[tuple[str, int], int]) -> bool:
    return each.occurred_at_ms <= erased.get(_user(each), 0)


def _footprint(kind: str, each: Episode | Reward) -> Footprint:
    return Footprint(*_user(each), each.agent_id, kind, record_bucket(each.occurred_at_ms))


def _end_ms(bucket: int) -> int:
    return (bucket + 1) * RECORD_BUCKET_MS - 1
