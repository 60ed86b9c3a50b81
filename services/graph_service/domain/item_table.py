"""Gives items small numbers, their positions, and says which of them may be shown."""

from collections import OrderedDict
from collections.abc import Container, Iterable, Mapping

import numpy as np
import numpy.typing as npt

from graph_service.domain.graph import NEVER_MS, FilterableItem, ItemFacts, Keys
from servicekit.filters import Filter, matches

Positions = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]

MAX_FILTERS = 64
"""Filters whose verdicts are remembered, a byte an item each."""

UNKNOWN, FAILS, PASSES = 0, 1, 2


class ItemTable:
    """Every item that any cached list mentions, at a position that never changes; some 150 bytes an item.

    An item of unknown facts may not be shown.
    """

    def __init__(self) -> None:
        self._position_of: dict[int, int] = {}
        self._tenant_codes: dict[str, int] = {}
        self._keys = np.zeros(1024, dtype=np.int64)
        self._visible_from_ms = np.full(1024, NEVER_MS, dtype=np.int64)
        self._visible_until_ms = np.full(1024, NEVER_MS, dtype=np.int64)
        self._tenants = np.full(1024, -1, dtype=np.int32)
        self._shown: dict[str, _Shown] = {}
        self._verdicts: OrderedDict[Filter, npt.NDArray[np.int8]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._position_of)

    @property
    def keys(self) -> Keys:
        """Give the key of each position; the array is longer than the table."""
        return self._keys

    def unknown(self, keys: Iterable[int]) -> list[int]:
        """Give those that have no position yet."""
        return [key for key in keys if key not in self._position_of]

    def place(self, keys: Iterable[int], facts: Mapping[int, ItemFacts]) -> None:
        """Give positions to items that have none, with their facts as far as there are any."""
        for key in self.unknown(keys):
            position = len(self._position_of)
            if position == len(self._keys):
                self._grow()
            self._position_of[key] = position
            self._keys[position] = key
            if key in facts:
                self._set(position, facts[key])

    def positions(self, keys: Keys) -> Positions:
        """Give the positions of items that have one."""
        return np.array([self._position_of[key] for key in keys.tolist()], dtype=np.intp)

    def change(self, key: int, facts: ItemFacts) -> None:
        """Note new facts and attributes of an item; one without a position is none of our business."""
        position = self._position_of.get(key)
        if position is not None:
            self._set(position, facts)
            for verdicts in self._verdicts.values():
                verdicts[position] = UNKNOWN

    def shown(self, tenant: str, now_ms: int) -> Mask:
        """Say for every position whether the tenant may show that item now."""
        shown = self._shown.get(tenant)
        if shown is None or not shown.since_ms <= now_ms < shown.until_ms:
            shown = self._shown[tenant] = self._look(tenant, now_ms)
        return shown.mask

    def verdicts(self, conditions: Filter) -> npt.NDArray[np.int8]:
        """Give what is known of each position under a filter: UNKNOWN, FAILS or PASSES; valid until the next await."""
        verdicts = self._verdicts.get(conditions)
        if verdicts is None or len(verdicts) < len(self._keys):
            known = np.zeros(0, dtype=np.int8) if verdicts is None else verdicts
            verdicts = np.concatenate([known, np.zeros(len(self._keys) - len(known), dtype=np.int8)])
            self._verdicts[conditions] = verdicts
        self._verdicts.move_to_end(conditions)
        if len(self._verdicts) > MAX_FILTERS:
            self._verdicts.popitem(last=False)
        return verdicts

    def judge(
        self, conditions: Filter, keys: Keys, items: Mapping[int, FilterableItem], *, changed: Container[int] = ()
    ) -> None:
        """Remember which of these items pass; one that is not among `items`, or has changed since, does not."""
        verdicts = self.verdicts(conditions)
        for key in keys.tolist():
            item = items.get(key)
            if key not in changed:
                passes = item is not None and matches(conditions, item.get)
                verdicts[self._position_of[key]] = PASSES if passes else FAILS

    def _set(self, position: int, facts: ItemFacts) -> None:
        self._visible_from_ms[position] = facts.visible_from_ms
        self._visible_until_ms[position] = facts.visible_until_ms
        self._tenants[position] = self._tenant_codes.setdefault(facts.tenant, len(self._tenant_codes))
        self._shown.clear()

    def _look(self, tenant: str, now_ms: int) -> "_Shown":
        changes = np.concatenate([self._visible_from_ms, self._visible_until_ms])
        mask = (
            (self._visible_from_ms <= now_ms)
            & (now_ms < self._visible_until_ms)
            & (self._tenants == self._tenant_codes.get(tenant, -2))
        )
        until_ms = int(changes.min(where=changes > now_ms, initial=NEVER_MS))
        since_ms = int(changes.max(where=changes <= now_ms, initial=0))
        return _Shown(mask, since_ms, until_ms)

    def _grow(self) -> None:
        size = len(self._keys)
        self._keys = np.concatenate([self._keys, np.zeros(size, dtype=np.int64)])
        never = np.full(size, NEVER_MS, dtype=np.int64)
        self._visible_from_ms = np.concatenate([self._visible_from_ms, never])
        self._visible_until_ms = np.concatenate([self._visible_until_ms, never])
        self._tenants = np.concatenate([self._tenants, np.full(size, -1, dtype=np.int32)])
        self._shown.clear()


class _Shown:
    """A mask over all positions and the span of time in which it holds."""

    __slots__ = ("mask", "since_ms", "until_ms")

    def __init__(self, mask: Mask, since_ms: int, until_ms: int) -> None:
        self.mask = mask
        self.since_ms = since_ms
        self.until_ms = until_ms
