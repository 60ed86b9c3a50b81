"""The content vectors of each tenant: one collection for each encoder, of which one is searched."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import blake2b

from servicekit.arrays import Keys
from vector_search.domain.dense import DenseIndex, Distance, Points, Space
from vector_search.domain.items import Fields
from vector_search.domain.ports import Collection, DenseStore

_PAGE = 1_000
_WORTH_INDEXING = 10_000  # fewer are all compared anyway
_OUTGROWN = 0.1

Write = Callable[[DenseIndex], Awaitable[None]]


@dataclass(slots=True, eq=False)
class ContentCollection:
    """An opened collection; while it is rebuilt, `journal` keeps what was written, to be written again there."""

    stored: Collection
    index: DenseIndex
    journal: list[Write] | None = None
    readers: int = 0
    retired: bool = False


class ContentVectors:
    """Opens, writes, searches and rebuilds the content collections.

    Writers and the end of a rebuild exclude each other; readers finish on the collection that they began with.
    """

    def __init__(self, store: DenseStore) -> None:
        self._store = store
        self._tenants: dict[str, list[ContentCollection]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def open(self, tenant: str) -> None:
        """Open what counts and remove what does not, once at start."""
        current = await self._store.current(tenant)
        kept = {each.name for each in current}
        for name in await self._store.names(tenant):
            if name.startswith("content.") and name not in kept:
                await self._store.drop(tenant, name)
        self._tenants[tenant] = [ContentCollection(each, await self._store.open(tenant, each.name)) for each in current]

    def serving(self, tenant: str, encoder: str) -> ContentCollection | None:
        """Give the encoder's collection, or for no encoder the latest; None when there is none."""
        fitting = [each for each in self.all(tenant) if not encoder or each.stored.model_id == encoder]
        return fitting[-1] if fitting else None

    def all(self, tenant: str) -> Sequence[ContentCollection]:
        """Give all collections of a tenant."""
        return tuple(self._tenants.get(tenant, ()))

    @asynccontextmanager
    async def reading(self, tenant: str, encoder: str) -> AsyncIterator[DenseIndex | None]:
        """Hold the collection that is searched, so that a rebuild does not close it meanwhile."""
        collection = self.serving(tenant, encoder)
        if collection is None:
            yield None
            return
        collection.readers += 1
        try:
            yield collection.index
        finally:
            collection.readers -= 1
            if collection.retired and not collection.readers:
                await self._store.drop(tenant, collection.stored.name)

    async def write(self, tenant: str, model_id: str, points: Points) -> None:
        """Store vectors of one encoder, whose collection is made when it is the first time."""
        async with self._lock(tenant):
            collection = next((each for each in self.all(tenant) if each.stored.model_id == model_id), None)
            if collection is None:
                collection = await self._create(tenant, model_id, points.vectors.shape[1])
            await _write(collection, lambda index: index.upsert(points))

    async def set_attributes(self, tenant: str, keys: Keys, attributes: Sequence[Fields]) -> None:
        """Replace the attributes of stored vectors, of every encoder."""
        async with self._lock(tenant):
            for collection in self.all(tenant):
                await _write(collection, lambda index: index.set_attributes(keys, attributes))

    async def delete(self, tenant: str, keys: Keys) -> None:
        """Remove vectors, of every encoder."""
        async with self._lock(tenant):
            for collection in self.all(tenant):
                await _write(collection, lambda index: index.delete(keys))

    async def needs_rebuild(self, tenant: str, model_id: str, wanted: Keys) -> bool:
        """Tell whether an encoder's collection lacks wanted vectors, or has outgrown its index."""
        collection = next((each for each in self.all(tenant) if each.stored.model_id == model_id), None)
        if collection is None:
            return True
        count = await collection.index.count()
        if count >= _WORTH_INDEXING and count - collection.stored.indexed > _OUTGROWN * count:
            return True
        for first in range(0, len(wanted), _PAGE):
            if None in await collection.index.marks(wanted[first : first + _PAGE]):
                return True
        return False

    async def rebuild(self, tenant: str, model_id: str, space: Space, added: AsyncIterator[Points]) -> DenseIndex:
        """Replace an encoder's collection by an indexed one of its own points and the added ones, its own winning.

        What is written meanwhile is taken over before the switch.
        """
        old = next((each for each in self.all(tenant) if each.stored.model_id == model_id), None)
        if old is not None:
            old.journal = []
        name = _name(model_id, [each.stored.name for each in self.all(tenant)])
        try:
            index = await self._store.build(tenant, name, space, _chain(added, old))
            async with self._lock(tenant):
                for write in (old.journal or ()) if old is not None else ():
                    await write(index)
                await self._replace(
                    tenant, old, ContentCollection(Collection(name, model_id, await index.count()), index)
                )
        finally:
            if old is not None:
                old.journal = None
        return index

    async def _create(self, tenant: str, model_id: str, dimensions: int) -> ContentCollection:
        name = _name(model_id, [each.stored.name for each in self.all(tenant)])
        index = await self._store.create(tenant, name, Space(dimensions, Distance.COSINE))
        collection = ContentCollection(Collection(name, model_id), index)
        await self._replace(tenant, None, collection)
        return collection

    async def _replace(self, tenant: str, old: ContentCollection | None, new: ContentCollection) -> None:
        collections = [each for each in self.all(tenant) if each is not old] + [new]
        await self._store.set_current(tenant, [each.stored for each in collections])
        self._tenants[tenant] = collections
        if old is not None:
            old.retired = True
            if not old.readers:
                await self._store.drop(tenant, old.stored.name)

    def _lock(self, tenant: str) -> asyncio.Lock:
        return self._locks.setdefault(tenant, asyncio.Lock())


async def _chain(added: AsyncIterator[Points], old: ContentCollection | None) -> AsyncIterator[Points]:
    """Give the old points last, since of points with one key the last counts."""
    async for points in added:
        yield points
    if old is not None:
        async for points in old.index.scroll(_PAGE):
            yield points


async def _write(collection: ContentCollection, write: Write) -> None:
    await write(collection.index)
    if collection.journal is not None:
        collection.journal.append(write)


def _name(model_id: str, taken: Sequence[str]) -> str:
    prefix = f"content.{blake2b(model_id.encode(), digest_size=4).hexdigest()}."
    numbers = [int(name.removeprefix(prefix)) for name in taken if name.startswith(prefix)]
    return f"{prefix}{max(numbers, default=0) + 1}"
