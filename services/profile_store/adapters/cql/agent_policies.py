"""Policies of agents: compare-and-set by conditional statements, and lists by their names.

A name is written before its policy: one without a policy is passed over, a policy without a name is never listed.
"""

from collections.abc import Sequence
from hashlib import blake2b

from profile_store.adapters.cql import footprints
from profile_store.adapters.cql.footprints import POLICIES, Footprint, timestamp
from profile_store.adapters.cql.histories import user_key_of
from profile_store.adapters.cql.session import CqlSession, Statement, gather
from profile_store.domain.policies import (
    EVERYBODY,
    Policy,
    PolicyKey,
    PolicyPosition,
    PolicyPut,
    PutPolicyOutcome,
    next_version,
)

POLICY_SHARDS = 64
_SHARDS_AT_ONCE = 16
_ERASED_AT_ONCE = 500

_OF_KEY = "WHERE tenant = ? AND agent_id = ? AND user_id = ? AND state = ?"
_GET = Statement(f"SELECT document, version, created_at_ms, updated_at_ms FROM policies {_OF_KEY}")  # noqa: S608
_VERSION = Statement(f"SELECT version FROM policies {_OF_KEY}")  # noqa: S608 - constants only, here and below
_CREATE = Statement(
    "INSERT INTO policies (tenant, agent_id, user_id, state, version, created_at_ms, updated_at_ms, document) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS",
    "conditional",
)
_REPLACE = Statement(
    f"UPDATE policies SET version = ?, updated_at_ms = ?, document = ? {_OF_KEY} IF version = ?",  # noqa: S608
    "conditional",
)
_ERASE = Statement(f"DELETE FROM policies {_OF_KEY} IF created_at_ms <= ?", "conditional")  # noqa: S608
_NAME = Statement(
    "INSERT INTO policy_names (tenant, agent_id, shard, user_id, state) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?",
    "write",
)
_NAMES = Statement(
    "SELECT user_id, state FROM policy_names "
    "WHERE tenant = ? AND agent_id = ? AND shard = ? AND (user_id, state) > (?, ?) LIMIT ?"
)
_NAMES_OF_USER = Statement(
    "SELECT user_id, state FROM policy_names "
    "WHERE tenant = ? AND agent_id = ? AND shard = ? AND user_id = ? AND state > ? LIMIT ?"
)
_UNNAME = Statement(
    "DELETE FROM policy_names USING TIMESTAMP ? WHERE tenant = ? AND agent_id = ? AND shard = ? AND user_id = ?",
    "write",
)
STATEMENTS = (_GET, _VERSION, _CREATE, _REPLACE, _ERASE, _NAME, _NAMES, _NAMES_OF_USER, _UNNAME)


def policy_shard(user_id: str) -> int:
    """Give the shard of the names of a user's policies; stored data depends on it."""
    return blake2b(user_id.encode(), digest_size=1).digest()[0] % POLICY_SHARDS


async def put_policies(cql: CqlSession, puts: Sequence[PolicyPut], now_ms: int) -> list[PutPolicyOutcome]:
    """Write each policy whose stored version is the expected one."""
    return await gather(
        _replace(cql, put, now_ms) if put.expected_version else _create(cql, put, now_ms) for put in puts
    )


async def get_policies(cql: CqlSession, keys: Sequence[PolicyKey]) -> list[Policy | None]:
    """Read policies."""
    return await gather(_get(cql, key) for key in keys)


async def list_policies(
    cql: CqlSession, tenant: str, agent_id: str, user_id: str | None, after: PolicyPosition | None, limit: int
) -> list[Policy]:
    """Read the next policies: of one user by state, of all shard after shard and in each by user and state."""
    found: list[Policy] = []
    following = after
    while len(found) < limit:
        if user_id is None:
            names = await _next_names(cql, tenant, agent_id, following, limit - len(found))
        else:
            names = await _names_of_user(cql, tenant, agent_id, user_id, following, limit - len(found))
        if not names:
            break
        policies = await get_policies(cql, names)
        found += [policy for policy in policies if policy is not None]
        following = PolicyPosition(names[-1].user_id, names[-1].state)
    return found


