import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from profile_store.adapters import sqlite as adapter
from profile_store.adapters import sqlite_interactions
from profile_store.adapters.lru import Lru
from profile_store.adapters.sqlite import SqliteProfileStore
from profile_store.adapters.sqlite_schema import BUILT_IN_NUMBERS, MIGRATIONS
from profile_store.domain.contexts import ContextQuery
from profile_store.domain.interactions import BUILT_IN_TYPES, Interaction
from profile_store.domain.items import Item
from profile_store.domain.popularity import PopularityQuery, Window
from servicekit.errors import FailedPreconditionError
from servicekit.testing import eventually

NOW = 1_700_000_000_000
QUERY = ContextQuery("t", "ann", 10)


async def opened(folder: Path, *, context_cache_bytes: int = 100_000, item_cache_size: int = 10) -> SqliteProfileStore:
    return await SqliteProfileStore.open(
        folder / "profile.db",
        synchronous="normal",
        context_cache_bytes=context_cache_bytes,
        item_cache_size=item_cache_size,
    )


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteProfileStore]:
    async with await opened(tmp_path) as store:
        yield store


def a_deed(event_id: str, user_id: str = "ann") -> Interaction:
    return Interaction(event_id, "t", user_id, "film", "a", "view", None, NOW)


def an_item(updated_at_ms: int = NOW, item_id: str = "a") -> Item:
    return Item("t", "film", item_id, f"{updated_at_ms}", "", {}, 0, None, None, False, updated_at_ms)


async def count(store: SqliteProfileStore) -> int:
    (context,) = await store.user_contexts([QUERY])
    return context.interaction_count


async def test_one_process_at_a_time(tmp_path: Path) -> None:
    async with await opened(tmp_path):
        with pytest.raises(FailedPreconditionError, match="another process"):
            await opened(tmp_path)
    async with await opened(tmp_path):
        pass


async def test_a_file_of_a_newer_program_is_refused_and_let_go(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "profile.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    for _ in range(2):
        with pytest.raises(FailedPreconditionError, match="schema version 99"):
            await opened(tmp_path)


async def test_a_caller_who_gives_up_leaves_no_stale_memory(store: SqliteProfileStore) -> None:
    await store.put_items([an_item()])
    assert await count(store) == 0
    for number in range(20):
        writing = asyncio.create_task(store.append([a_deed(f"{number}")]))
        for _ in range(number % 4):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    await store.append([a_deed("last", "bob")])  # whatever was begun before it is committed
    stored = await store.list_interactions("t", "ann", newest_first=True, after=None, limit=100)
    assert await count(store) == len(stored) > 0
    popular = await store.most_popular(PopularityQuery("t", None, Window.ALL, 10, ()), now_ms=NOW)
    assert popular.scores.tolist() == [len(stored) + 1.0]


async def test_closing_finishes_what_was_begun(tmp_path: Path) -> None:
    store = await opened(tmp_path)
    writing = [asyncio.create_task(store.append([a_deed(f"{n}")])) for n in range(10)]
    await asyncio.sleep(0)
    await store.close()
    assert all(applied == [True] for applied in await asyncio.gather(*writing))
    async with await opened(tmp_path) as again:
        assert await count(again) == 10


async def test_contexts_are_remembered_until_the_user_does_something(
    store: SqliteProfileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.append([a_deed("1"), a_deed("2", "bob")])
    read: list[str] = []
    read_history = store._read_history

    def counted(tenant: str, user_id: str) -> object:
        read.append(user_id)
        return read_history(tenant, user_id)

    monkeypatch.setattr(store, "_read_history", counted)
    both = [QUERY, ContextQuery("t", "bob", 10)]
    await store.user_contexts(both)
    await store.user_contexts(both)
    assert read == ["ann", "bob"]
    await store.append([a_deed("3")])
    await store.append([a_deed("2", "bob")])  # known: it changes nothing
    await store.user_contexts(both)
    assert read == ["ann", "bob", "ann"]


async def test_caches_stay_within_their_bounds(tmp_path: Path) -> None:
    async with await opened(tmp_path, context_cache_bytes=2_000, item_cache_size=3) as store:
        await store.append([a_deed(f"{n}", f"u{n}") for n in range(50)])
        await store.put_items([an_item(item_id=f"{n}") for n in range(50)])
        contexts = await store.user_contexts([ContextQuery("t", f"u{n}", 10) for n in range(50)])
        assert {context.interaction_count for context in contexts} == {1}
        assert len(await store.get_items([an_item(item_id=f"{n}").ref.key for n in range(50)])) == 50
        assert len(store._histories._values) == 3
        assert len(store._items._values) == 3


async def test_an_item_in_memory_follows_the_writes(store: SqliteProfileStore) -> None:
    key = an_item().ref.key
    for now in range(1, 5):
        await store.put_items([an_item(now)])
        assert [item.updated_at_ms for item in await store.get_items([key])] == [now]
        assert [item.updated_at_ms for item in await store.get_items([key])] == [now]
    await store.delete_items([an_item().ref], occurred_at_ms=9)
    assert await store.get_items([key]) == []


async def test_many_cold_users_do_not_hold_the_loop(store: SqliteProfileStore) -> None:
    await store.append([a_deed(f"{n}", f"u{n % 50}") for n in range(10_000)])
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    await store.user_contexts([ContextQuery("t", f"u{n}", 10) for n in range(50)])
    counting.cancel()
    assert turns >= 4


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        (adapter._CONTEXT, 3),
        (adapter._NEWEST_FIRST, 5),
        (adapter._OLDEST_FIRST, 5),
        (adapter._EXPORT, 5),
        (adapter._USERS, 3),
        (sqlite_interactions.TYPES, 1),
    ],
)
async def test_reads_walk_an_index(store: SqliteProfileStore, sql: str, parameters: int) -> None:
    plan = [row[3] for row in store._database.read(f"EXPLAIN QUERY PLAN {sql}", (1,) * parameters)]
    assert all(step.startswith("SEARCH") for step in plan), plan


async def test_the_built_in_types_have_their_numbers() -> None:
    connection = sqlite3.connect(":memory:")
    connection.executescript(MIGRATIONS[0])
    assert dict(connection.execute("SELECT type_no, name FROM type_names")) == BUILT_IN_NUMBERS
    assert set(BUILT_IN_NUMBERS.values()) == set(BUILT_IN_TYPES)
    connection.close()


async def test_writes_that_fail_change_nothing(store: SqliteProfileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.append([a_deed("1")])
    assert await count(store) == 1
    with monkeypatch.context() as broken:
        broken.setattr(sqlite_interactions, "_COUNT_USER", "SELECT wrong")
        with pytest.raises(Exception, match="database"):
            await store.append([a_deed("2")])
    assert await count(store) == 1
    assert await store.append([a_deed("2")]) == [True]
    await eventually(lambda: not store._writes)


def test_lru_keeps_what_was_used_last() -> None:
    lru: Lru[str, int] = Lru("test", 10, lambda value: value)
    lru.put("a", 4)
    lru.put("b", 4)
    assert lru.get("a") == 4
    lru.put("c", 4)
    assert [lru.get(key) for key in "abc"] == [4, None, 4]
    lru.put("a", 9)
    assert [lru.get(key) for key in "abc"] == [9, None, None]
    lru.put("huge", 11)
    assert lru.get("huge") is None
    lru.put("d", 10)
    lru.clear()
    lru.put("e", 10)
    assert lru.get("e") == 10
