"""A part of the catalogue, for lists that popularity cannot fill because hardly anything was ever touched."""

import time
from collections import OrderedDict
from collections.abc import Sequence

from hot_path_api.domain.items import Item
from hot_path_api.domain.ports import Items
from servicekit.clock import Clock
from servicekit.filters import Filter, Operator

_FRESH_S = 5.0
_CAPACITY = 100
_LENGTH = 1_000


class Stock:
    """The first items of each kind, in the order of the catalogue, read again every few seconds when needed.

    Args:
        items: The catalogue.
        clock: Says what is available now.
        timeout_s: How long one read may take.
    """

    def __init__(self, items: Items, *, clock: Clock, timeout_s: float) -> None:
        self._items = items
        self._clock = clock
        self._timeout_s = timeout_s
        self._kept: OrderedDict[tuple[str, str], tuple[float, Sequence[Item]]] = OrderedDict()

    async def that_pass(self, tenant: str, conditions: Filter) -> list[int]:
        """Give the keys of available items that pass; of a large catalogue only of its first items.

        Raises:
            ServiceError: The catalogue cannot be read.
        """
        now_ms = self._clock.now_ms()
        kind = next((str(p.values[0]) for p in conditions if p.field == "item_type" and p.operator is Operator.EQ), "")
        return [
            item.key for item in await self._read(tenant, kind) if item.is_available(now_ms) and item.passes(conditions)
        ]

    async def _read(self, tenant: str, kind: str) -> Sequence[Item]:
        kept = self._kept.get((tenant, kind))
        if kept is not None and kept[0] > time.monotonic():
            return kept[1]
        items, _ = await self._items.list_items(
            tenant, item_type=kind, limit=_LENGTH, cursor="", timeout_s=self._timeout_s
        )
        self._kept[tenant, kind] = (time.monotonic() + _FRESH_S, items)
        self._kept.move_to_end((tenant, kind))
        if len(self._kept) > _CAPACITY:
            self._kept.popitem(last=False)
        return items
