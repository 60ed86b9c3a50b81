"""When items were deleted, kept beside their vectors, so that an older state that comes late brings none back."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import numpy as np

from servicekit.arrays import Keys
from servicekit.errors import NotFoundError
from vector_search.domain.dense import DenseIndex, Distance, Mark, Payload, Points, Space
from vector_search.domain.ports import DenseStore

DELETIONS: Final = "deletions.0"
"""A collection that never serves: its points are deleted items, their vectors mean nothing, their marks say when."""
_SPACE: Final = Space(1, Distance.DOT)

_T = TypeVar("_T")


class Deletions:
    """The deletions of each tenant, in the store of its vectors."""

    def __init__(self, store: DenseStore) -> None:
        self._store = store
        self._opened: dict[str, DenseIndex] = {}

    async def times_ms(self, tenant: str, keys: Keys) -> list[int]:
        """Give when each item was last deleted, 0 for never."""
        if (
            not self._store.is_shared
            and tenant not in self._opened
            and DELETIONS not in await self._store.names(tenant)
        ):
            return [0] * len(keys)  # making an empty one would cost each tenant a folder of its own
        marks = await self._ask(tenant, lambda index: index.marks(keys))
        return [mark.updated_at_ms if mark else 0 for mark in marks]

    async def note(self, tenant: str, keys: Keys, times_ms: Sequence[int]) -> None:
        """Remember deletions; of an item's several the latest."""
        latest: dict[int, int] = {}
        known = await self.times_ms(tenant, keys)
        for key, *times in zip(keys.tolist(), known, times_ms, strict=True):
            latest[key] = max(latest.get(key, 0), *times)
        payloads = [Payload(mark=Mark(updated_at_ms=at_ms)) for at_ms in latest.values()]
        points = Points(np.array(list(latest), np.int64), np.ones((len(latest), 1), np.float32), payloads)
        await self._ask(tenant, lambda index: index.upsert(points))

    async def _ask(self, tenant: str, ask: Callable[[DenseIndex], Awaitable[_T]]) -> _T:
        try:
            return await ask(await self._index(tenant))
        except NotFoundError:  # somebody has emptied the server since we looked
            self._opened.pop(tenant, None)
            return await ask(await self._index(tenant))

    async def _index(self, tenant: str) -> DenseIndex:
        if tenant not in self._opened:
            self._opened[tenant] = await self._store.create(tenant, DELETIONS, _SPACE)
        return self._opened[tenant]
