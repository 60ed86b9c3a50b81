"""Interactions, their types and their erasure as rows; each function runs inside one transaction."""

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from profile_store.adapters import sqlite_popularity as popularity
from profile_store.adapters.sqlite_items import item_key_of
from profile_store.adapters.sqlite_popularity import ChangedSums
from profile_store.adapters.sqlite_schema import BUILT_IN_NUMBERS, key_list, tenant_number
from profile_store.domain.interactions import BUILT_IN_TYPES, Interaction, InteractionType
from servicekit.identity import user_key

user_key_of = lru_cache(maxsize=32_768)(user_key)

_MASK_63 = (1 << 63) - 1
TYPES = (
    "SELECT t.type_no, n.name, t.weight, t.centre, t.counts_as_seen "
    "FROM interaction_types t JOIN type_names n USING (type_no) WHERE t.tenant_no = ?"
)
_COUNT_USER = """
INSERT INTO users VALUES (?, ?, ?, ?)
ON CONFLICT (user_key) DO UPDATE SET interaction_count = interaction_count + excluded.interaction_count
"""


@dataclass(slots=True)
class Appended:
    """Which interactions are new, whose they are, and what they changed."""

    applied: list[bool]
    users: set[tuple[str, str]] = field(default_factory=set)
    sums: list[ChangedSums] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Erased:
    """How many interactions went, and what that changed."""

    count: int
    sums: ChangedSums | None


@dataclass(frozen=True, slots=True)
class PutTypes:
    """A tenant's types by number, and all its sums when stored interactions weigh differently now."""

    kinds: dict[int, InteractionType]
    sums: ChangedSums | None


def types_from_rows(rows: Sequence[tuple[Any, ...]]) -> dict[int, InteractionType]:
    """Give a tenant's types by number: the built-in ones and, over them, what the columns of TYPES say."""
    kinds = {number: BUILT_IN_TYPES[name] for number, name in BUILT_IN_NUMBERS.items()}
    for number, name, weight, centre, counts_as_seen in rows:
        kinds[number] = InteractionType(name, weight, centre, bool(counts_as_seen))
    return kinds


def read_types(connection: sqlite3.Connection, tenant_no: int) -> dict[int, InteractionType]:
    """Read a tenant's types by number; 0 is a tenant that has made none."""
    return types_from_rows(connection.execute(TYPES, (tenant_no,)).fetchall())


def append(connection: sqlite3.Connection, interactions: Sequence[Interaction]) -> Appended:
    """Store what is new, in order of arrival."""
    appended = Appended([False] * len(interactions))
    by_tenant: defaultdict[str, list[int]] = defaultdict(list)
    for place, interaction in enumerate(interactions):
        by_tenant[interaction.tenant].append(place)
    for tenant, places in by_tenant.items():
        _append_of_tenant(connection, tenant, interactions, places, appended)
    return appended


def erase_user(connection: sqlite3.Connection, tenant: str, user_id: str, until_ms: int) -> Erased:
    """Delete a user's interactions up to a moment and remember that moment."""
    tenant_no, key = tenant_number(connection, tenant), user_key_of(tenant, user_id)
    connection.execute(
        "INSERT INTO erasures VALUES (?, ?) "
        "ON CONFLICT (user_key) DO UPDATE SET erased_until_ms = max(erased_until_ms, excluded.erased_until_ms)",
        (key, until_ms),
    )
    rows = connection.execute(
        "DELETE FROM interactions WHERE tenant_no = ? AND user_key = ? AND occurred_at_ms <= ? "
        "RETURNING item_key, type_no, value, occurred_at_ms, event_id",
        (tenant_no, key, until_ms),
    ).fetchall()
    if not rows:
        return Erased(0, None)
    event_keys = _event_keys(tenant, [row[4] for row in rows])
    connection.executemany("DELETE FROM events WHERE event_key = ?", ((event_key,) for event_key in event_keys))
    connection.execute(
        "UPDATE users SET interaction_count = interaction_count - ? WHERE user_key = ?", (len(rows), key)
    )
    connection.execute("DELETE FROM users WHERE user_key = ? AND interaction_count = 0", (key,))
    kinds = read_types(connection, tenant_no)
    return Erased(len(rows), popularity.subtract(connection, tenant, tenant_no, kinds, [row[:4] for row in rows]))


