"""The sums of popularity as rows; each change is told, so that what is kept in memory can follow."""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import numpy.typing as npt

from profile_store.adapters.sqlite_schema import key_list
from profile_store.domain.interactions import InteractionType
from profile_store.domain.popularity import WINDOWS, DecayedSums, Window

Deed = tuple[int, int, float | None, int]
"""Item key, type number, value and time of one interaction."""

_READ = (
    "SELECT item_key, reference_ms, hour, day, week, month, total FROM popularity "
    "WHERE item_key IN (SELECT value FROM json_each(?))"
)
_WRITE = """
INSERT INTO popularity VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (item_key) DO UPDATE SET reference_ms = excluded.reference_ms, hour = excluded.hour, day = excluded.day,
    week = excluded.week, month = excluded.month, total = excluded.total
"""
_REBUILT_AT_ONCE = 50_000


@dataclass(frozen=True, slots=True, eq=False)
class ChangedSums:
    """The new sums of some items; `complete` when all other items of the tenant have none."""

    tenant: str
    keys: list[int]
    sums: DecayedSums
    complete: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Shares:
    """What deeds of positive weight add to which of `keys`."""

    keys: list[int]
    rows: npt.NDArray[np.intp]
    times_ms: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]


def add(
    connection: sqlite3.Connection,
    tenant: str,
    tenant_no: int,
    kinds: Mapping[int, InteractionType],
    deeds: Sequence[Deed],
) -> ChangedSums:
    """Count interactions, in any order of time."""
    shares = _shares(kinds, deeds)
    sums = _read(connection, shares.keys).add(shares.rows, shares.times_ms, shares.weights)
    _write(connection, tenant_no, shares.keys, sums)
    return ChangedSums(tenant, shares.keys, sums)


def subtract(
    connection: sqlite3.Connection,
    tenant: str,
    tenant_no: int,
    kinds: Mapping[int, InteractionType],
    deeds: Sequence[Deed],
) -> ChangedSums:
    """Take back interactions that were counted."""
    shares = _shares(kinds, deeds)
    sums = _read(connection, shares.keys).subtract(shares.rows, shares.times_ms, shares.weights)
    _write(connection, tenant_no, shares.keys, sums)
    connection.execute(
        "DELETE FROM popularity WHERE total = 0 AND item_key IN (SELECT value FROM json_each(?))",
        (key_list(shares.keys),),
    )
    return ChangedSums(tenant, shares.keys, sums)


def rebuild(
    connection: sqlite3.Connection, tenant: str, tenant_no: int, kinds: Mapping[int, InteractionType]
) -> ChangedSums:
    """Count all of a tenant's interactions anew, about a second for each million."""
    connection.execute("DELETE FROM popularity WHERE tenant_no = ?", (tenant_no,))
    stored = connection.execute(
        "SELECT item_key, type_no, value, occurred_at_ms FROM interactions WHERE tenant_no = ?", (tenant_no,)
    )
    while deeds := stored.fetchmany(_REBUILT_AT_ONCE):
        add(connection, tenant, tenant_no, kinds, deeds)
    rows = connection.execute(
        "SELECT item_key, reference_ms, hour, day, week, month, total FROM popularity WHERE tenant_no = ?", (tenant_no,)
    ).fetchall()
    return ChangedSums(
        tenant, [row[0] for row in rows], DecayedSums.from_rows([row[1:] for row in rows]), complete=True
    )


def _shares(kinds: Mapping[int, InteractionType], deeds: Sequence[Deed]) -> _Shares:
    rows_of: dict[int, int] = {}
    rows: list[int] = []
    times: list[int] = []
    weights: list[float] = []
    for item_key, number, value, time_ms in deeds:
        weight = kinds[number].weigh(value)
        if weight > 0.0:
            rows.append(rows_of.setdefault(item_key, len(rows_of)))
            times.append(time_ms)
            weights.append(weight)
    return _Shares(
        list(rows_of),
        np.array(rows, dtype=np.intp),
        np.array(times, dtype=np.int64),
        np.array(weights, dtype=np.float64),
    )


def _read(connection: sqlite3.Connection, keys: list[int]) -> DecayedSums:
    known = {row[0]: row[1:] for row in connection.execute(_READ, (key_list(keys),))}
    none = (0,) * (1 + WINDOWS)
    return DecayedSums.from_rows([known.get(key, none) for key in keys])


def _write(connection: sqlite3.Connection, tenant_no: int, keys: list[int], sums: DecayedSums) -> None:
    columns = (sums.sums[:, window].tolist() for window in Window)
    connection.executemany(_WRITE, zip(keys, repeat(tenant_no), sums.reference_ms.tolist(), *columns, strict=False))
