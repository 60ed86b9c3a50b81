"""Which items there are and which may be recommended to whom, at this very moment.

A catalogue is a model version's items, as columns, plus what has happened to items since. A filter becomes a mask over
item numbers that is kept; a change to an item is entered into the kept masks when they are next asked for.
"""

from collections import OrderedDict
from dataclasses import dataclass
from sys import intern
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from servicekit.arrays import Keys
from servicekit.clock import Clock
from servicekit.filters import AttributeValue, Filter, matches
from vector_search.domain.columns import NO_COLUMNS, ColumnStore, Mask, passing
from vector_search.domain.items import Fields, ItemState
from vector_search.domain.numbering import Numbering

ALWAYS_MS = np.iinfo(np.int64).min
NEVER_MS = np.iinfo(np.int64).max

_Scalar = TypeVar("_Scalar", bound=np.generic)
_Times = npt.NDArray[np.int64]
_NOTHING: Fields = {}


@dataclass(frozen=True, slots=True)
class VersionItems:
    """The items of a model version; row = item number, by which all arrays are sorted."""

    keys: Keys
    updated_at_ms: _Times
    hidden: Mask
    available_from_ms: _Times
    available_until_ms: _Times
    columns: ColumnStore


NO_ITEMS = VersionItems(
    np.empty(0, np.int64),
    np.empty(0, np.int64),
    np.empty(0, np.uint8),
    np.empty(0, np.int64),
    np.empty(0, np.int64),
    NO_COLUMNS,
)


@dataclass(slots=True)
class _KeptMask:
    mask: Mask
    seen: int  # how much of the journal is in it