def put_types(connection: sqlite3.Connection, tenant: str, kinds: Sequence[InteractionType]) -> PutTypes:
    """Write types, and count popularity anew when one of them weighed differently before."""
    tenant_no = tenant_number(connection, tenant)
    before = {kind.name: kind for kind in read_types(connection, tenant_no).values()}
    connection.executemany("INSERT OR IGNORE INTO type_names (name) VALUES (?)", ((kind.name,) for kind in kinds))
    connection.executemany(
        "INSERT OR REPLACE INTO interaction_types SELECT ?, type_no, ?, ?, ? FROM type_names WHERE name = ?",
        ((tenant_no, kind.weight, kind.centre, int(kind.counts_as_seen), kind.name) for kind in kinds),
    )
    after = read_types(connection, tenant_no)
    weighs_differently = any(
        kind.name in before and (before[kind.name].weight, before[kind.name].centre) != (kind.weight, kind.centre)
        for kind in kinds
    )
    sums = popularity.rebuild(connection, tenant, tenant_no, after) if weighs_differently else None
    return PutTypes(after, sums)


def _append_of_tenant(
    connection: sqlite3.Connection,
    tenant: str,
    interactions: Sequence[Interaction],
    places: Sequence[int],
    appended: Appended,
) -> None:
    user_keys = {place: user_key_of(tenant, interactions[place].user_id) for place in places}
    erased = dict(
        connection.execute(
            "SELECT user_key, erased_until_ms FROM erasures WHERE user_key IN (SELECT value FROM json_each(?))",
            (key_list(set(user_keys.values())),),
        ).fetchall()
    )
    if erased:
        places = [p for p in places if interactions[p].occurred_at_ms > erased.get(user_keys[p], 0)]
    first_place: dict[int, int] = {}
    for event_key, place in zip(
        _event_keys(tenant, [interactions[place].event_id for place in places]), places, strict=True
    ):
        first_place.setdefault(event_key, place)
    new = connection.execute(
        "INSERT OR IGNORE INTO events SELECT value FROM json_each(?) RETURNING event_key", (key_list(first_place),)
    ).fetchall()
    if not new:
        return
    tenant_no = tenant_number(connection, tenant)
    kinds = read_types(connection, tenant_no)
    numbers = {kind.name: number for number, kind in kinds.items()}
    (arrival,) = connection.execute(
        "UPDATE arrivals SET last = last + ? RETURNING last - ?", (len(new), len(new))
    ).fetchone()
    rows = []
    items: dict[int, tuple[int, int, str, str]] = {}
    counts: Counter[tuple[int, int, str]] = Counter()
    for place in sorted(first_place[event_key] for (event_key,) in new):
        did = interactions[place]
        arrival += 1
        user, item = user_keys[place], item_key_of(tenant, did.item_type, did.item_id)
        items[item] = (item, tenant_no, did.item_type, did.item_id)
        counts[user, tenant_no, did.user_id] += 1
        number = numbers[did.interaction_type]
        rows.append((tenant_no, user, did.occurred_at_ms, arrival, item, number, did.value, did.event_id))
        appended.applied[place] = True
    appended.users.update((tenant, user_id) for _, _, user_id in counts)
    connection.executemany(
        "INSERT OR IGNORE INTO items (item_key, tenant_no, item_type, item_id) VALUES (?, ?, ?, ?)",
        sorted(items.values()),
    )
    connection.executemany(_COUNT_USER, sorted((*user, count) for user, count in counts.items()))
    # Sorted, so that rows that lie together are written together.
    connection.executemany("INSERT INTO interactions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", sorted(rows))
    deeds = [(row[4], row[5], row[6], row[2]) for row in rows]
    appended.sums.append(popularity.add(connection, tenant, tenant_no, kinds, deeds))


def _event_keys(tenant: str, event_ids: Sequence[str]) -> list[int]:
    """Hash event ids to 63 bits: two of 100 million events collide with a chance of 5 in 10,000."""
    name = tenant.encode()
    prefix = blake2b(len(name).to_bytes(4, "little") + name, digest_size=8)
    keys = []
    for event_id in event_ids:
        digest = prefix.copy()
        digest.update(event_id.encode())
        keys.append(int.from_bytes(digest.digest(), "little") & _MASK_63)
    return keys
