"""Refuses filters on attributes that no item has, because they are misspelt far more often than meant."""

import asyncio
import time

from hot_path_api.application.catalogue import Catalogue
from hot_path_api.domain.ports import Items
from servicekit.errors import InvalidArgumentError, ServiceError
from servicekit.filters import Filter

_OWN_FIELDS = frozenset({"item_type", "created_at_ms"})
_PAGE = 1_000
# A catalogue larger than this is not searched to the end, and a name not found in it passes.
_MAX_PAGES = 100
_SEARCH_AGAIN_S = 30.0


class KnownAttributes:
    """Knows the names of attributes from items that passed by; an unknown name is looked for in the catalogue.

    Args:
        items: The catalogue.
        catalogue: Sees all items that pass by.
        timeout_s: How long one page may take.
    """

    def __init__(self, items: Items, catalogue: Catalogue, *, timeout_s: float) -> None:
        self._items = items
        self._catalogue = catalogue
        self._timeout_s = timeout_s
        self._searched: dict[str, tuple[float, bool]] = {}
        self._lock = asyncio.Lock()

    async def require(self, tenant: str, conditions: Filter) -> None:
        """Check that the attributes of a filter exist.

        Raises:
            InvalidArgumentError: No item has one of them.
        """
        for predicate in conditions:
            name = predicate.field
            if name in _OWN_FIELDS or self._catalogue.knows_attribute(tenant, name):
                continue
            if await self._is_nowhere(tenant, name):
                raise InvalidArgumentError(f"no item has an attribute {name!r}", field=f"filter.{name}")

    async def _is_nowhere(self, tenant: str, name: str) -> bool:
        async with self._lock:
            searched_at, to_the_end = self._searched.get(tenant, (-_SEARCH_AGAIN_S, False))
            if time.monotonic() - searched_at >= _SEARCH_AGAIN_S:
                to_the_end = await self._search(tenant)
                self._searched[tenant] = (time.monotonic(), to_the_end)
        return to_the_end and not self._catalogue.knows_attribute(tenant, name)

    async def _search(self, tenant: str) -> bool:
        """Learn from the whole catalogue; tell whether all of it was seen."""
        cursor = ""
        for _ in range(_MAX_PAGES):
            try:
                items, cursor = await self._items.list_items(
                    tenant, item_type="", limit=_PAGE, cursor=cursor, timeout_s=self._timeout_s
                )
            except ServiceError:
                return False
            self._catalogue.learn_attributes(items)
            if not cursor:
                return True
        return False
