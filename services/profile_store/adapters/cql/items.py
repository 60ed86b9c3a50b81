"""Items: each one cell, written with its own time as the timestamp, so that the last writer by time wins in the store.

Two states of one time are told apart by the three digits below the millisecond: the later arrival reads the timestamp
of the stored state and takes the next one. After a thousand states of one time the larger one stays.
"""

import heapq
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from profile_store.adapters.cql.session import CqlSession, Row, Statement, chunks, gather
from profile_store.domain.items import Item, ItemRef, is_superseded
from profile_store.domain.ports import PutOutcome

NAME_SHARDS = 16
_KEYS_READ_TOGETHER = 32
_TIES = 1_000

_STATES = Statement("SELECT item_key, state, WRITETIME(state) FROM items WHERE item_key IN ?")
_ITEMS = Statement("SELECT item_key, tenant, item_type, item_id, state FROM items WHERE item_key IN ?")
_PUT = Statement(
    "INSERT INTO items (item_key, tenant, item_type, item_id, state) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?", "write"
)
_NAME = Statement(
    "INSERT INTO item_names (tenant, shard, item_type, item_id) VALUES (?, ?, ?, ?) USING TIMESTAMP ?", "write"
)
_UNNAME = Statement(
    "DELETE FROM item_names USING TIMESTAMP ? WHERE tenant = ? AND shard = ? AND item_type = ? AND item_id = ?", "write"
)
_NAMES = Statement(
    "SELECT item_type, item_id FROM item_names WHERE tenant = ? AND shard = ? AND (item_type, item_id) > (?, ?)", "scan"
)
_NAMES_OF_TYPE = Statement(
    "SELECT item_type, item_id FROM item_names WHERE tenant = ? AND shard = ? AND item_type = ? AND item_id > ?", "scan"
)
STATEMENTS = (_STATES, _ITEMS, _PUT, _NAME, _UNNAME, _NAMES, _NAMES_OF_TYPE)


@dataclass(frozen=True, slots=True)
class _State:
    """What is stored of an item, or will be."""

    updated_at_ms: int
    timestamp: int
    content: str

    @property
    def exists(self) -> bool:
        return self.content.startswith("[")


_NOTHING = _State(0, 0, "")


@dataclass(frozen=True, slots=True)
class _Change:
    key: int
    ref: ItemRef
    state: _State


async def put_items(cql: CqlSession, items: Sequence[Item]) -> tuple[list[PutOutcome], set[tuple[str, int]]]:
    """Write items; give what became of each, and the tenants and keys of what may have changed."""
    keys = [item.ref.key for item in items]
    states = await _states(cql, keys)
    outcomes: list[PutOutcome] = []
    changes: dict[int, _Change] = {}
    for key, item in zip(keys, items, strict=True):
        stored = states.get(key, _NOTHING)
        if is_superseded(stored.updated_at_ms, item.updated_at_ms):
            outcomes.append(PutOutcome(applied=False, created=False))
            continue
        outcomes.append(PutOutcome(applied=True, created=not stored.exists))
        content = _content(item)
        if content != stored.content:
            states[key] = _State(item.updated_at_ms, _timestamp(item.updated_at_ms, stored), content)
        changes[key] = _Change(key, item.ref, states[key])
    await _write(cql, list(changes.values()))
    return outcomes, {(change.ref.tenant, change.key) for change in changes.values()}


async def delete_items(
    cql: CqlSession, refs: Sequence[ItemRef], occurred_at_ms: int
) -> tuple[list[bool], set[tuple[str, int]]]:
    """Delete items and remember when; tell which were there, and the tenants and keys of what may have changed."""
    keys = [ref.key for ref in refs]
    states = await _states(cql, keys)
    deleted: list[bool] = []
    changes: dict[int, _Change] = {}
    for key, ref in zip(keys, refs, strict=True):
        stored = states.get(key, _NOTHING)
        if is_superseded(stored.updated_at_ms, occurred_at_ms):
            deleted.append(False)
            continue
        deleted.append(stored.exists)
        if stored.exists or stored.updated_at_ms < occurred_at_ms:
            states[key] = _State(occurred_at_ms, _timestamp(occurred_at_ms, stored), f"{occurred_at_ms}")
        changes[key] = _Change(key, ref, states[key])
    await _write(cql, list(changes.values()))
    return deleted, {(change.ref.tenant, change.key) for change in changes.values()}


async def get_items(cql: CqlSession, keys: Sequence[int]) -> list[Item]:
    """Read the items that exist, in the order asked."""
    parts = chunks(list(dict.fromkeys(keys)), _KEYS_READ_TOGETHER)
    found: dict[int, Item] = {}
    for rows in await gather(cql.rows(_ITEMS, list(part)) for part in parts):
        found.update((row[0], _item(row)) for row in rows if _is_item(row[4]))
    return [found[key] for key in keys if key in found]