class Catalogue:
    """The items of one tenant as one model version and the changes since leave them; one thread changes it.

    Args:
        items: Those of the model version.
        clock: Tells which availability windows are open.
        mask_bytes: The most memory for masks of filters; those not used for longest go first.
    """

    def __init__(self, items: VersionItems, *, clock: Clock, mask_bytes: int = 32_000_000) -> None:
        self.numbering = Numbering(items.keys)
        self.version_count = len(items.keys)
        self._columns = items.columns
        self._clock = clock
        self._mask_bytes = mask_bytes
        capacity = self.numbering.capacity
        self._updated = _copy(items.updated_at_ms, capacity, ALWAYS_MS)
        self._from = _copy(items.available_from_ms, capacity, ALWAYS_MS)
        self._until = _copy(items.available_until_ms, capacity, NEVER_MS)
        self._present = _copy(np.ones(self.version_count, np.uint8), capacity, 0)
        self._shown = _copy(1 - items.hidden, capacity, 0)
        self._available = np.zeros(capacity, np.uint8)
        self._next_window_ms = ALWAYS_MS
        self._fields: dict[int, Fields] = {}  # of what changed since the version
        self._journal: list[int] = []
        self._masks: OrderedDict[Filter, _KeptMask] = OrderedDict()
        self._everything = np.ones(capacity, np.uint8)

    @property
    def newcomers(self) -> int:
        """How many items are there that the version does not know."""
        return int(np.count_nonzero(self._present[self.version_count : self.numbering.count]))

    @property
    def changes(self) -> int:
        """How many items have changed since the version."""
        return len(self._fields)

    def number(self, key: int) -> int:
        """Give an item's number; an unknown one gets a number and is not there until it is put."""
        number = self.numbering.number(key)
        if self.numbering.capacity > len(self._present):
            self._grow(self.numbering.capacity)
        return number

    def has(self, key: int) -> bool:
        """Tell whether the item is there, hidden or not."""
        number = self.numbering.find_one(key)
        return number >= 0 and bool(self._present[number])

    def knows(self, key: int) -> bool:
        """Tell whether anything was ever said about the item, be it that it was deleted."""
        number = self.numbering.find_one(key)
        return number >= 0 and bool(self._updated[number] != ALWAYS_MS)

    def put(self, item: ItemState) -> bool:
        """Enter an item's state; an older one than what is known changes nothing and gives False."""
        number = self.number(item.key)
        if not self._is_news(number, item.updated_at_ms):
            return False
        self._fields[number] = {intern(name): _share(value) for name, value in item.fields.items()}
        self._from[number] = ALWAYS_MS if item.available_from_ms is None else item.available_from_ms
        self._until[number] = NEVER_MS if item.available_until_ms is None else item.available_until_ms
        self._shown[number] = not item.hidden
        self._present[number] = 1
        self._enter(number, item.updated_at_ms)
        return True

    def remove(self, key: int, at_ms: int) -> bool:
        """Take an item out; False when a later state of it is known."""
        number = self.number(key)
        if not self._is_news(number, at_ms):
            return False
        self._fields[number] = _NOTHING
        self._present[number] = 0
        self._enter(number, at_ms)
        return True

    def forget(self, key: int) -> None:
        """Take an item out in the state in which it is known; any later state counts again."""
        number = self.numbering.find_one(key)
        if number >= 0 and self._updated[number] != ALWAYS_MS:
            self.remove(key, int(self._updated[number]) + 1)

    def available(self) -> Mask:
        """Give the mask of what may be recommended to anybody now: there, not hidden, within its window."""
        now_ms = self._clock.now_ms()
        if now_ms >= self._next_window_ms:
            self._available[:] = self._present & self._shown & (self._from <= now_ms) & (now_ms < self._until)
            ahead = [times[times > now_ms] for times in (self._from, self._until)]
            self._next_window_ms = min(int(times.min(initial=NEVER_MS)) for times in ahead)
        return self._available

    def passing(self, conditions: Filter) -> Mask:
        """Give the mask of what passes a filter; it is kept and must not be written to."""
        if not conditions:
            return self._everything
        kept = self._masks.get(conditions)
        if kept is None:
            kept = _KeptMask(self._evaluate(conditions), len(self._journal))
            self._masks[conditions] = kept
            while len(self._masks) > max(1, self._mask_bytes // len(self._present)):
                self._masks.popitem(last=False)
        else:
            for number in self._journal[kept.seen :]:
                kept.mask[number] = self._matches(conditions, number)
            kept.seen = len(self._journal)
        self._masks.move_to_end(conditions)
        return kept.mask

    def admitted(self, keys: Keys, conditions: Filter) -> npt.NDArray[np.bool_]:
        """Tell for each of some stored items whether it may be recommended; one that we never heard of may."""
        numbers = self.numbering.find(keys)
        heard_of = (numbers >= 0) & (self._updated[numbers] != ALWAYS_MS)
        allowed = (self.available() & self.passing(conditions))[numbers] != 0
        return np.asarray(~heard_of | allowed, np.bool_)

    def _is_news(self, number: int, at_ms: int) -> bool:
        """Of two changes at the same moment the one that comes later counts; the version holds its own already."""
        known_ms = int(self._updated[number])
        return at_ms > known_ms or (at_ms == known_ms and number in self._fields)

    def _enter(self, number: int, at_ms: int) -> None:
        self._updated[number] = at_ms
        now_ms = self._clock.now_ms()
        opens, closes = int(self._from[number]), int(self._until[number])
        self._available[number] = self._present[number] and self._shown[number] and opens <= now_ms < closes
        ahead = [moment for moment in (opens, closes) if moment > now_ms]
        self._next_window_ms = min([self._next_window_ms, *ahead])
        self._journal.append(number)
        if len(self._journal) > self._longest_journal():
            self._journal.clear()
            self._masks.clear()

    def _longest_journal(self) -> int:
        """Beyond this, evaluating a filter anew is cheaper than catching up."""
        return 1_000 + self.numbering.count // 8

    def _evaluate(self, conditions: Filter) -> Mask:
        mask = np.zeros(len(self._present), np.uint8)
        version = np.ones(self.version_count, np.uint8)
        for predicate in conditions:
            version &= passing(self._columns, predicate)
        mask[: self.version_count] = version
        for number in self._fields:
            mask[number] = self._matches(conditions, number)
        return mask

    def _matches(self, conditions: Filter, number: int) -> bool:
        return matches(conditions, self._fields[number].get)

    def _grow(self, capacity: int) -> None:
        """Replace the arrays; whoever holds the old ones never meets a number beyond them."""
        self._updated = _copy(self._updated, capacity, ALWAYS_MS)
        self._from = _copy(self._from, capacity, ALWAYS_MS)
        self._until = _copy(self._until, capacity, NEVER_MS)
        self._present = _copy(self._present, capacity, 0)
        self._shown = _copy(self._shown, capacity, 0)
        self._available = _copy(self._available, capacity, 0)
        self._everything = np.ones(capacity, np.uint8)
        self._masks.clear()


def _share(value: AttributeValue) -> AttributeValue:
    """Keep one copy of each text: the same genres stand at thousands of items."""
    if isinstance(value, str):
        return intern(value)
    return tuple(map(intern, value)) if isinstance(value, tuple) else value


def _copy(values: npt.NDArray[_Scalar], capacity: int, rest: int) -> npt.NDArray[_Scalar]:
    grown = np.full(capacity, rest, values.dtype)
    grown[: len(values)] = values
    return grown
