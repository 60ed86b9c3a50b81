"""Where something of a user may lie, so that it can be listed and erased; and up to when the user was erased."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from profile_store.adapters.cql.session import CqlSession, Statement, chunks, gather

POLICIES = "policies"
_READ_TOGETHER = 32
_PAGE = 1_000

_PUT = Statement(
    "INSERT INTO footprints (tenant, user_key, agent_id, kind, bucket) VALUES (?, ?, ?, ?, ?) "
    "USING TIMESTAMP ? AND TTL ?",
    "write",
)
_BUCKETS = Statement("SELECT bucket FROM footprints WHERE tenant = ? AND user_key = ? AND agent_id = ? AND kind = ?")
_OF_USER = Statement("SELECT agent_id, kind, bucket FROM footprints WHERE tenant = ? AND user_key = ?")
_DELETE = Statement(
    "DELETE FROM footprints USING TIMESTAMP ? "
    "WHERE tenant = ? AND user_key = ? AND agent_id = ? AND kind = ? AND bucket = ?",
    "write",
)
_PUT_ERASURE = Statement(
    "INSERT INTO footprint_erasures (tenant, user_key, until_ms) VALUES (?, ?, ?) USING TIMESTAMP ?", "write"
)
_ERASURES = Statement("SELECT user_key, until_ms FROM footprint_erasures WHERE tenant = ? AND user_key IN ?")
STATEMENTS = (_PUT, _BUCKETS, _OF_USER, _DELETE, _PUT_ERASURE, _ERASURES)


@dataclass(frozen=True, slots=True)
class Footprint:
    """A partition, or an agent's policies, in which something of a user may lie."""

    tenant: str
    user_key: int
    agent_id: str
    kind: str
    bucket: int = 0


def timestamp(time_ms: int) -> int:
    """Give the write timestamp of a time."""
    return time_ms * 1_000


async def put(cql: CqlSession, footprints: Mapping[Footprint, tuple[int, int]]) -> None:
    """Write footprints, each with the time in milliseconds and the TTL in seconds that it has."""
    await cql.write_all(
        _PUT,
        [
            (each.tenant, each.user_key, each.agent_id, each.kind, each.bucket, timestamp(time_ms), ttl_s)
            for each, (time_ms, ttl_s) in footprints.items()
        ],
    )


async def delete(cql: CqlSession, each: Footprint, until_ms: int) -> None:
    """Delete a footprint if its time lies not after that."""
    await cql.write(_DELETE, timestamp(until_ms), each.tenant, each.user_key, each.agent_id, each.kind, each.bucket)


async def buckets(cql: CqlSession, tenant: str, user_key: int, agent_id: str, kind: str) -> list[int]:
    """Read in which buckets an agent may have something of a user, oldest first."""
    return [row[0] for row in await cql.rows(_BUCKETS, tenant, user_key, agent_id, kind)]


async def of_user(cql: CqlSession, tenant: str, user_key: int) -> list[Footprint]:
    """Read all footprints of a user."""
    return [
        Footprint(tenant, user_key, *row)
        async for page in cql.pages(_OF_USER, tenant, user_key, page_rows=_PAGE)
        for row in page
    ]


async def put_erasure(cql: CqlSession, tenant: str, user_key: int, until_ms: int) -> None:
    """Remember up to when a user is erased; the latest moment stays."""
    await cql.write(_PUT_ERASURE, tenant, user_key, until_ms, timestamp(until_ms))


async def erased_until(cql: CqlSession, users: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """Read up to when users were erased; those that never were are missing."""
    by_tenant: dict[str, set[int]] = {}
    for tenant, user_key in users:
        by_tenant.setdefault(tenant, set()).add(user_key)

    async def read(tenant: str, keys: Sequence[int]) -> list[tuple[tuple[str, int], int]]:
        return [((tenant, row[0]), row[1]) for row in await cql.rows(_ERASURES, tenant, list(keys))]

    parts = await gather(
        read(tenant, part) for tenant, keys in by_tenant.items() for part in chunks(list(keys), _READ_TOGETHER)
    )
    return {user: until_ms for part in parts for user, until_ms in part}
