"""The store in one SQLite file: rows are the truth, and what is read most is kept in memory beside them.

One process owns the file; it holds a lock on it. Everything in memory (contexts, items, types, the popular items) is
brought up to date on the event loop after a write was committed and before the write returns, in the order of the
commits. Look-ups on the event loop read and remember in one go, without an await in between. So nothing that is
remembered is older than a write that has returned.
"""

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from profile_store.adapters import sqlite_interactions, sqlite_items
from profile_store.adapters.lru import Lru
from profile_store.adapters.sqlite_interactions import Appended, Erased, PutTypes, user_key_of
from profile_store.adapters.sqlite_items import PutItems, item_from_row
from profile_store.adapters.sqlite_policies import SqlitePolicyStore
from profile_store.adapters.sqlite_popularity import ChangedSums
from profile_store.adapters.sqlite_schema import MIGRATIONS, key_list
from profile_store.domain.contexts import MAX_ROWS, ContextQuery, History, UserContext, build_history
from profile_store.domain.interactions import (
    ExportPosition,
    Interaction,
    InteractionColumns,
    InteractionType,
    Position,
    StoredInteraction,
    UserCount,
    weigh_columns,
)
from profile_store.domain.items import Item, ItemRef
from profile_store.domain.popularity import DecayedSums, PopularityList, PopularityQuery
from profile_store.domain.ports import PutOutcome
from profile_store.domain.top_items import Listing, TopItems
from servicekit.errors import FailedPreconditionError
from servicekit.sqlite import Database, Synchronous

T = TypeVar("T")

_ITEMS_READ_AT_ONCE = 256
_ROWS_READ_AT_ONCE = 2_000
"""After so many rows on the event loop others get their turn: about two milliseconds."""

_CONTEXT = (
    "SELECT item_key, type_no, value, occurred_at_ms FROM interactions WHERE tenant_no = ? AND user_key = ? "
    "ORDER BY occurred_at_ms DESC, arrival DESC LIMIT ?"
)
_LIST = (
    "SELECT i.event_id, n.item_type, n.item_id, k.name, i.value, i.occurred_at_ms, i.arrival FROM interactions i "
    "JOIN items n USING (item_key) JOIN type_names k USING (type_no) "
    "WHERE i.tenant_no = ? AND i.user_key = ? AND (i.occurred_at_ms, i.arrival) {past} (?, ?) "
    "ORDER BY i.occurred_at_ms {direction}, i.arrival {direction} LIMIT ?"
)
_NEWEST_FIRST = _LIST.format(past="<", direction="DESC")
_OLDEST_FIRST = _LIST.format(past=">", direction="ASC")
_AFTER_ALL = Position(2**63 - 1, 0)
_BEFORE_ALL = Position(-1, 0)
_EXPORT = (
    "SELECT user_key, occurred_at_ms, arrival, item_key, type_no, value FROM interactions "
    "WHERE tenant_no = ? AND (user_key, occurred_at_ms, arrival) > (?, ?, ?) "
    "ORDER BY user_key, occurred_at_ms, arrival LIMIT ?"
)
_USERS = "SELECT user_id, interaction_count FROM users WHERE tenant_no = ? AND user_id > ? ORDER BY user_id LIMIT ?"
_BEFORE_ALL_USERS = ExportPosition(-1, 0, 0)
_TOP_ITEMS = (
    "SELECT t.name, i.item_key, i.item_type, i.hidden, i.available_from_ms, i.available_until_ms, i.body IS NOT NULL, "
    "p.reference_ms, p.hour, p.day, p.week, p.month, p.total "
    "FROM items i JOIN tenants t USING (tenant_no) LEFT JOIN popularity p USING (item_key)"
)


