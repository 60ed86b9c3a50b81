"""Items as rows: writing them, and reading them back."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from profile_store.adapters.sqlite_schema import key_list, tenant_number
from profile_store.domain.items import Item, ItemRef, is_superseded
from profile_store.domain.ports import PutOutcome
from servicekit.identity import item_key

item_key_of = lru_cache(maxsize=32_768)(item_key)

_COLUMNS = (
    "i.item_key, t.name, i.item_type, i.item_id, "
    "i.updated_at_ms, i.hidden, i.available_from_ms, i.available_until_ms, i.body"
)
BY_KEYS = (
    f"SELECT {_COLUMNS} FROM items i JOIN tenants t USING (tenant_no) "  # noqa: S608 - constants only
    "WHERE i.item_key IN (SELECT value FROM json_each(?)) AND i.body IS NOT NULL"
)
_BY_NAME = (
    f"SELECT {_COLUMNS} FROM items i JOIN tenants t USING (tenant_no) "  # noqa: S608 - constants only
    "WHERE t.name = ? AND i.body IS NOT NULL AND (i.item_type, i.item_id) > (?, ?) "
    "{of_type} ORDER BY i.item_type, i.item_id LIMIT ?"
)
_WRITE = """
INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (item_key) DO UPDATE SET updated_at_ms = excluded.updated_at_ms, hidden = excluded.hidden,
    available_from_ms = excluded.available_from_ms, available_until_ms = excluded.available_until_ms,
    body = excluded.body
"""


@dataclass(slots=True)
class _State:
    """What is stored of an item, or will be: its time, and the further columns, without a body when it is gone."""

    updated_at_ms: int
    columns: tuple[Any, ...]

    @property
    def exists(self) -> bool:
        return self.columns[-1] is not None


_GONE = (0, None, None, None)


@dataclass(frozen=True, slots=True)
class PutItems:
    """What became of each item, and the state of those that changed."""

    outcomes: list[PutOutcome]
    changed: dict[int, Item]


def put_items(connection: sqlite3.Connection, items: Sequence[Item]) -> PutItems:
    """Write items; the same state again writes nothing."""
    keys = [item_key_of(item.tenant, item.item_type, item.item_id) for item in items]
    states = _states(connection, keys)
    outcomes: list[PutOutcome] = []
    changed: dict[int, Item] = {}
    for key, item in zip(keys, items, strict=True):
        stored = states.get(key)
        if stored is not None and is_superseded(stored.updated_at_ms, item.updated_at_ms):
            outcomes.append(PutOutcome(applied=False, created=False))
            continue
        outcomes.append(PutOutcome(applied=True, created=stored is None or not stored.exists))
        state = _State(item.updated_at_ms, _to_columns(item))
        if state != stored:
            states[key] = state
            changed[key] = item
    _write(connection, ((key, item.ref, states[key]) for key, item in changed.items()))
    return PutItems(outcomes, changed)


def delete_items(connection: sqlite3.Connection, refs: Sequence[ItemRef], occurred_at_ms: int) -> list[bool]:
    """Delete items and remember when; tell which were there."""
    keys = [item_key_of(ref.tenant, ref.item_type, ref.item_id) for ref in refs]
    states = _states(connection, keys)
    deleted: list[bool] = []
    gone: dict[int, ItemRef] = {}
    for key, ref in zip(keys, refs, strict=True):
        stored = states.get(key)
        if stored is not None and is_superseded(stored.updated_at_ms, occurred_at_ms):
            deleted.append(False)
            continue
        deleted.append(stored is not None and stored.exists)
        states[key] = _State(occurred_at_ms, _GONE)
        gone[key] = ref
    _write(connection, ((key, ref, states[key]) for key, ref in gone.items()))
    return deleted


def list_items(
    connection: sqlite3.Connection, tenant: str, item_type: str | None, after: tuple[str, str] | None, limit: int
) -> list[Item]:
    """Read the next items by (item_type, item_id)."""
    of_type = "" if item_type is None else "AND i.item_type = ?"
    types = () if item_type is None else (item_type,)
    rows = connection.execute(_BY_NAME.format(of_type=of_type), (tenant, *(after or ("", "")), *types, limit))
    return [item_from_row(row) for row in rows]


def item_from_row(row: tuple[Any, ...]) -> Item:
    """Read an item from the columns of BY_KEYS, of which the first is its key."""
    _, tenant, item_type, item_id, updated_at_ms, hidden, available_from_ms, available_until_ms, body = row
    title, description, attributes, created_at_ms = json.loads(body)
    return Item(
        tenant,
        item_type,
        item_id,
        title,
        description,
        {name: tuple(value) if isinstance(value, list) else value for name, value in attributes.items()},
        created_at_ms,
        available_from_ms,
        available_until_ms,
        bool(hidden),
        updated_at_ms,
    )


def _to_columns(item: Item) -> tuple[Any, ...]:
    content = (item.title, item.description, dict(item.attributes), item.created_at_ms)
    body = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return int(item.hidden), item.available_from_ms, item.available_until_ms, body


def _states(connection: sqlite3.Connection, keys: Sequence[int]) -> dict[int, _State]:
    rows = connection.execute(
        "SELECT item_key, updated_at_ms, hidden, available_from_ms, available_until_ms, body FROM items "
        "WHERE item_key IN (SELECT value FROM json_each(?))",
        (key_list(keys),),
    )
    return {row[0]: _State(row[1], row[2:]) for row in rows}


def _write(connection: sqlite3.Connection, states: Iterable[tuple[int, ItemRef, _State]]) -> None:
    tenants: dict[str, int] = {}
    rows = []
    for key, ref, state in states:
        if ref.tenant not in tenants:
            tenants[ref.tenant] = tenant_number(connection, ref.tenant)
        rows.append((key, tenants[ref.tenant], ref.item_type, ref.item_id, state.updated_at_ms, *state.columns))
    connection.executemany(_WRITE, rows)
