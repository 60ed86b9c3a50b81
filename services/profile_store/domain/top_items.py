"""One tenant's items in the order of their popularity, as arrays that every write keeps current.

The store's adapter owns one for each tenant: it tells it every item and every sum that changed, after the commit and in
the order of the commits. Of an item it may also tell only that it changed: such a one, and one that was never told of,
is read when it is about to be listed. Reads and writes happen on one event loop.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from profile_store.domain.items import Item
from profile_store.domain.popularity import (
    WINDOWS,
    DecayedSums,
    PopularityList,
    PopularityQuery,
    Window,
)
from servicekit.arrays import Keys
from servicekit.filters import Filter, matches

_ALWAYS = np.iinfo(np.int64).min
_NEVER = np.iinfo(np.int64).max
_UNKNOWN, _FAILS, _PASSES = np.int8(0), np.int8(1), np.int8(2)
_MAX_FILTERS = 128
_EVALUATED_AT_ONCE = 256
"""How many items are read and tested against a filter before others get their turn: a few milliseconds."""

_Rows = npt.NDArray[np.intp]
ReadItems = Callable[[Sequence[int]], Awaitable[Sequence[Item]]]


@dataclass(frozen=True, slots=True)
class Listing:
    """What decides without a filter whether an item may be in a list; None for the times means no bound."""

    item_type: str
    hidden: bool
    available_from_ms: int | None
    available_until_ms: int | None

    @classmethod
    def of(cls, item: Item) -> "Listing":
        """Take it from the item."""
        return cls(item.item_type, item.hidden, item.available_from_ms, item.available_until_ms)


class TopItems:
    """Answers what is most popular in microseconds for thousands of items, in milliseconds for hundreds of thousands.

    Which items pass a filter is remembered for the latest filters, item by item, until the item changes.
    """

    def __init__(self) -> None:
        self._rows: dict[int, int] = {}
        self._types: dict[str, int] = {}
        self._masks: OrderedDict[tuple[object, ...], npt.NDArray[np.int8]] = OrderedDict()
        self._allocate(64)

    def set_listing(self, key: int, listing: Listing | None) -> None:
        """Tell what an item is now; None: it does not exist."""
        row = self._row(key)
        for mask in self._masks.values():
            mask[row] = _UNKNOWN
        self._told[row] += 1
        self._known[row] = True
        self._listed[row] = listing is not None and not listing.hidden
        if listing is not None:
            self._type[row] = self._types.setdefault(listing.item_type, len(self._types))
            self._from[row] = _ALWAYS if listing.available_from_ms is None else listing.available_from_ms
            self._until[row] = _NEVER if listing.available_until_ms is None else listing.available_until_ms

    def forget_listing(self, key: int) -> None:
        """Tell that an item may have changed."""
        row = self._row(key)
        for mask in self._masks.values():
            mask[row] = _UNKNOWN
        self._told[row] += 1
        self._known[row] = False

    def set_sums(self, keys: Sequence[int], sums: DecayedSums) -> None:
        """Tell the sums of some items, whether these exist or not."""
        rows = np.array([self._row(key) for key in keys], dtype=np.intp)
        self._reference[rows] = sums.reference_ms
        self._sums[rows] = sums.sums
        self._order[:, rows] = sums.order().T

    def clear_sums(self) -> None:
        """Forget all sums, before they are told anew."""
        self._reference[:] = 0
        self._sums[:] = 0.0
        self._order[:] = -np.inf

    async def most_popular(self, query: PopularityQuery, *, now_ms: int, read_items: ReadItems) -> PopularityList:
        """See PopularityStore; `read_items` gives those of the items asked for that exist."""
        while True:
            mask = self._mask(query.filter) if query.filter else None
            candidates = self._eligible(query, now_ms)
            if mask is not None:
                candidates = candidates[mask[candidates] != _FAILS]
            best = self._best(candidates, query.window, query.limit)
            if self._settled(best, mask).all():
                return self._list(best, query, now_ms)
            # Read the foremost open ones and a few more, since they are the next to be asked for.
            unknown = candidates[~self._settled(candidates, mask)]
            await self._test(self._best(unknown, query.window, _EVALUATED_AT_ONCE), query.filter, read_items)
            await asyncio.sleep(0)

    def _settled(self, rows: _Rows, mask: npt.NDArray[np.int8] | None) -> npt.NDArray[np.bool_]:
        """Tell of candidates which are known to be in their place."""
        return self._known[rows] if mask is None else self._known[rows] & (mask[rows] == _PASSES)

    def _eligible(self, query: PopularityQuery, now_ms: int) -> _Rows:
        size = len(self._rows)
        listed = self._listed[:size] & (self._from[:size] <= now_ms) & (now_ms < self._until[:size])
        if query.item_type is not None:
            listed &= self._type[:size] == self._types.get(query.item_type, -1)
        return np.flatnonzero((listed | ~self._known[:size]) & (self._order[query.window, :size] > -np.inf))

    def _best(self, rows: _Rows, window: Window, limit: int) -> _Rows:
        order = self._order[window]
        if len(rows) > limit:
            ranks = order[rows]
            worst = np.partition(ranks, len(rows) - limit)[len(rows) - limit]
            rows = rows[ranks >= worst]  # with all that tie with the last one
        return rows[np.lexsort((self._keys[rows], -order[rows]))][:limit]

    def _list(self, rows: _Rows, query: PopularityQuery, now_ms: int) -> PopularityList:
        sums = DecayedSums(self._reference[rows], self._sums[rows])
        return PopularityList(self._keys[rows], sums.worth(query.window, now_ms).astype(np.float32))

    async def _test(self, rows: _Rows, wanted: Filter, read_items: ReadItems) -> None:
        keys, told = self._keys[rows].tolist(), self._told[rows]
        found = {item.ref.key: item for item in await read_items(keys)}
        for key, row, version in zip(keys, rows.tolist(), told.tolist(), strict=True):
            if self._told[row] != version:
                continue  # it changed meanwhile
            item = found.get(key)
            self.set_listing(key, None if item is None else Listing.of(item))
            if wanted:
                passes = item is not None and matches(wanted, item.attribute)
                self._mask(wanted)[row] = _PASSES if passes else _FAILS

    def _mask(self, wanted: Filter) -> npt.NDArray[np.int8]:
        # As a key of a dict True equals 1.0, as an operand it does not.
        name = (wanted, tuple(type(value) for predicate in wanted for value in predicate.values))
        mask = self._masks.get(name)
        if mask is None:
            mask = self._masks[name] = np.zeros(len(self._keys), dtype=np.int8)
            if len(self._masks) > _MAX_FILTERS:
                self._masks.popitem(last=False)
        self._masks.move_to_end(name)
        return mask

    def _row(self, key: int) -> int:
        row = self._rows.get(key)
        if row is None:
            row = len(self._rows)
            if row == len(self._keys):
                self._grow()
            self._rows[key] = row
            self._keys[row] = key
        return row

    def _allocate(self, capacity: int) -> None:
        self._keys: Keys = np.zeros(capacity, dtype=np.int64)
        self._known = np.zeros(capacity, dtype=np.bool_)
        self._told = np.zeros(capacity, dtype=np.int64)
        self._listed = np.zeros(capacity, dtype=np.bool_)
        self._type = np.full(capacity, -1, dtype=np.int32)
        self._from = np.full(capacity, _ALWAYS, dtype=np.int64)
        self._until = np.full(capacity, _NEVER, dtype=np.int64)
        self._reference = np.zeros(capacity, dtype=np.int64)
        self._sums = np.zeros((capacity, WINDOWS))
        self._order = np.full((WINDOWS, capacity), -np.inf)

    def _grow(self) -> None:
        names = ("_keys", "_known", "_told", "_listed", "_type", "_from", "_until", "_reference", "_sums")
        old = {name: getattr(self, name) for name in names}
        order, size = self._order, len(self._keys)
        self._allocate(2 * size)
        for name, values in old.items():
            getattr(self, name)[:size] = values
        self._order[:, :size] = order
        for name_of_filter, mask in self._masks.items():
            self._masks[name_of_filter] = np.concatenate((mask, np.zeros(size, dtype=np.int8)))
