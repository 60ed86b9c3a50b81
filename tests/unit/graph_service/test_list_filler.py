"""The filler: who waits, what is computed once, what happens when the store fails or is slow."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from graph_service.adapters.memory import MemoryGraphStore
from graph_service.application import filling
from graph_service.application.filling import ListFiller
from graph_service.application.warming import Warmer
from graph_service.domain.graph import Interaction, Keys
from graph_service.domain.graph_cache import GraphCache
from graph_service.domain.ports import RelatedItems, RelatednessRule
from graph_service.domain.related_lists import FreshnessRule
from servicekit.deadline import deadline_after
from servicekit.errors import DeadlineExceededError, UnavailableError
from servicekit.tasks import BackgroundTasks
from servicekit.testing import eventually


class WatchedStore(MemoryGraphStore):
    """Counts what is asked of it, and answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[int]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.broken = False

    async def related(self, item_keys: Keys, rule: RelatednessRule) -> Sequence[RelatedItems]:
        self.asked.append(item_keys.tolist())
        await self.open.wait()
        if self.broken:
            raise UnavailableError("the store is gone")
        return await super().related(item_keys, rule)


@pytest.fixture
async def store() -> WatchedStore:
    return WatchedStore()


@pytest.fixture
def cache() -> GraphCache:
    return GraphCache(capacity=5_000, max_items=5_000, rule=FreshnessRule(min_age_s=0.0))


@pytest.fixture
async def filler(store: WatchedStore, cache: GraphCache) -> AsyncIterator[ListFiller]:
    filler = ListFiller(store, cache, RelatednessRule(), timeout_s=2.0)
    async with BackgroundTasks(asyncio.Event()) as tasks:
        tasks.start(filler.answer_waiting(), name="answer")
        tasks.start(filler.renew(), name="renew")
        yield filler


async def test_what_several_wait_for_is_computed_once(filler: ListFiller, store: WatchedStore) -> None:
    store.open.clear()
    waiting = [asyncio.create_task(filler.provide({1, 2})) for _ in range(3)]
    await eventually(lambda: store.asked)
    waiting.append(asyncio.create_task(filler.provide({2, 3})))
    await asyncio.sleep(0.01)
    store.open.set()
    assert await asyncio.gather(*waiting) == [{}] * 4
    assert sorted(map(sorted, store.asked)) == [[1, 2], [3]]
    assert await filler.provide({1, 2, 3}) == {}
    assert len(store.asked) == 2


async def test_who_is_late_goes_without_and_the_next_has_it(filler: ListFiller, store: WatchedStore) -> None:
    store.open.clear()
    with deadline_after(filling.MARGIN_S + 0.02):
        late = await filler.provide({1})
    assert isinstance(late[1], DeadlineExceededError)
    store.open.set()
    assert await filler.provide({1}) == {}
    assert store.asked == [[1]]


async def test_a_failing_store_is_told_to_those_who_wait_and_tried_again_for_the_next(
    filler: ListFiller, store: WatchedStore
) -> None:
    store.broken = True
    assert isinstance((await filler.provide({1}))[1], UnavailableError)
    store.broken = False
    assert await filler.provide({1}) == {}


async def test_much_is_computed_in_parts(
    filler: ListFiller, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filling, "MAX_BATCH", 10)
    assert await filler.provide(set(range(25))) == {}
    assert [len(keys) for keys in store.asked] == [10, 10, 5]


async def test_old_lists_are_renewed_in_the_background(
    filler: ListFiller, store: WatchedStore, cache: GraphCache
) -> None:
    await filler.provide({1})
    cache.note(await store.apply([Interaction(7, 1, 1.0, 10), Interaction(7, 2, 1.0, 10)]))
    await filler.provide({1})
    await eventually(lambda: len(store.asked) == 2)
    await eventually(lambda: cache.contents.lists.use([1])[1].users == 1)
    await filler.provide({1})
    assert len(store.asked) == 2


async def test_a_store_that_fails_in_the_background_harms_nobody(
    filler: ListFiller, store: WatchedStore, cache: GraphCache
) -> None:
    await filler.provide({1})
    cache.note(await store.apply([Interaction(7, 1, 1.0, 10)]))
    store.broken = True
    assert await filler.provide({1}) == {}
    await eventually(lambda: len(store.asked) == 2)
    store.broken = False
    assert await filler.provide({1}) == {}
    await eventually(lambda: len(store.asked) == 3)


async def test_warming_fills_what_is_touched_most(filler: ListFiller, store: WatchedStore, cache: GraphCache) -> None:
    await store.apply([Interaction(user, item, 1.0, 10) for item in range(1, 6) for user in range(item)])
    await Warmer(store, cache, filler, limit=2).warm()
    assert store.asked == [[5, 4]]
    await Warmer(store, cache, filler, limit=3).warm()
    assert store.asked == [[5, 4], [3]]


async def test_warming_before_the_first_request_is_done_or_given_up_in_time(
    filler: ListFiller, store: WatchedStore, cache: GraphCache
) -> None:
    cache.note(await store.apply([Interaction(7, item, 1.0, 10) for item in (1, 2, 3)]))
    warmer = Warmer(store, cache, filler, limit=10)
    store.open.clear()
    await warmer.warm_at_once(0.02)
    assert cache.missing([1, 2, 3]) == [1, 2, 3]
    store.open.set()
    await warmer.warm_at_once(5.0)
    assert not cache.missing([1, 2, 3])


async def test_a_store_that_is_gone_does_not_keep_the_service_from_becoming_ready(
    filler: ListFiller, store: WatchedStore, cache: GraphCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(_: int) -> Keys:
        raise UnavailableError("the store is gone")

    monkeypatch.setattr(store, "busiest_items", gone)
    await Warmer(store, cache, filler, limit=10).warm_at_once(5.0)
    assert not store.asked


async def test_the_warmer_starts_by_itself_and_after_each_change(
    filler: ListFiller, store: WatchedStore, cache: GraphCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graph_service.application.warming.QUIET_S", 0.02)
    cache.note(await store.apply([Interaction(7, 1, 1.0, 10)]))
    async with BackgroundTasks(asyncio.Event()) as tasks:
        tasks.start(Warmer(store, cache, filler, limit=10).run(), name="warm")
        await eventually(lambda: store.asked == [[1]])
        cache.note(await store.apply([Interaction(7, 2, 1.0, 10)]))
        await eventually(lambda: [2] in store.asked)


async def test_positions_and_scores_arrive_as_they_were_computed(
    filler: ListFiller, store: WatchedStore, cache: GraphCache
) -> None:
    cache.note(await store.apply([Interaction(7, item, 1.0, 10) for item in (1, 2, 3)]))
    await filler.provide({1})
    found = cache.contents.lists.use([1])[1]
    assert cache.contents.table.keys[found.positions].tolist() == [2, 3]
    assert np.count_nonzero(found.scores) == 2
