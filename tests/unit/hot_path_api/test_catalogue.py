# ruff: noqa: ARG002 - the twin has the shape of the port

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from hot_path_api.application.catalogue import Catalogue
from hot_path_api.domain.items import Item, ItemRef
from hot_path_api.domain.ports import Written
from servicekit.errors import DeadlineExceededError, NotFoundError, ServiceError, UnavailableError


def item(key: int, title: str = "", updated_at_ms: int = 1) -> Item:
    return Item(key=key, tenant="t", ref=ItemRef("film", str(key)), title=title, updated_at_ms=updated_at_ms)


class Shelf:
    """The Items port on a dictionary, whose reads wait until they are let go."""

    def __init__(self) -> None:
        self.items: dict[int, Item] = {}
        self.asked: list[tuple[int, ...]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: ServiceError | None = None

    async def get_items(self, keys: Sequence[int], *, timeout_s: float) -> Sequence[Item]:
        self.asked.append(tuple(keys))
        found = [self.items[key] for key in keys if key in self.items]
        await self.gate.wait()
        if self.error:
            raise self.error
        return found

    async def list_items(
        self, tenant: str, *, item_type: str, limit: int, cursor: str, timeout_s: float
    ) -> tuple[Sequence[Item], str]:
        return list(self.items.values()), ""

    async def put_items(self, items: Sequence[Item], *, timeout_s: float) -> Sequence[Written | ServiceError]:
        return [Written(applied=True, created=True) for _ in items]

    async def delete_items(
        self, tenant: str, refs: Sequence[ItemRef], *, occurred_at_ms: int, timeout_s: float
    ) -> Sequence[bool]:
        return [True for _ in refs]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def catalogue(shelf: Shelf) -> Catalogue:
    return Catalogue(shelf, capacity=4, timeout_s=1.0)


async def test_what_was_read_is_not_read_again(shelf: Shelf, catalogue: Catalogue) -> None:
    shelf.items = {1: item(1), 2: item(2)}
    assert await catalogue.get([2, 9, 1], timeout_s=1.0) == [item(2), None, item(1)]
    assert await catalogue.get([1, 2, 9], timeout_s=1.0) == [item(1), item(2), None]
    assert shelf.asked == [(2, 9, 1)]


async def test_many_who_wait_ask_once(shelf: Shelf, catalogue: Catalogue) -> None:
    shelf.items = {1: item(1), 2: item(2)}
    shelf.gate.clear()
    reads = [asyncio.create_task(catalogue.get([1, key], timeout_s=1.0)) for key in (1, 2, 2)]
    await asyncio.sleep(0.01)
    reads[0].cancel()
    shelf.gate.set()
    assert await reads[1] == [item(1), item(2)]
    assert await reads[2] == [item(1), item(2)]
    assert shelf.asked == [(1,), (2,)]


async def test_the_least_recently_used_go_first(shelf: Shelf, catalogue: Catalogue) -> None:
    shelf.items = {key: item(key) for key in range(10)}
    await catalogue.get([0, 1, 2, 3], timeout_s=1.0)
    await catalogue.get([0], timeout_s=1.0)
    await catalogue.get([4, 5, 6], timeout_s=1.0)
    assert catalogue.peek(0) is not None
    assert catalogue.peek(1) is None


async def test_a_state_that_was_overtaken_while_it_was_read_is_not_kept(shelf: Shelf, catalogue: Catalogue) -> None:
    shelf.items = {1: item(1, "old", 1)}
    shelf.gate.clear()
    read = asyncio.create_task(catalogue.get([1], timeout_s=1.0))
    await asyncio.sleep(0.01)
    catalogue.put(item(1, "new", 2))
    shelf.gate.set()
    assert await read == [item(1, "new", 2)]
    catalogue.put(item(1, "older", 0))
    assert catalogue.peek(1) == item(1, "new", 2)


async def test_a_deleted_item_stays_away_though_the_store_still_has_it(shelf: Shelf, catalogue: Catalogue) -> None:
    shelf.items = {1: item(1, updated_at_ms=5)}
    await catalogue.get([1], timeout_s=1.0)
    catalogue.delete(1, 4)
    assert catalogue.peek(1) is not None
    catalogue.delete(1, 6)
    assert await catalogue.get([1], timeout_s=1.0) == [None]
    with pytest.raises(NotFoundError):
        await catalogue.one(1, timeout_s=1.0)
    catalogue.put(item(1, "back", 7))
    assert (await catalogue.one(1, timeout_s=1.0)).title == "back"


async def test_what_was_written_is_known_before_the_store_has_it(catalogue: Catalogue) -> None:
    assert await catalogue.get([1], timeout_s=1.0) == [None]
    catalogue.put(item(1))
    for key in range(2, 8):
        catalogue.put(item(key))
    assert await catalogue.get([1], timeout_s=1.0) == [item(1)]


async def test_a_failed_read_raises_and_is_tried_again(shelf: Shelf, catalogue: Catalogue) -> None:
    shelf.items = {1: item(1), 2: item(2)}
    await catalogue.get([2], timeout_s=1.0)
    shelf.error = UnavailableError("down")
    with pytest.raises(UnavailableError):
        await catalogue.get([1, 2], timeout_s=1.0)
    shelf.error = None
    assert await catalogue.get([1, 2], timeout_s=1.0) == [item(1), item(2)]


async def test_a_read_that_takes_too_long_is_told_and_goes_on(shelf: Shelf, catalogue: Catalogue) -> None:
    shelf.items = {1: item(1)}
    shelf.gate.clear()
    with pytest.raises(DeadlineExceededError):
        await catalogue.get([1], timeout_s=0.01)
    shelf.gate.set()
    await asyncio.sleep(0.01)
    assert catalogue.peek(1) == item(1)


async def test_names_of_attributes_are_learned(catalogue: Catalogue) -> None:
    assert not catalogue.knows_attribute("t", "year")
    catalogue.put(replace(item(1), attributes={"year": 1957.0}))
    assert catalogue.knows_attribute("t", "year")
    assert not catalogue.knows_attribute("other", "year")