async def list_items(
    cql: CqlSession, tenant: str, item_type: str | None, after: tuple[str, str] | None, limit: int
) -> list[Item]:
    """Read the next items by (item_type, item_id): the shards' names, each in order, are merged."""
    items: list[Item] = []
    following = after
    while len(items) < limit:
        refs = await _next_names(cql, tenant, item_type, following, limit - len(items))
        if not refs:
            break
        items += await get_items(cql, [ref.key for ref in refs])  # without those deleted since
        following = refs[-1].item_type, refs[-1].item_id
    return items


async def _next_names(
    cql: CqlSession, tenant: str, item_type: str | None, after: tuple[str, str] | None, limit: int
) -> list[ItemRef]:
    shards = [_Shard(cql, tenant, shard, item_type, after, limit) for shard in range(NAME_SHARDS)]
    await gather(shard.advance() for shard in shards)
    heads = [(shard.head, number) for number, shard in enumerate(shards) if shard.head is not None]
    heapq.heapify(heads)
    refs: list[ItemRef] = []
    while heads and len(refs) < limit:
        name, number = heads[0]
        refs.append(ItemRef(tenant, *name))
        await shards[number].advance()
        head = shards[number].head
        if head is None:
            heapq.heappop(heads)
        else:
            heapq.heapreplace(heads, (head, number))
    return refs


class _Shard:
    """The names of one shard, in order; `head` is the next one once `advance` was called."""

    def __init__(
        self,
        cql: CqlSession,
        tenant: str,
        shard: int,
        item_type: str | None,
        after: tuple[str, str] | None,
        limit: int,
    ) -> None:
        self.head: tuple[str, str] | None = None
        self._page: Sequence[Row] = ()
        self._place = 0
        page_rows = 2 * limit // NAME_SHARDS + 16  # what a shard is likely to give, and some more
        if item_type is None:
            pages = cql.pages(_NAMES, tenant, shard, *(after or ("", "")), page_rows=page_rows)
        else:
            # Types are compared as texts too: a position beyond this type leaves nothing of it.
            start = "" if after is None or after[0] < item_type else after[1]
            done = after is not None and after[0] > item_type
            pages = _none() if done else cql.pages(_NAMES_OF_TYPE, tenant, shard, item_type, start, page_rows=page_rows)
        self._pages = pages

    async def advance(self) -> None:
        while self._place == len(self._page):
            page = await anext(self._pages, None)
            if page is None:
                self.head = None
                return
            self._page, self._place = page, 0
        item_type, item_id = self._page[self._place]
        self.head = item_type, item_id
        self._place += 1


async def _none() -> AsyncIterator[list[Row]]:
    pages: Sequence[list[Row]] = ()
    for page in pages:
        yield page


async def _states(cql: CqlSession, keys: Sequence[int]) -> dict[int, _State]:
    parts = chunks(list(dict.fromkeys(keys)), _KEYS_READ_TOGETHER)
    return {
        row[0]: _State(_time_of(row[1]), row[2], row[1])
        for rows in await gather(cql.rows(_STATES, list(part)) for part in parts)
        for row in rows
        if row[1]
    }


async def _write(cql: CqlSession, changes: Sequence[_Change]) -> None:
    """Write names before states: a name without an item is passed over, an item without a name is never listed."""
    names, gone, states = [], [], []
    for key, ref, state in ((change.key, change.ref, change.state) for change in changes):
        place = (ref.tenant, name_shard(ref), ref.item_type, ref.item_id)
        if state.exists:
            names.append((*place, state.timestamp))
        else:
            gone.append((state.timestamp, *place))
        states.append((key, ref.tenant, ref.item_type, ref.item_id, state.content, state.timestamp))
    await cql.write_all(_NAME, names)
    await cql.write_all(_PUT, states)
    await cql.write_all(_UNNAME, gone)


def name_shard(ref: ItemRef) -> int:
    """Give the shard of an item's name; stored data depends on it."""
    return blake2b(f"{ref.item_type}\n{ref.item_id}".encode(), digest_size=1).digest()[0] % NAME_SHARDS


def _timestamp(time_ms: int, stored: _State) -> int:
    ties = min(stored.timestamp % _TIES + 1, _TIES - 1) if stored.updated_at_ms == time_ms else 0
    return time_ms * _TIES + ties


def _content(item: Item) -> str:
    """Write a state: a JSON list; a deletion is only a number, its time."""
    parts: list[Any] = [
        item.updated_at_ms,
        item.hidden,
        item.available_from_ms,
        item.available_until_ms,
        item.title,
        item.description,
        dict(item.attributes),
        item.created_at_ms,
    ]
    return json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _is_item(content: str | None) -> bool:
    return content is not None and content.startswith("[")


def _time_of(content: str) -> int:
    start = 1 if content.startswith("[") else 0
    return int(content[start:].partition(",")[0])


def _item(row: Row) -> Item:
    _, tenant, item_type, item_id, content = row
    updated_at_ms, hidden, available_from_ms, available_until_ms, title, description, attributes, created_at_ms = (
        json.loads(content)
    )
    return Item(
        tenant,
        item_type,
        item_id,
        title,
        description,
        _attributes(attributes),
        created_at_ms,
        available_from_ms,
        available_until_ms,
        hidden,
        updated_at_ms,
    )


def _attributes(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
