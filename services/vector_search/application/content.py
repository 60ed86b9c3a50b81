"""The content vectors of each tenant: of each encoder one collection is searched, and at most two are written along."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import numpy as np

from servicekit.arrays import Keys
from servicekit.errors import FailedPreconditionError, NotFoundError
from vector_search.application.deletions import DELETIONS, Deletions
from vector_search.domain.dense import DenseIndex, Distance, Points, Space
from vector_search.domain.items import Fields
from vector_search.domain.ports import Collection, DenseStore, Role, generation_of, name_collection

_PAGE = 1_000
_WORTH_INDEXING = 10_000  # fewer are all compared anyway
_OUTGROWN = 0.1

Write = Callable[[DenseIndex], Awaitable[None]]


@dataclass(slots=True, eq=False)
class ContentCollection:
    """An opened collection; while it is copied, `journal` keeps what was written, to be written again there."""

    stored: Collection
    index: DenseIndex
    journal: list[Write] | None = None
    readers: int = 0
    retired: bool = False


class ContentVectors:
    """Opens, writes, searches and replaces the content collections.

    Writers and the replacement of a collection exclude each other; readers finish on the collection that they began
    with. In a store that is shared all replicas do this at the same time: `refresh` shows each what the others did.
    """

    def __init__(self, store: DenseStore) -> None:
        self._store = store
        self._deletions = Deletions(store)
        self._tenants: dict[str, list[ContentCollection]] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    @property
    def is_shared(self) -> bool:
        """Tell whether all replicas have the same collections."""
        return self._store.is_shared

    async def open(self, tenant: str) -> None:
        """Open what counts, once at start; where nobody else can be at work, remove what does not."""
        if not self._store.is_shared:
            kept = {DELETIONS, *(each.name for each in await self._store.current(tenant))}
            for name in await self._store.names(tenant):
                if name not in kept:
                    await self._store.drop(tenant, name)
        await self._load(tenant)

    async def refresh(self) -> None:
        """Take over what other replicas have made, switched or dropped."""
        current = await self._store.survey()
        for tenant in {*self._tenants, *current}:
            if [each.stored for each in self.all(tenant)] != list(current.get(tenant, ())):
                async with self._lock(tenant):
                    await self._load(tenant)

    def serving(self, tenant: str, encoder: str) -> ContentCollection | None:
        """Give the encoder's collection, or for no encoder the latest; None when there is none."""
        fitting = [
            each
            for each in self.all(tenant)
            if each.stored.role is Role.SERVING and (not encoder or each.stored.model_id == encoder)
        ]
        return fitting[-1] if fitting else None

    def all(self, tenant: str) -> Sequence[ContentCollection]:
        """Give all collections of a tenant that count."""
        return tuple(self._tenants.get(tenant, ()))

    async def building(self, tenant: str, name: str) -> ContentCollection:
        """Give a collection that a rebuild fills.

        Raises:
            NotFoundError: There is none of that name: it is finished, or a later rebuild has taken its place.
        """
        try:
            return self._find_building(tenant, name)
        except NotFoundError:  # perhaps another replica began it
            async with self._lock(tenant):
                await self._load(tenant)
            return self._find_building(tenant, name)

    @asynccontextmanager
    async def reading(self, tenant: str, encoder: str) -> AsyncIterator[DenseIndex | None]:
        """Hold the collection that is searched, so that nobody closes it meanwhile."""
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
            if self.serving(tenant, model_id) is None:
                await self._load(tenant)
            if self.serving(tenant, model_id) is None:
                await self._create(tenant, model_id, points.vectors.shape[1])
            for collection in self.all(tenant):
                if collection.stored.model_id == model_id:
                    await _write(collection, lambda index: index.upsert(points))

    async def set_attributes(
        self, tenant: str, keys: Keys, attributes: Sequence[Fields], updated_at_ms: Sequence[int]
    ) -> None:
        """Replace the attributes of stored vectors and the times of their states, of every encoder."""
        async with self._lock(tenant):
            for collection in self.all(tenant):
                await _write(collection, lambda index: index.set_attributes(keys, attributes, updated_at_ms))

    async def delete(self, tenant: str, keys: Keys) -> None:
        """Remove vectors, of every encoder."""
        async with self._lock(tenant):
            for collection in self.all(tenant):
                await _write(collection, lambda index: index.delete(keys))

    async def delete_as_of(self, tenant: str, keys: Keys, times_ms: Sequence[int]) -> None:
        """Remove vectors of states that are not later than these deletions, and remember the deletions."""
        stored = await self._stored_ms(tenant, keys)
        due = [place for place, at_ms in enumerate(times_ms) if stored[place] <= at_ms]
        if due:
            # First, so that a crash in between loses nothing when the deletion comes again.
            await self._deletions.note(tenant, keys[due], [times_ms[place] for place in due])
            await self.delete(tenant, keys[due])

    async def known_ms(self, tenant: str, keys: Keys) -> list[int]:
        """Give the time of each item's latest state or deletion of which something is stored, 0 for none."""
        known = await asyncio.gather(self._stored_ms(tenant, keys), self._deletions.times_ms(tenant, keys))
        return [max(each) for each in zip(*known, strict=True)]

    async def lacking(self, tenant: str, model_id: str, wanted: Keys) -> Keys:
        """Give those of the wanted items that the encoder's collection has no vector of."""
        collection = self.serving(tenant, model_id)
        if collection is None:
            return wanted
        lacking = []
        for first in range(0, len(wanted), _PAGE):
            page = wanted[first : first + _PAGE]
            marks = await collection.index.marks(page)
            lacking += [key for key, mark in zip(page.tolist(), marks, strict=True) if mark is None]
        return np.array(lacking, np.int64)

    async def has_outgrown(self, tenant: str, model_id: str) -> bool:
        """Tell whether an encoder's collection has outgrown its index, or there is none."""
        collection = self.serving(tenant, model_id)
        if collection is None:
            return True
        count = await collection.index.count()
        return count >= _WORTH_INDEXING and count - collection.stored.indexed > _OUTGROWN * count

    async def copy(self, tenant: str, model_id: str, space: Space, added: AsyncIterator[Points] | None = None) -> None:
        """Replace an encoder's collection by an indexed one of its own points and the added ones, its own winning.

        What is written meanwhile is taken over before the switch. For a store of this replica alone.
        """
        old = self.serving(tenant, model_id)
        if old is not None:
            old.journal = []
        name = name_collection(model_id, await self._next_generation(tenant))
        try:
            index = await self._store.build(tenant, name, space, _chain(added, old))
            async with self._lock(tenant):
                for write in (old.journal or ()) if old is not None else ():
                    await write(index)
                await self._store.assign(tenant, [Collection(name, model_id, await index.count())])
                await self._load(tenant)
                if old is not None:
                    old.retired = True
                    if not old.readers:
                        await self._store.drop(tenant, old.stored.name)
        finally:
            if old is not None:
                old.journal = None

    async def begin_rebuild(self, tenant: str, model_id: str, dimensions: int) -> str:
        """Make an empty collection beside the one that serves, and give its name; from now on it is written along.

        It takes the place of an unfinished rebuild, and what an earlier one left for going back is removed.

        Raises:
            FailedPreconditionError: The encoder's stored vectors are of another size.
        """
        async with self._lock(tenant):
            await self._load(tenant)
            serving = self.serving(tenant, model_id)
            if serving is not None and serving.index.space.dimensions != dimensions:
                raise FailedPreconditionError(
                    f"the stored vectors of {model_id} have {serving.index.space.dimensions} numbers, not {dimensions}"
                )
            name = name_collection(model_id, await self._next_generation(tenant))
            given_up = [
                each.stored
                for each in self.all(tenant)
                if each.stored.model_id == model_id and each.stored.role is not Role.SERVING
            ]
            await self._store.create(tenant, name, Space(dimensions, Distance.COSINE))
            building = Collection(name, model_id, role=Role.BUILDING)
            await self._store.assign(tenant, [building], vacate=given_up)
            await self._load(tenant)
            for each in {*(stored.name for stored in given_up), *await self._without_place(tenant, model_id)}:
                await self._store.drop(tenant, each)
        return name

    async def finish_rebuild(self, tenant: str, name: str) -> None:
        """Let a rebuilt collection serve; the one that served is kept for going back.

        Raises:
            NotFoundError: No rebuild fills a collection of that name.
        """
        async with self._lock(tenant):
            await self._load(tenant)  # another replica may have finished it, or gone back since
            building = self._find_building(tenant, name)
            before = self.serving(tenant, building.stored.model_id)
            places = [replace(building.stored, role=Role.SERVING)]
            if before is not None:
                places.append(replace(before.stored, role=Role.PREVIOUS))
            await self._store.assign(tenant, places, vacate=[building.stored])
            await self._load(tenant)

    async def roll_back(self, tenant: str) -> str:
        """Let the collection serve again that served before the last rebuild, and give its name.

        Raises:
            FailedPreconditionError: There is none.
        """
        async with self._lock(tenant):
            await self._load(tenant)
            before = [each.stored for each in self.all(tenant) if each.stored.role is Role.PREVIOUS]
            if not before:
                raise FailedPreconditionError(f"no earlier vectors of tenant {tenant} are kept")
            serving = self.serving(tenant, before[-1].model_id)
            places = [replace(before[-1], role=Role.SERVING)]
            if serving is not None:
                places.append(replace(serving.stored, role=Role.PREVIOUS))
            await self._store.assign(tenant, places)
            await self._load(tenant)
        return before[-1].name

    async def _stored_ms(self, tenant: str, keys: Keys) -> list[int]:
        """Give the time of each item's latest state that is searched, 0 for none."""
        times = [0] * len(keys)
        for collection in self.all(tenant):
            if collection.stored.role is Role.SERVING:
                marks = await collection.index.marks(keys)
                times = [max(at, mark.updated_at_ms if mark else 0) for at, mark in zip(times, marks, strict=True)]
        return times

    def _find_building(self, tenant: str, name: str) -> ContentCollection:
        for each in self.all(tenant):
            if each.stored.name == name and each.stored.role is Role.BUILDING:
                return each
        raise NotFoundError(f"no rebuild of tenant {tenant} fills {name}: it has ended", field="collection")

    async def _create(self, tenant: str, model_id: str, dimensions: int) -> None:
        name = name_collection(model_id, 0)
        await self._store.create(tenant, name, Space(dimensions, Distance.COSINE))
        await self._store.assign(tenant, [Collection(name, model_id)])
        await self._load(tenant)

    async def _next_generation(self, tenant: str) -> int:
        """Give a number that no collection of the tenant has."""
        return max((generation_of(name) for name in await self._store.names(tenant)), default=0) + 1

    async def _without_place(self, tenant: str, model_id: str) -> Sequence[str]:
        """Give an encoder's collections that have no place, such as that of a rebuild that was broken off."""
        prefix = name_collection(model_id, 0).removesuffix("0")
        kept = {each.stored.name for each in self.all(tenant)}
        return [name for name in await self._store.names(tenant) if name.startswith(prefix) and name not in kept]

    async def _load(self, tenant: str) -> None:
        """Open what counts; what was open stays as it is."""
        opened = {each.stored.name: each for each in self.all(tenant)}
        loaded = []
        for stored in await self._store.current(tenant):
            index = await self._store.open(tenant, stored.name)
            known = opened.get(stored.name)
            if known is not None and known.index is index:
                known.stored = stored
                loaded.append(known)
            else:
                loaded.append(ContentCollection(stored, index))
        self._tenants[tenant] = loaded

    def _lock(self, tenant: str) -> asyncio.Lock:
        return self._locks.setdefault(tenant, asyncio.Lock())


async def _chain(added: AsyncIterator[Points] | None, old: ContentCollection | None) -> AsyncIterator[Points]:
    """Give the old points last, since of points with one key the last counts."""
    if added is not None:
        async for points in added:
            yield points
    if old is not None:
        async for points in old.index.scroll(_PAGE):
            yield points


async def _write(collection: ContentCollection, write: Write) -> None:
    await write(collection.index)
    if collection.journal is not None:
        collection.journal.append(write)