async def erase_policies(cql: CqlSession, footprint: Footprint, user_id: str, until_ms: int) -> None:
    """Delete the policies of an agent for a user that were created up to a moment, and then their names.

    A policy that was created later stays, and so does its name, whose timestamp is later too.
    """
    tenant, agent_id = footprint.tenant, footprint.agent_id
    after: PolicyPosition | None = None
    while names := await _names_of_user(cql, tenant, agent_id, user_id, after, _ERASED_AT_ONCE):
        await gather(cql.write_if(_ERASE, *_columns(name), until_ms) for name in names)
        after = PolicyPosition(user_id, names[-1].state)
    await cql.write(_UNNAME, timestamp(until_ms), tenant, agent_id, policy_shard(user_id), user_id)
    await footprints.delete(cql, footprint, until_ms)


async def _create(cql: CqlSession, put: PolicyPut, now_ms: int) -> PutPolicyOutcome:
    stored = await _version(cql, put.key)
    if stored:
        return PutPolicyOutcome(applied=False, version=stored)
    key = put.key
    await cql.write(
        _NAME, key.tenant, key.agent_id, policy_shard(key.user_id), key.user_id, key.state, timestamp(now_ms)
    )
    if key.user_id != EVERYBODY:
        footprint = Footprint(key.tenant, user_key_of(key.tenant, key.user_id), key.agent_id, POLICIES)
        await footprints.put(cql, {footprint: (now_ms, 0)})
    version = next_version(0, now_ms)
    applied, *_ = await cql.write_if(_CREATE, *_columns(key), version, now_ms, now_ms, put.document)
    if applied:
        return PutPolicyOutcome(applied=True, version=version)
    return PutPolicyOutcome(applied=False, version=await _version(cql, key))


async def _replace(cql: CqlSession, put: PolicyPut, now_ms: int) -> PutPolicyOutcome:
    version = next_version(put.expected_version, now_ms)
    applied, *stored = await cql.write_if(
        _REPLACE, version, now_ms, put.document, *_columns(put.key), put.expected_version
    )
    if applied:
        return PutPolicyOutcome(applied=True, version=version)
    # Where there is no row, Cassandra gives no version and Scylla a null.
    return PutPolicyOutcome(applied=False, version=(stored[0] if stored else None) or 0)


async def _version(cql: CqlSession, key: PolicyKey) -> int:
    rows = await cql.rows(_VERSION, *_columns(key))
    return int(rows[0][0]) if rows else 0


async def _get(cql: CqlSession, key: PolicyKey) -> Policy | None:
    rows = await cql.rows(_GET, *_columns(key))
    return Policy(key, *rows[0]) if rows else None


async def _next_names(
    cql: CqlSession, tenant: str, agent_id: str, after: PolicyPosition | None, limit: int
) -> list[PolicyKey]:
    """Read the next names of an agent; none only when there are no more."""
    shard = 0 if after is None else policy_shard(after.user_id)
    start = after or PolicyPosition("", "")
    while shard < POLICY_SHARDS:
        shards = range(shard, min(shard + _SHARDS_AT_ONCE, POLICY_SHARDS))
        parts = await gather(
            # The position is one in the first shard; the others begin at their beginning.
            cql.rows(_NAMES, tenant, agent_id, each, *_place(start if each == shard else None), limit)
            for each in shards
        )
        names = [PolicyKey(tenant, agent_id, *row) for part in parts for row in part]
        if names:
            return names[:limit]
        shard, start = shards[-1] + 1, PolicyPosition("", "")
    return []


async def _names_of_user(
    cql: CqlSession, tenant: str, agent_id: str, user_id: str, after: PolicyPosition | None, limit: int
) -> list[PolicyKey]:
    start = "" if after is None else after.state
    rows = await cql.rows(_NAMES_OF_USER, tenant, agent_id, policy_shard(user_id), user_id, start, limit)
    return [PolicyKey(tenant, agent_id, *row) for row in rows]


def _place(position: PolicyPosition | None) -> tuple[str, str]:
    return ("", "") if position is None else (position.user_id, position.state)


def _columns(key: PolicyKey) -> tuple[str, str, str, str]:
    return key.tenant, key.agent_id, key.user_id, key.state
