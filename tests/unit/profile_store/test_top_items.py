import asyncio
from collections.abc import Sequence
from random import Random

import numpy as np

from profile_store.domain.items import Item
from profile_store.domain.popularity import DecayedSums, PopularityQuery, Window
from profile_store.domain.top_items import Listing, TopItems
from servicekit.filters import Filter, Operator, Predicate
from servicekit.identity import item_key

NOW = 1_700_000_000_000


class Catalogue:
    """Items by key, and how many were read."""

    def __init__(self) -> None:
        self.items: dict[int, Item] = {}
        self.top = TopItems()
        self.read = 0

    def put(self, number: int, *, size: float, score: float, item_type: str = "film") -> int:
        item = Item("t", item_type, f"{number}", "", "", {"size": size}, 0, None, None, False, 1)
        key = item_key("t", item_type, f"{number}")
        self.items[key] = item
        self.top.set_listing(key, Listing.of(item))
        self.top.set_sums([key], DecayedSums(np.array([NOW]), np.full((1, 5), score)))
        return key

    async def read_items(self, keys: Sequence[int]) -> list[Item]:
        self.read += len(keys)
        return [self.items[key] for key in keys if key in self.items]

    async def best(self, limit: int, only: Filter = (), item_type: str | None = None) -> list[int]:
        query = PopularityQuery("t", item_type, Window.DAY, limit, only)
        found = await self.top.most_popular(query, now_ms=NOW, read_items=self.read_items)
        return [int(key) for key in found.keys]


def at_least(size: float) -> Filter:
    return (Predicate("size", Operator.GTE, (size,)),)


async def test_thousands_of_items_in_the_order_of_their_score() -> None:
    random, catalogue = Random(1), Catalogue()
    scores = {catalogue.put(n, size=n, score=random.random()): n for n in range(3_000)}
    del scores
    everything = await catalogue.best(10_000)
    assert len(everything) == 3_000
    assert await catalogue.best(17) == everything[:17]
    gone = everything[3]
    catalogue.top.set_listing(gone, None)
    assert await catalogue.best(4) == [*everything[:3], everything[4]]


async def test_a_filter_reads_only_what_it_needs_and_each_item_once() -> None:
    catalogue = Catalogue()
    for n in range(2_000):
        catalogue.put(n, size=n % 2, score=n + 1)
    best = await catalogue.best(10, at_least(1))
    assert [catalogue.items[key].item_id for key in best] == [f"{n}" for n in range(1_999, 1_979, -2)]
    assert catalogue.read < 2_000
    read = catalogue.read
    assert await catalogue.best(10, at_least(1)) == best
    assert catalogue.read == read
    catalogue.put(0, size=1, score=9_999)
    assert (await catalogue.best(10, at_least(1)))[1:] == best[:9]
    assert len(await catalogue.best(5_000, at_least(1))) == 1_001
    assert catalogue.read <= 2_001


async def test_a_selective_filter_lets_others_have_their_turn() -> None:
    catalogue = Catalogue()
    for n in range(3_000):
        catalogue.put(n, size=n, score=3_000 - n)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    last = await catalogue.best(1, at_least(2_999))
    counting.cancel()
    assert [catalogue.items[key].item_id for key in last] == ["2999"]
    assert turns >= 10


async def test_items_that_change_while_a_filter_is_evaluated_are_seen_as_they_are() -> None:
    catalogue = Catalogue()
    for n in range(1_000):
        catalogue.put(n, size=0, score=n + 1)
    asked = asyncio.create_task(catalogue.best(10, at_least(1)))
    for n in range(60):
        await asyncio.sleep(0)
        catalogue.put(999 if n % 2 else 5_000 + n, size=1, score=10_000 + n)
    found = await asked
    assert found == [key for key in await catalogue.best(100, at_least(1)) if key in found]
    assert len(await catalogue.best(100, at_least(1))) == 31


async def test_only_the_latest_filters_are_remembered() -> None:
    catalogue = Catalogue()
    catalogue.put(1, size=1, score=1)
    for n in range(200):
        await catalogue.best(1, at_least(n))
    assert len(catalogue.top._masks) == 128


async def test_sums_of_what_does_not_exist_wait_for_it() -> None:
    catalogue = Catalogue()
    key = item_key("t", "film", "later")
    catalogue.top.set_sums([key], DecayedSums(np.array([NOW]), np.ones((1, 5))))
    assert await catalogue.best(10) == []
    catalogue.top.set_listing(key, Listing("film", hidden=False, available_from_ms=None, available_until_ms=None))
    assert await catalogue.best(10, item_type="film") == [key]
    assert await catalogue.best(10, item_type="song") == []
    catalogue.top.clear_sums()
    assert await catalogue.best(10) == []
