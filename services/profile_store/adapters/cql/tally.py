"""One tenant's popularity as this replica knows it, made of the rows of the feed, each counted once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from profile_store.adapters.cql.columns import Columns
from profile_store.adapters.cql.feed import FeedRow, Kind, slot_of
from profile_store.adapters.cql.types import TypesOfTenant
from profile_store.domain.popularity import DecayedSums, SumTable
from profile_store.domain.top_items import TopItems
from servicekit.arrays import Keys


@dataclass(slots=True)
class Slot:
    """What was read of a slot that is not settled, or of the last one that is."""

    deeds: set[int] = field(default_factory=set)
    removals: set[int] = field(default_factory=set)
    items: set[int] = field(default_factory=set)
    """The arrival numbers of the rows that tell of changed items."""
    last_arrival: int = 0


class Recount(Exception):  # noqa: N818 - it asks for something
    """The sums must be made anew; `arrival` is the number of the row that says so."""

    def __init__(self, arrival: int) -> None:
        super().__init__(arrival)
        self.arrival = arrival


class Tally:
    """One tenant's sums and listings.

    Args:
        tenant: Whose.
        kinds: How interactions weigh; a change is a reason to count anew.
        recounted: The latest request to count anew that these sums follow.
    """

    def __init__(self, tenant: str, kinds: TypesOfTenant, recounted: int) -> None:
        self.tenant = tenant
        self.kinds = kinds
        self.recounted = recounted
        self.top = TopItems()
        self.settled = SumTable()
        self.settled_through = -1
        self.unsaved = 0
        self.slots: dict[int, Slot] = {}
        self._live = SumTable()

    def start_from(self, slot: int, keys: Keys, sums: DecayedSums, last: Columns) -> None:
        """Begin with the settled sums through a slot instead of with nothing; `last` are the rows of that slot."""
        self.settled_through = slot
        self.settled = SumTable.of(keys, sums)
        self._live = SumTable.of(keys, DecayedSums(sums.reference_ms.copy(), sums.sums.copy()))
        self.top.set_sums(keys.tolist(), sums)
        self.slots[slot] = Slot(
            set(last["event_key"][last["kind"] == Kind.DEED].tolist()),
            set(last["event_key"][last["kind"] == Kind.REMOVAL].tolist()),
        )

    def follow(self, slot: int, rows: Columns) -> None:
        """Bring the live sums up to date with rows of a slot, old and new ones.

        Raises:
            Recount: A row asks for it.
        """
        kind = rows["kind"]
        asked = rows["arrival"][kind == Kind.RECOUNT]
        if len(asked) and int(asked.max()) > self.recounted:
            raise Recount(int(asked.max()))
        here = self.slots.setdefault(slot, Slot())
        for place in np.flatnonzero(kind == Kind.ITEM).tolist():
            if int(rows["arrival"][place]) not in here.items:
                here.items.add(int(rows["arrival"][place]))
                self.top.forget_listing(int(rows["item_key"][place]))
        near = [self.slots[each] for each in (slot - 1, slot + 1) if each in self.slots]
        deeds = self._new(rows, kind == Kind.DEED, here.deeds, [each.deeds for each in near])
        if len(deeds):
            changed = self._live.add(*self._shares(rows, deeds))
            self.top.set_sums(changed[0].tolist(), changed[1])
        # A removal may become visible before its deed; it then waits until both are read again.
        ready = kind == Kind.REMOVAL
        for place in np.flatnonzero(ready).tolist():
            ready[place] = self._was_counted(int(rows["event_key"][place]), int(rows["original"][place]))
        removals = self._new(rows, ready, here.removals, [each.removals for each in near])
        if len(removals):
            changed = self._live.subtract(*self._shares(rows, removals))
            self.top.set_sums(changed[0].tolist(), changed[1])

    def settle(self, slot: int, rows: Columns) -> None:
        """Add all rows of a complete slot to the settled sums; slots come in order."""
        before = self.slots.get(slot - 1, Slot())
        kind = rows["kind"]
        deeds = self._new(rows, kind == Kind.DEED, set(), [before.deeds])
        removals = self._new(rows, kind == Kind.REMOVAL, set(), [before.removals])
        if len(deeds):
            self.settled.add(*self._shares(rows, deeds))
        if len(removals):
            self.settled.subtract(*self._shares(rows, removals))
        self.settled_through = slot
        self.unsaved += len(deeds) + len(removals)
        here = self.slots.setdefault(slot, Slot())
        here.deeds.update(rows["event_key"][kind == Kind.DEED].tolist())
        here.removals.update(rows["event_key"][kind == Kind.REMOVAL].tolist())
        for old in [each for each in self.slots if each < slot]:
            del self.slots[old]

    def _was_counted(self, key: int, original: int) -> bool:
        slot = slot_of(original)
        return slot <= self.settled_through or any(
            key in self.slots[each].deeds for each in (slot - 1, slot, slot + 1) if each in self.slots
        )

    @staticmethod
    def _new(
        rows: Columns, of_kind: npt.NDArray[np.bool_], here: set[int], near: Sequence[set[int]]
    ) -> npt.NDArray[np.intp]:
        """Give the places of rows whose event is in none of the sets; each is then in `here`."""
        places = np.flatnonzero(of_kind)
        new: list[int] = []
        for place, key in zip(places.tolist(), rows["event_key"][places].tolist(), strict=True):
            if key not in here:
                here.add(key)
                if not any(key in each for each in near):
                    new.append(place)
        return np.array(new, dtype=np.intp)

    def _shares(
        self, rows: Columns, places: npt.NDArray[np.intp]
    ) -> tuple[Keys, npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Give items, times and weights of those that weigh something."""
        weights = self.kinds.weigh(rows["type_key"][places], rows["value"][places])[1]
        places, weights = places[weights > 0.0], weights[weights > 0.0]
        return rows["item_key"][places], rows["occurred_at_ms"][places], weights


def columns_of(rows: Sequence[FeedRow]) -> Columns:
    """Give rows as what reading them gives."""
    integers = ("arrival", "event_key", "kind", "item_key", "type_key", "occurred_at_ms", "original")
    columns = {name: np.array([getattr(row, name) for row in rows], dtype=np.int64) for name in integers}
    return {**columns, "value": np.array([row.value for row in rows])}
