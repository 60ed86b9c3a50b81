"""Policies, episodes and rewards as rows of the SQLite file; nothing of them is remembered beside it."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from profile_store.adapters.sqlite_interactions import user_key_of
from profile_store.adapters.sqlite_schema import key_list, tenant_number
from profile_store.domain.episodes import Episode, RecordQuery, Reward
from profile_store.domain.policies import Policy, PolicyKey, PolicyPosition, PolicyPut, PutPolicyOutcome, next_version
from servicekit.sqlite import Database

_TENANT = "(SELECT tenant_no FROM tenants WHERE name = ?)"
_OF_KEY = "tenant_no = ? AND agent_id = ? AND user_id = ? AND state = ?"
_VERSION = f"SELECT version FROM policies WHERE {_OF_KEY}"  # noqa: S608 - constants only
_CREATE = "INSERT INTO policies VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_REPLACE = f"UPDATE policies SET version = ?, updated_at_ms = ?, document = ? WHERE {_OF_KEY}"  # noqa: S608 - constants
_COLUMNS = "document, version, created_at_ms, updated_at_ms"
_GET = (
    f"SELECT {_COLUMNS} FROM policies "  # noqa: S608 - constants only
    f"WHERE tenant_no = {_TENANT} AND agent_id = ? AND user_id = ? AND state = ?"
)
_LIST = (
    f"SELECT user_id, state, {_COLUMNS} FROM policies "  # noqa: S608 - constants only
    f"WHERE tenant_no = {_TENANT} AND agent_id = ? AND (user_id, state) > (?, ?) ORDER BY user_id, state LIMIT ?"
)
_LIST_OF_USER = (
    f"SELECT user_id, state, {_COLUMNS} FROM policies "  # noqa: S608 - constants only
    f"WHERE tenant_no = {_TENANT} AND agent_id = ? AND user_id = ? AND state > ? ORDER BY state LIMIT ?"
)
_ADD_EPISODE = "INSERT INTO episodes VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
_ADD_REWARD = "INSERT INTO rewards VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
_RANGE = (
    f"WHERE tenant_no = {_TENANT} AND agent_id = ? AND user_key = ? "
    "AND (occurred_at_ms, {id}) > (?, ?) AND (occurred_at_ms, {id}) < (?, ?) "
    "ORDER BY occurred_at_ms {direction}, {id} {direction} LIMIT ?"
)
_EPISODES = "SELECT episode_id, state, action, probability, document, occurred_at_ms FROM episodes " + _RANGE  # noqa: S608
_REWARDS = "SELECT reward_id, episode_id, value, occurred_at_ms FROM rewards " + _RANGE  # noqa: S608 - constants only
_ERASE = (
    "INSERT INTO erasures VALUES (?, ?) "
    "ON CONFLICT (user_key) DO UPDATE SET erased_until_ms = max(erased_until_ms, excluded.erased_until_ms)"
)
_FORGET = (
    "DELETE FROM policies WHERE tenant_no = ? AND user_id = ? AND created_at_ms <= ?",
    "DELETE FROM episodes WHERE tenant_no = ? AND user_key = ? AND occurred_at_ms <= ?",
    "DELETE FROM rewards WHERE tenant_no = ? AND user_key = ? AND occurred_at_ms <= ?",
)


class SqlitePolicyStore:
    """Implements PolicyStore in the database of SqliteProfileStore, to whom it belongs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put_policies(self, puts: Sequence[PolicyPut], *, now_ms: int) -> Sequence[PutPolicyOutcome]:
        """See PolicyStore; all that are written are written in one transaction."""
        return await self._database.write(lambda connection: [_put(connection, put, now_ms) for put in puts])

    async def get_policies(self, keys: Sequence[PolicyKey]) -> Sequence[Policy | None]:
        """See PolicyStore."""
        return await self._database.read_in_thread(lambda connection: [_get(connection, key) for key in keys])

    async def list_policies(
        self, tenant: str, agent_id: str, user_id: str | None, *, after: PolicyPosition | None, limit: int
    ) -> Sequence[Policy]:
        """See PolicyStore; in the order of (user_id, state)."""
        start = after or PolicyPosition("", "")
        if user_id is None:
            sql, place = _LIST, (start.user_id, start.state)
        else:
            sql, place = _LIST_OF_USER, (user_id, start.state)
        parameters = (tenant, agent_id, *place, limit)
        rows = await self._database.read_in_thread(lambda connection: connection.execute(sql, parameters).fetchall())
        return [Policy(PolicyKey(tenant, agent_id, user, state), *rest) for user, state, *rest in rows]

    async def append_episodes(self, episodes: Sequence[Episode]) -> Sequence[bool]:
        """See PolicyStore."""

        def columns(each: Episode) -> tuple[object, ...]:
            return each.episode_id, each.state, each.action, each.probability, each.document

        return await self._database.write(lambda connection: _append(connection, _ADD_EPISODE, episodes, columns))

    async def append_rewards(self, rewards: Sequence[Reward]) -> Sequence[bool]:
        """See PolicyStore."""

        def columns(each: Reward) -> tuple[object, ...]:
            return each.reward_id, each.episode_id, each.value

        return await self._database.write(lambda connection: _append(connection, _ADD_REWARD, rewards, columns))

    async def list_episodes(self, query: RecordQuery) -> Sequence[Episode]:
        """See PolicyStore."""
        whose = (query.tenant, query.agent_id, query.user_id)
        rows = await self._page(_EPISODES, "episode_id", query)
        return [Episode(episode_id, *whose, *rest) for episode_id, *rest in rows]

    async def list_rewards(self, query: RecordQuery) -> Sequence[Reward]:
        """See PolicyStore."""
        whose = (query.tenant, query.agent_id, query.user_id)
        rows = await self._page(_REWARDS, "reward_id", query)
        return [Reward(reward_id, *whose, *rest) for reward_id, *rest in rows]

    async def forget_user(self, tenant: str, user_id: str, *, until_ms: int) -> None:
        """See PolicyStore."""

        def forget(connection: sqlite3.Connection) -> None:
            number, key = tenant_number(connection, tenant), user_key_of(tenant, user_id)
            connection.execute(_ERASE, (key, until_ms))
            for sql, user in zip(_FORGET, (user_id, key, key), strict=True):
                connection.execute(sql, (number, user, until_ms))

        await self._database.write(forget)

    async def _page(self, sql: str, record_id: str, query: RecordQuery) -> list[tuple[Any, ...]]:
        text = sql.format(id=record_id, direction="DESC" if query.newest_first else "ASC")
        lower, upper = query.lower, query.upper
        parameters = (
            query.tenant,
            query.agent_id,
            user_key_of(query.tenant, query.user_id),
            lower.occurred_at_ms,
            lower.record_id,
            upper.occurred_at_ms,
            upper.record_id,
            query.limit,
        )
        return await self._database.read_in_thread(lambda connection: connection.execute(text, parameters).fetchall())


