"""Several replicas on one keyspace: exact together, whatever happens at the same moment or is left half done."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from contract.profile_store.profile_store_contract import (
    Store,
    a_deed,
    an_item,
    context_of,
    key,
    popular,
    tenant_of,
)
from integration.profile_store.cql_stores import open_cql

from profile_store.adapters.cql import popularity
from profile_store.adapters.cql.feed import CLOSED_AFTER_MS, SLOT_MS
from profile_store.adapters.cql.interactions import CqlInteractions
from profile_store.adapters.cql.store import CqlProfileStore, Retention
from profile_store.adapters.memory import MemoryProfileStore
from profile_store.domain.contexts import ContextQuery
from profile_store.domain.interactions import InteractionType
from profile_store.domain.popularity import Window
from servicekit.clock import ManualClock, SystemClock
from servicekit.errors import UnavailableError
from servicekit.identity import user_key
from servicekit.testing import eventually

pytestmark = pytest.mark.integration

AGREED_S = 1.0
UNTIL_CLOSED_MS = SLOT_MS + CLOSED_AFTER_MS + 1
DAY = 24 * 3_600_000


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(SystemClock().now_ms())


@pytest.fixture
async def replicas(keyspace_url: str, clock: ManualClock) -> AsyncIterator[list[CqlProfileStore]]:
    """Three replicas on one clock, of which time passes only when told."""
    tenant_of.renew()
    async with AsyncExitStack() as opened:
        yield [await opened.enter_async_context(await open_cql(keyspace_url, clock=clock)) for _ in range(3)]


async def totals(store: Store) -> dict[int, float]:
    return await popular(store, Window.ALL)


async def test_the_same_events_through_two_replicas_count_once(
    replicas: list[CqlProfileStore], clock: ManualClock
) -> None:
    one, two, _ = replicas
    await one.put_items([an_item("a"), an_item("b")])
    deeds = [a_deed("ab"[n % 2], user_id=f"u{n % 7}") for n in range(200)]
    for start in range(0, 200, 20):
        some = deeds[start : start + 20]
        await asyncio.gather(one.append(some), two.append(some[::-1]), one.append(some[:5]), two.append(some[:5]))
    assert not any(await one.append(deeds))
    clock.advance(1_000)
    for store in replicas:
        assert sum([(await context_of(store, f"u{n}")).interaction_count for n in range(7)]) == 200
        assert await totals(store) == {key("a"): 100.0, key("b"): 100.0}
    clock.advance(UNTIL_CLOSED_MS)
    for store in replicas:
        assert await totals(store) == {key("a"): 100.0, key("b"): 100.0}


async def test_replicas_agree_within_a_second(cql_store: CqlProfileStore, second_cql_store: CqlProfileStore) -> None:
    tenant_of.renew()
    one, two = cql_store, second_cql_store

    async def agreed(wanted: dict[int, float]) -> None:
        assert await totals(one) == wanted

        async def seen() -> bool:
            return await totals(two) == wanted

        await eventually(seen, timeout_s=AGREED_S)

    await agreed({})
    await one.put_items([an_item("a"), an_item("b")])
    await one.append([a_deed("a"), a_deed("a", "like"), a_deed("b", user_id="bob")])
    assert (await context_of(two)).interaction_count == 2
    await agreed({key("a"): 3.0, key("b"): 1.0})
    await one.put_interaction_types(tenant_of(), [InteractionType("like", 5.0)])
    await agreed({key("a"): 6.0, key("b"): 1.0})
    assert (await context_of(two)).history_weights.tolist() == [6.0]
    await one.put_items([an_item("b", hidden=True)])
    assert (await two.get_items([key("b")]))[0].hidden
    await agreed({key("a"): 6.0})
    await one.delete_items([an_item("a").ref], occurred_at_ms=an_item("a").updated_at_ms + 1)
    await agreed({})
    await one.put_items([an_item("a", updated_at_ms=an_item("a").updated_at_ms + 2)])
    await agreed({key("a"): 6.0})
    await one.erase_user(tenant_of(), "ann", until_ms=a_deed("a").occurred_at_ms)
    assert (await context_of(two)).interaction_count == 0
    await agreed({})


async def test_a_type_that_another_replica_has_just_made_is_known(
    replicas: list[CqlProfileStore],
) -> None:
    one, two, _ = replicas
    await one.put_items([an_item("a")])
    await two.interaction_types(tenant_of())
    assert await totals(two) == {}
    await one.put_interaction_types(tenant_of(), [InteractionType("share", 4.0)])
    await one.append([a_deed("a", "share")])
    assert (await context_of(two)).history_weights.tolist() == [4.0]
    assert (await two.list_interactions(tenant_of(), "ann", newest_first=True, after=None, limit=9))[
        0
    ].interaction.interaction_type == "share"


async def dies_in(store: CqlProfileStore, step: str, work: Awaitable[Any], *, after: bool) -> None:
    """Let a replica die in, or right after, a step of taking events in."""
    real = getattr(store._interactions, step)

    async def dying(*arguments: Any) -> None:
        if after:
            await real(*arguments)
        raise UnavailableError("killed")

    setattr(store._interactions, step, dying)
    with pytest.raises(UnavailableError, match="killed"):
        await work
    delattr(store._interactions, step)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("later_ms", [0, 1_000, UNTIL_CLOSED_MS])
async def test_an_event_left_half_taken_in_is_finished_and_counts_once(
    replicas: list[CqlProfileStore], clock: ManualClock, after: bool, later_ms: int
) -> None:
    one, two, three = replicas
    await one.put_items([an_item("a")])
    deeds = [a_deed("a"), a_deed("a", user_id="bob")]
    assert await totals(three) == {}
    await dies_in(one, "_store", one.append(deeds), after=after)
    clock.advance(later_ms)
    assert await totals(three) == ({key("a"): 2.0} if after and later_ms else {})
    for _ in range(2):
        assert await two.append(deeds) == [False, False]  # the first one had them, and told nobody
    clock.advance(1_000)

    async def all_count() -> bool:
        return [await totals(store) for store in replicas] == [{key("a"): 2.0}] * 3

    await eventually(all_count)
    clock.advance(UNTIL_CLOSED_MS)
    assert await all_count()
    assert (await context_of(two)).interaction_count == 1


@pytest.mark.parametrize("step", ["_store", "_settle"])
async def test_an_erasure_at_the_moment_of_an_append_leaves_nothing(
    replicas: list[CqlProfileStore], clock: ManualClock, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """One replica is held before a step; meanwhile another one erases the user."""
    one, two, three = replicas
    await one.put_items([an_item("a")])
    assert await totals(three) == {}
    reached, go_on = asyncio.Event(), asyncio.Event()
    real: Callable[..., Awaitable[Any]] = getattr(CqlInteractions, step)

    async def held(self: CqlInteractions, *arguments: Any) -> Any:
        if self is one._interactions:
            reached.set()
            await go_on.wait()
        return await real(self, *arguments)

    monkeypatch.setattr(CqlInteractions, step, held)
    did = a_deed("a")
    appending = asyncio.create_task(one.append([did, a_deed("a", occurred_at_ms=did.occurred_at_ms + 1)]))
    await reached.wait()
    assert await two.erase_user(tenant_of(), "ann", until_ms=did.occurred_at_ms) == (1 if step == "_settle" else 0)
    go_on.set()
    assert await appending == [False, True]
    clock.advance(1_000)
    for store in replicas:
        assert (await context_of(store)).interaction_count == 1
        assert await totals(store) == {key("a"): 1.0}
    clock.advance(UNTIL_CLOSED_MS)
    for store in replicas:
        assert await totals(store) == {key("a"): 1.0}
    assert await two.append([did]) == [False]


@pytest.mark.parametrize("later_ms", [0, UNTIL_CLOSED_MS])
async def test_an_erasure_left_half_done_is_finished_and_counts_once(
    replicas: list[CqlProfileStore], clock: ManualClock, later_ms: int
) -> None:
    one, two, three = replicas
    await one.put_items([an_item("a")])
    await one.append([a_deed("a"), a_deed("a", user_id="bob")])
    assert await totals(three) == {key("a"): 2.0}
    now = a_deed("a").occurred_at_ms
    await dies_in(one, "_delete_bucket", one.erase_user(tenant_of(), "ann", until_ms=now), after=False)
    clock.advance(later_ms)
    await asyncio.gather(*(two.erase_user(tenant_of(), "ann", until_ms=now) for _ in range(3)))
    assert await two.erase_user(tenant_of(), "ann", until_ms=now) == 0
    clock.advance(1_000)

    async def all_agree() -> bool:
        return [await totals(store) for store in replicas] == [{key("a"): 1.0}] * 3

    await eventually(all_agree)
    clock.advance(UNTIL_CLOSED_MS)
    assert await all_agree()
    assert (await context_of(three)).interaction_count == 0


async def test_a_replica_starts_from_a_snapshot(
    replicas: list[CqlProfileStore], keyspace_url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(popularity, "_SNAPSHOT_AFTER", 10)
    one, two, _ = replicas
    await one.put_items([an_item("a"), an_item("b")])
    await one.append([a_deed("a", user_id=f"u{n}") for n in range(20)])
    clock.advance(UNTIL_CLOSED_MS)
    assert await totals(one) == {key("a"): 20.0}
    (asked,) = [asked for name, asked in one._popularity._tenants.items() if name == tenant_of()]
    await eventually(lambda: asked.head is not None)
    await two.append([a_deed("b")])
    assert await two.append([a_deed("a", user_id="u3")]) == [True]
    read: list[int] = []
    async with await open_cql(keyspace_url, clock=clock) as new:
        real = new._feed.read

        async def counted(tenant: str, slot: int, *, from_arrival: int = 0) -> Any:
            read.append(slot)
            return await real(tenant, slot, from_arrival=from_arrival)

        monkeypatch.setattr(new._feed, "read", counted)
        assert await totals(new) == {key("a"): 21.0, key("b"): 1.0}
        assert len(read) == 2  # the snapshot's last slot and the one after it
        await two.erase_user(tenant_of(), "u3", until_ms=a_deed("a").occurred_at_ms)
        clock.advance(1_000)
        assert await totals(new) == {key("a"): 19.0, key("b"): 1.0}
    await one.put_interaction_types(tenant_of(), [InteractionType("view", 2.0)])
    async with await open_cql(keyspace_url, clock=clock) as new:
        assert await totals(new) == {key("a"): 38.0, key("b"): 2.0}


async def test_a_long_history_lies_in_many_partitions(
    cql_store: CqlProfileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("adapters.memory", "adapters.cql.histories"):
        monkeypatch.setattr(f"profile_store.{module}.MAX_ROWS", 2_000)
    monkeypatch.setattr("profile_store.domain.contexts.MAX_HISTORY", 1_000)
    tenant_of.renew()
    now = SystemClock().now_ms()
    memory = MemoryProfileStore()
    deeds = [a_deed(f"{n % 1_700}", occurred_at_ms=now - n * DAY // 2) for n in range(4_000)]
    for start in range(0, len(deeds), 1_000):
        some = deeds[start : start + 1_000]
        assert list(await cql_store.append(some)) == list(await memory.append(some))
    buckets = await cql_store._histories.buckets(tenant_of(), user_key(tenant_of(), "ann"))
    assert len(buckets) >= 6
    for limit in (10, 1_000):
        query = [ContextQuery(tenant_of(), "ann", limit)]
        for _ in range(2):  # with what is remembered of the buckets, and without
            (left,), (right,) = await cql_store.user_contexts(query), await memory.user_contexts(query)
            assert left.history_keys.tolist() == right.history_keys.tolist()
            assert left.seen_keys.tolist() == right.seen_keys.tolist()
            assert left.interaction_count == right.interaction_count == 4_000
    for newest_first in (True, False):
        listed = await cql_store.list_interactions(tenant_of(), "ann", newest_first=newest_first, after=None, limit=999)
        wanted = await memory.list_interactions(tenant_of(), "ann", newest_first=newest_first, after=None, limit=999)
        assert [each.interaction for each in listed] == [each.interaction for each in wanted]
    half = now - 1_000 * DAY
    assert await cql_store.erase_user(tenant_of(), "ann", until_ms=half) == await memory.erase_user(
        tenant_of(), "ann", until_ms=half
    )
    assert (await context_of(cql_store)).interaction_count == (await context_of(memory)).interaction_count
    assert len(await cql_store._histories.buckets(tenant_of(), user_key(tenant_of(), "ann"))) < len(buckets)


async def test_what_has_a_time_to_live_is_written_with_it(keyspace_url: str) -> None:
    tenant_of.renew()
    now = SystemClock().now_ms()
    async with await open_cql(keyspace_url, retention=Retention(interactions_s=DAY // 1_000, event_ids_s=60)) as store:
        await store.append([a_deed("a", occurred_at_ms=now), a_deed("b", occurred_at_ms=now - 2 * DAY)])

        async def only_the_young_one() -> bool:
            keys: list[int] = (await context_of(store)).history_keys.tolist()
            return keys == [key("a")]

        await eventually(only_the_young_one, timeout_s=10.0)
