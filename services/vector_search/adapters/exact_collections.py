"""The collections of all tenants in memory: the reference DenseStore."""

from collections.abc import AsyncIterable, Sequence

from servicekit.errors import NotFoundError
from vector_search.adapters.exact_index import ExactVectorIndex
from vector_search.domain.dense import DenseIndex, Points, Space
from vector_search.domain.ports import Collection


class ExactDenseStore:
    """A DenseStore that is gone when the process ends."""

    def __init__(self) -> None:
        self._indexes: dict[tuple[str, str], DenseIndex] = {}
        self._current: dict[str, tuple[Collection, ...]] = {}

    async def tenants(self) -> Sequence[str]:
        """Give the tenants that have collections."""
        return sorted({tenant for tenant, _ in self._indexes})

    async def current(self, tenant: str) -> Sequence[Collection]:
        """Give the content collections that count."""
        return self._current.get(tenant, ())

    async def set_current(self, tenant: str, collections: Sequence[Collection]) -> None:
        """Say which content collections count."""
        self._current[tenant] = tuple(collections)

    async def names(self, tenant: str) -> Sequence[str]:
        """Give the collections."""
        return sorted(name for owner, name in self._indexes if owner == tenant)

    async def open(self, tenant: str, name: str) -> DenseIndex:
        """Give a collection."""
        index = self._indexes.get((tenant, name))
        if index is None:
            raise NotFoundError(f"tenant {tenant} has no collection {name}")
        return index

    async def create(self, tenant: str, name: str, space: Space) -> DenseIndex:
        """Make an empty collection."""
        index = self._indexes[tenant, name] = ExactVectorIndex(space)
        return index

    async def build(self, tenant: str, name: str, space: Space, pages: AsyncIterable[Points]) -> DenseIndex:
        """Make a collection of these points."""
        index = ExactVectorIndex(space)
        async for points in pages:
            await index.upsert(points)
        self._indexes[tenant, name] = index
        return index

    async def drop(self, tenant: str, name: str) -> None:
        """Remove a collection."""
        self._indexes.pop((tenant, name), None)

    async def close(self) -> None:
        """Hold nothing that needs closing."""