def _put(connection: sqlite3.Connection, put: PolicyPut, now_ms: int) -> PutPolicyOutcome:
    key = put.key
    named = (tenant_number(connection, key.tenant), key.agent_id, key.user_id, key.state)
    row = connection.execute(_VERSION, named).fetchone()
    stored = 0 if row is None else int(row[0])
    if stored != put.expected_version:
        return PutPolicyOutcome(applied=False, version=stored)
    version = next_version(stored, now_ms)
    if row is None:
        connection.execute(_CREATE, (*named, version, now_ms, now_ms, put.document))
    else:
        connection.execute(_REPLACE, (version, now_ms, put.document, *named))
    return PutPolicyOutcome(applied=True, version=version)


def _get(connection: sqlite3.Connection, key: PolicyKey) -> Policy | None:
    row = connection.execute(_GET, (key.tenant, key.agent_id, key.user_id, key.state)).fetchone()
    return None if row is None else Policy(key, *row)


def _append(
    connection: sqlite3.Connection,
    sql: str,
    records: Sequence[Any],
    columns: Callable[[Any], tuple[object, ...]],
) -> list[bool]:
    keys = [user_key_of(each.tenant, each.user_id) for each in records]
    erased = dict(
        connection.execute(
            "SELECT user_key, erased_until_ms FROM erasures WHERE user_key IN (SELECT value FROM json_each(?))",
            (key_list(set(keys)),),
        ).fetchall()
    )
    applied: list[bool] = []
    for each, key in zip(records, keys, strict=True):
        if each.occurred_at_ms <= erased.get(key, 0):
            applied.append(False)
            continue
        number = tenant_number(connection, each.tenant)
        row = (number, each.agent_id, key, each.occurred_at_ms, *columns(each))
        applied.append(connection.execute(sql, row).rowcount == 1)
    return applied
