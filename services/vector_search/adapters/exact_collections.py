"""The collections of all tenants in memory: the reference DenseStore."""

from collections.abc import AsyncIterable, Mapping, Sequence

from servicekit.errors import FailedPreconditionError, NotFoundError
from vector_search.adapters.exact_index import ExactVectorIndex
from vector_search.domain.dense import DenseIndex, Points, Space
from vector_search.domain.ports import Collection


class ExactDenseStore:
    """A DenseStore that is gone when the process ends.

    Args:
        is_shared: Whether services use it together.
    """

    def __init__(self, *, is_shared: bool = False) -> None:
        self.is_shared = is_shared
        self._indexes: dict[tuple[str, str], DenseIndex] = {}
        self._current: dict[str, tuple[Collection, ...]] = {}

    async def survey(self) -> Mapping[str, Sequence[Collection]]:
        """Give the content collections that count, of all tenants."""
        return {tenant: collections for tenant, collections in self._current.items() if collections}

    async def current(self, tenant: str) -> Sequence[Collection]:
        """Give the content collections that count, the latest last."""
        return self._current.get(tenant, ())

    async def assign(
        self, tenant: str, collections: Sequence[Collection], *, vacate: Sequence[Collection] = ()
    ) -> None:
        """Give collections their places."""
        for each in collections:
            await self.open(tenant, each.name)
        taken = {each.place for each in (*collections, *vacate)}
        kept = [each for each in self._current.get(tenant, ()) if each.place not in taken]
        self._current[tenant] = (*kept, *collections)

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
        """Make an empty collection, or give the one of that name."""
        index = self._indexes.setdefault((tenant, name), ExactVectorIndex(space))
        if index.space != space:
            raise FailedPreconditionError(f"{name} of tenant {tenant} holds {index.space}, not {space}")
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