class SqliteProfileStore:
    """Implements every port of profile_store, PolicyStore as `policies`; also an async context manager, by `open`."""

    def __init__(
        self, database: Database, top_items: dict[str, TopItems], lock: int, *, context_bytes: int, items: int
    ) -> None:
        self.policies = SqlitePolicyStore(database)
        self._database = database
        self._lock = lock
        self._top_items = top_items
        self._histories: Lru[tuple[str, str], History] = Lru("user_contexts", context_bytes, lambda h: h.nbytes)
        self._items: Lru[int, Item] = Lru("items", items)
        self._types: dict[str, dict[int, InteractionType]] = {}
        self._tenant_numbers: dict[str, int] = {}
        self._writes: set[asyncio.Task[Any]] = set()

    @classmethod
    async def open(
        cls, path: Path, *, synchronous: Synchronous, context_cache_bytes: int, item_cache_size: int
    ) -> Self:
        """Open or make the file, bring its schema up to date and read the popular items.

        Args:
            path: The file; its folder is made.
            synchronous: Whether a write that has returned survives a power cut ("full") or a killed process ("normal").
            context_cache_bytes: About how much memory the histories of the users read last may take.
            item_cache_size: How many of the items read last are kept.

        Raises:
            FailedPreconditionError: Another process has it open, or a newer program wrote it.
            UnavailableError: It cannot be opened.
        """
        lock = _locked(path)
        try:
            database = Database(path, migrations=MIGRATIONS, synchronous=synchronous)
            await database.write(_tune_writer)
            top_items = await database.read_in_thread(_read_top_items)
        except BaseException:
            os.close(lock)
            raise
        return cls(database, top_items, lock, context_bytes=context_cache_bytes, items=item_cache_size)

    async def close(self) -> None:
        """Commit what was taken and let the file go."""
        await asyncio.gather(*self._writes, return_exceptions=True)
        await self._database.close()
        os.close(self._lock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- items

    async def put_items(self, items: Sequence[Item]) -> Sequence[PutOutcome]:
        """See ItemStore."""

        def settle(put: PutItems) -> None:
            for key, item in put.changed.items():
                self._items.drop(key)
                self._top(item.tenant).set_listing(key, Listing.of(item))

        put = await self._write(lambda connection: sqlite_items.put_items(connection, items), settle)
        return put.outcomes

    async def delete_items(self, refs: Sequence[ItemRef], *, occurred_at_ms: int) -> Sequence[bool]:
        """See ItemStore."""

        def settle(deleted: list[bool]) -> None:
            for ref, gone in zip(refs, deleted, strict=True):
                if gone:
                    self._items.drop(ref.key)
                    self._top(ref.tenant).set_listing(ref.key, None)

        return await self._write(lambda connection: sqlite_items.delete_items(connection, refs, occurred_at_ms), settle)

    async def get_items(self, keys: Sequence[int]) -> Sequence[Item]:
        """See ItemStore."""
        found: list[Item] = []
        for start in range(0, len(keys), _ITEMS_READ_AT_ONCE):
            if start:
                await asyncio.sleep(0)
            found.extend(self._read_items(keys[start : start + _ITEMS_READ_AT_ONCE]))
        return found

    async def list_items(
        self, tenant: str, item_type: str | None, *, after: tuple[str, str] | None, limit: int
    ) -> Sequence[Item]:
        """See ItemStore."""
        return await self._database.read_in_thread(
            lambda connection: sqlite_items.list_items(connection, tenant, item_type, after, limit)
        )

    # --- interactions

    async def append(self, interactions: Sequence[Interaction]) -> Sequence[bool]:
        """See InteractionStore."""

        def settle(appended: Appended) -> None:
            for user in appended.users:
                self._histories.drop(user)
            for sums in appended.sums:
                self._follow(sums)

        appended = await self._write(lambda connection: sqlite_interactions.append(connection, interactions), settle)
        return appended.applied

    async def user_contexts(self, queries: Sequence[ContextQuery]) -> Sequence[UserContext]:
        """See InteractionStore."""
        contexts: list[UserContext] = []
        rows = misses = 0
        for query in queries:
            user = (query.tenant, query.user_id)
            history = self._histories.get(user)
            if history is None:
                misses += 1
                if rows > _ROWS_READ_AT_ONCE:
                    rows = 0
                    await asyncio.sleep(0)
                history = self._read_history(*user)
                rows += min(history.interaction_count, MAX_ROWS)
                self._histories.put(user, history)
            contexts.append(history.context(query.history_limit))
        self._histories.count(len(queries) - misses, misses)
        return contexts

    async def list_interactions(
        self, tenant: str, user_id: str, *, newest_first: bool, after: Position | None, limit: int
    ) -> Sequence[StoredInteraction]:
        """See InteractionStore."""
        number = self._tenant_number(tenant)
        start = after or (_AFTER_ALL if newest_first else _BEFORE_ALL)
        parameters = (number, user_key_of(tenant, user_id), start.occurred_at_ms, start.arrival, limit)
        sql = _NEWEST_FIRST if newest_first else _OLDEST_FIRST
        rows = await self._database.read_in_thread(lambda connection: connection.execute(sql, parameters).fetchall())
        return [
            StoredInteraction(
                Interaction(event_id, tenant, user_id, item_type, item_id, name, value, occurred_at_ms), arrival
            )
            for event_id, item_type, item_id, name, value, occurred_at_ms, arrival in rows
        ]

    async def export_interactions(self, tenant: str, *, after: ExportPosition | None, limit: int) -> InteractionColumns:
        """See InteractionStore."""
        start = after or _BEFORE_ALL_USERS
        parameters = (self._tenant_number(tenant), start.user_key, start.occurred_at_ms, start.arrival, limit)
        kinds = self._types_of(tenant)
        return await self._database.read_in_thread(
            lambda connection: _columns(connection.execute(_EXPORT, parameters).fetchall(), kinds, limit)
        )

    async def list_users(self, tenant: str, *, after: str, limit: int) -> Sequence[UserCount]:
        """See InteractionStore."""
        parameters = (self._tenant_number(tenant), after, limit)
        rows = await self._database.read_in_thread(lambda connection: connection.execute(_USERS, parameters).fetchall())
        return [UserCount(*row) for row in rows]

    async def erase_user(self, tenant: str, user_id: str, *, until_ms: int) -> int:
        """See InteractionStore."""

        def settle(erased: Erased) -> None:
            self._histories.drop((tenant, user_id))
            if erased.sums is not None:
                self._follow(erased.sums)

        erased = await self._write(
            lambda connection: sqlite_interactions.erase_user(connection, tenant, user_id, until_ms), settle
        )
        return erased.count

    # --- interaction types

    async def put_interaction_types(self, tenant: str, kinds: Sequence[InteractionType]) -> None:
        """See InteractionTypeStore."""

        def settle(put: PutTypes) -> None:
            self._types[tenant] = put.kinds
            self._histories.clear()
            if put.sums is not None:
                self._follow(put.sums)

        await self._write(lambda connection: sqlite_interactions.put_types(connection, tenant, kinds), settle)

    async def interaction_types(self, tenant: str) -> Mapping[str, InteractionType]:
        """See InteractionTypeStore."""
        return {kind.name: kind for kind in self._types_of(tenant).values()}

    # --- popularity

    async def most_popular(self, query: PopularityQuery, *, now_ms: int) -> PopularityList:
        """See PopularityStore."""
        top = self._top_items.get(query.tenant)
        if top is None:
            return PopularityList(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
        return await top.most_popular(query, now_ms=now_ms, read_items=self._read_items_now)

    # --- how

    async def _write(self, fn: Callable[[sqlite3.Connection], T], settle: Callable[[T], None]) -> T:
        """Commit `fn` and bring memory up to date, also when whoever waits for it gives up."""

        async def commit() -> T:
            outcome = await self._database.write(fn)
            settle(outcome)
            return outcome

        task = asyncio.get_running_loop().create_task(commit())
        self._writes.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()  # it was raised to whoever waited, unless nobody does any more

    def _follow(self, changed: ChangedSums) -> None:
        top = self._top(changed.tenant)
        if changed.complete:
            top.clear_sums()
        top.set_sums(changed.keys, changed.sums)

    def _top(self, tenant: str) -> TopItems:
        return self._top_items.setdefault(tenant, TopItems())

    def _tenant_number(self, tenant: str) -> int:
        """Give a tenant's number, 0 for one that nothing was ever stored of."""
        number = self._tenant_numbers.get(tenant)
        if number is None:
            rows = self._database.read("SELECT tenant_no FROM tenants WHERE name = ?", (tenant,))
            if not rows:
                return 0
            number = self._tenant_numbers[tenant] = int(rows[0][0])
        return number

    def _types_of(self, tenant: str) -> dict[int, InteractionType]:
        kinds = self._types.get(tenant)
        if kinds is None:
            number = self._tenant_number(tenant)
            kinds = sqlite_interactions.types_from_rows(self._database.read(sqlite_interactions.TYPES, (number,)))
            if number:
                self._types[tenant] = kinds
        return kinds

    def _read_history(self, tenant: str, user_id: str) -> History:
        key = user_key_of(tenant, user_id)
        counts = self._database.read("SELECT interaction_count FROM users WHERE user_key = ?", (key,))
        if not counts:
            return build_history((), {}, interaction_count=0)
        rows = self._database.read(_CONTEXT, (self._tenant_number(tenant), key, MAX_ROWS))
        return build_history(rows, self._types_of(tenant), interaction_count=counts[0][0])

    async def _read_items_now(self, keys: Sequence[int]) -> list[Item]:
        return self._read_items(keys)

    def _read_items(self, keys: Sequence[int]) -> list[Item]:
        found = {key: item for key in keys if (item := self._items.get(key)) is not None}
        missing = [key for key in keys if key not in found]
        self._items.count(len(keys) - len(missing), len(missing))
        if missing:
            for row in self._database.read(sqlite_items.BY_KEYS, (key_list(missing),)):
                found[row[0]] = item_from_row(row)
                self._items.put(row[0], found[row[0]])
        return [found[key] for key in keys if key in found]


def _tune_writer(writer: sqlite3.Connection) -> None:
    """Make room for batches, which touch about two pages for each event, and overwrite what is erased."""
    writer.execute("PRAGMA secure_delete = ON")
    writer.execute("PRAGMA cache_size = -64000")  # KiB
    writer.execute("PRAGMA wal_autocheckpoint = 4000")  # pages of 4 KiB; more would hold writes up for longer


def _columns(
    rows: list[tuple[int, int, int, int, int, float | None]], kinds: dict[int, InteractionType], limit: int
) -> InteractionColumns:
    users, times, _, items, types, values = zip(*rows, strict=True) if rows else ((),) * 6
    weights = weigh_columns(kinds, np.array(types, dtype=np.int64), np.array(values, dtype=np.float64))
    return InteractionColumns(
        np.array(users, dtype=np.int64),
        np.array(items, dtype=np.int64),
        weights.astype(np.float32),
        np.array(times, dtype=np.int64),
        ExportPosition(*rows[-1][:3]) if len(rows) == limit else None,
    )


def _read_top_items(connection: sqlite3.Connection) -> dict[str, TopItems]:
    top_items: dict[str, TopItems] = {}
    stored = connection.execute(_TOP_ITEMS)
    while rows := stored.fetchmany(10_000):
        sums: dict[str, tuple[list[int], list[tuple[float, ...]]]] = {}
        for tenant, key, item_type, hidden, available_from_ms, available_until_ms, exists, *columns in rows:
            top = top_items.setdefault(tenant, TopItems())
            listing = Listing(item_type, bool(hidden), available_from_ms, available_until_ms) if exists else None
            top.set_listing(key, listing)
            if columns[0] is not None:
                keys, values = sums.setdefault(tenant, ([], []))
                keys.append(key)
                values.append(tuple(columns))
        for tenant, (keys, values) in sums.items():
            top_items[tenant].set_sums(keys, DecayedSums.from_rows(values))
    return top_items


def _locked(path: Path) -> int:
    """Take the lock beside the file for as long as the process lives, and give its descriptor."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise FailedPreconditionError(
            f"another process has {path} open: stop it, or give this one its own DATA_DIR"
        ) from error
    return lock
