"""The gateway's bounded cache of items, kept right by what is written here and by what the event log tells."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from hot_path_api.domain.items import Item
from hot_path_api.domain.ports import Items
from servicekit import metrics
from servicekit.errors import DeadlineExceededError, NotFoundError, ServiceError
from servicekit.tasks import look_at_failure

_CACHE = "items"
_TIER = "gateway"
# An item that was not there is asked for again after this long, unless its creation is heard of before.
_ABSENT_S = 1.0
# Changes are remembered for a while, because the store may still answer the state before them.
_RECENT_CHANGES = 2_000


class Catalogue:
    """Items by key: the least recently used go first, a key is asked for once however many wait for it.

    Args:
        items: Where items come from.
        capacity: How many are kept.
        timeout_s: How long one read may take.
    """

    def __init__(self, items: Items, *, capacity: int, timeout_s: float) -> None:
        self._items = items
        self._capacity = capacity
        self._timeout_s = timeout_s
        self._cached: OrderedDict[int, Item] = OrderedDict()
        self._absent: dict[int, float] = {}
        self._recent: OrderedDict[int, tuple[int, Item | None]] = OrderedDict()
        self._loading: dict[int, asyncio.Task[None]] = {}
        self._attributes: dict[str, set[str]] = {}
        self._hits = metrics.CACHE_HITS.labels(_CACHE, _TIER)
        self._misses = metrics.CACHE_MISSES.labels(_CACHE, _TIER)

    def peek(self, key: int) -> Item | None:
        """Give the item if it is at hand, without asking anybody."""
        item = self._cached.get(key)
        if item is not None:
            self._cached.move_to_end(key)
        return item

    async def get(self, keys: Sequence[int], *, timeout_s: float) -> list[Item | None]:
        """Give the items at these keys, None for one that does not exist.

        Raises:
            ServiceError: Some of the items that were not at hand could not be read, or not in time.
        """
        cached = self._cached
        found: list[Item | None] = [cached.get(key) for key in keys]
        if len(cached) > self._capacity // 2:  # before that nothing is ever dropped, and who was used last matters not
            for key, item in zip(keys, found, strict=True):
                if item is not None:
                    cached.move_to_end(key)
        if all(found):  # an item is never false
            self._hits.inc(len(found))
            return found
        missing = self._to_load(key for key, item in zip(keys, found, strict=True) if item is None)
        self._hits.inc(len(keys) - len(missing))
        if missing:
            self._misses.inc(len(missing))
            await self._load_all(missing, timeout_s)
        return [item or self.peek(key) for key, item in zip(keys, found, strict=True)]

    async def one(self, key: int, *, timeout_s: float) -> Item:
        """Give one item.

        Raises:
            NotFoundError: It does not exist.
            ServiceError: It could not be read.
        """
        (item,) = await self.get([key], timeout_s=timeout_s)
        if item is None:
            raise NotFoundError("there is no such item", field="item_id")
        return item

    def put(self, item: Item) -> None:
        """Take note of an item's new state, unless a newer one is known."""
        if not self._is_news(item.key, item.updated_at_ms):
            return
        self._remember(item.key, item.updated_at_ms, item)
        self._absent.pop(item.key, None)
        self._keep(item)

    def delete(self, key: int, occurred_at_ms: int) -> None:
        """Take note that an item is gone, unless a newer state is known."""
        if not self._is_news(key, occurred_at_ms):
            return
        self._remember(key, occurred_at_ms, None)
        self._cached.pop(key, None)

    def has_heard(self, key: int, at_ms: int) -> bool:
        """Tell whether a change of this moment, or a later one, is known already."""
        recent, cached = self._recent.get(key), self._cached.get(key)
        return (recent is not None and recent[0] >= at_ms) or (cached is not None and cached.updated_at_ms >= at_ms)

    def knows_attribute(self, tenant: str, name: str) -> bool:
        """Tell whether any item that passed by had an attribute of this name."""
        return name in self._attributes.get(tenant, ())

    def learn_attributes(self, items: Iterable[Item]) -> None:
        """Remember the names of the items' attributes."""
        for item in items:
            self._attributes.setdefault(item.tenant, set()).update(item.attributes)

    def _to_load(self, keys: Iterable[int]) -> list[int]:
        """Leave out what is known to be gone, and what a recent change told."""
        wanted = []
        for key in keys:
            recent = self._recent.get(key)
            if recent is not None:
                if recent[1] is not None:
                    self._keep(recent[1])
            elif self._absent.get(key, 0.0) < time.monotonic():
                wanted.append(key)
        return wanted

    async def _load_all(self, keys: Sequence[int], timeout_s: float) -> None:
        new = [key for key in dict.fromkeys(keys) if key not in self._loading]
        if new:
            task = asyncio.get_running_loop().create_task(self._load(new))
            task.add_done_callback(look_at_failure)
            for key in new:
                self._loading[key] = task
        tasks = {self._loading[key] for key in keys}
        done, late = await asyncio.wait(tasks, timeout=timeout_s)
        for task in done:
            task.result()
        if late:
            raise DeadlineExceededError("the items could not be read in time")

    async def _load(self, keys: Sequence[int]) -> None:
        """Read items; a task of its own, so that a caller who gives up does not take the others' answer away."""
        try:
            items = await self._items.get_items(keys, timeout_s=self._timeout_s)
        finally:
            for key in keys:
                self._loading.pop(key, None)
        expires = time.monotonic() + _ABSENT_S
        if len(self._absent) > self._capacity:
            self._absent.clear()
        self._absent.update(dict.fromkeys(set(keys) - {item.key for item in items}, expires))
        for item in items:
            if self._is_news(item.key, item.updated_at_ms):
                self._keep(item)

    def _is_news(self, key: int, at_ms: int) -> bool:
        recent, cached = self._recent.get(key), self._cached.get(key)
        return (recent is None or recent[0] <= at_ms) and (cached is None or cached.updated_at_ms <= at_ms)

    def _remember(self, key: int, at_ms: int, item: Item | None) -> None:
        self._recent[key] = (at_ms, item)
        self._recent.move_to_end(key)
        if len(self._recent) > _RECENT_CHANGES:
            self._recent.popitem(last=False)

    def _keep(self, item: Item) -> None:
        self._cached[item.key] = item
        self._cached.move_to_end(item.key)
        self.learn_attributes((item,))
        if len(self._cached) > self._capacity:
            self._cached.popitem(last=False)


async def read_or_none(catalogue: Catalogue, keys: Sequence[int], *, timeout_s: float) -> list[Item | None] | None:
    """Read items for show only: None when the store does not answer."""
    try:
        return await catalogue.get(keys, timeout_s=timeout_s)
    except ServiceError:
        return None
