"""Content vectors written, looked up, exported and searched."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np

from servicekit.arrays import Floats, Keys
from servicekit.errors import InvalidArgumentError, NotFoundError, ServiceError
from servicekit.filters import Filter
from vector_search.application.content import ContentVectors
from vector_search.application.search import search_open
from vector_search.application.tenants import Tenants
from vector_search.domain.changes import ItemDeleted
from vector_search.domain.dense import (
    DenseIndex,
    Distance,
    Mark,
    Neighbours,
    Payload,
    Points,
    Space,
    check_attributes,
    nothing_near,
)
from vector_search.domain.factor_search import search_factors
from vector_search.domain.items import ItemState
from vector_search.domain.recall import RecallReport, measure_recall

MAX_DIMENSIONS = 4_096
_MAX_MODEL_ID = 100  # it is part of the names of collections


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """An item with its vector, or without one when only what it is filtered by has changed."""

    item: ItemState
    vector: Floats | None
    mark: Mark


@dataclass(frozen=True, slots=True)
class Superseded:
    """A later state of the item is known, or its deletion: nothing was written, which is no error."""


Outcome = Neighbours | Superseded | ServiceError


@dataclass(frozen=True, slots=True, eq=False)
class VectorQuery:
    """Whose neighbours are wanted."""

    vector: Floats
    limit: int
    conditions: Filter = ()
    exact: bool = False


class Embeddings:
    """The content vectors of each tenant, and the search of its factors."""

    def __init__(self, tenants: Tenants, content: ContentVectors) -> None:
        self._tenants = tenants
        self._content = content

    async def upsert(self, tenant: str, embeddings: Sequence[Embedding], *, neighbours: int) -> list[Outcome]:
        """Store embeddings of one tenant and give each one's nearest other items.

        An embedding without a vector keeps the stored one, and is a NotFoundError when none is stored; one that is
        refused does not concern the others. One of a state older than what is stored, or than the item's deletion, is
        left out.
        """
        outcomes: list[Outcome] = [
            fault or nothing_near() for fault in check_embeddings(self._content, tenant, embeddings)
        ]
        await self._leave_out_superseded(tenant, embeddings, outcomes)
        good = [place for place, outcome in enumerate(outcomes) if isinstance(outcome, Neighbours)]
        for place in good:
            for serving in self._tenants.get(tenant).all():
                serving.put(embeddings[place].item)
        by_encoder: dict[str, list[int]] = {}
        for place in good:
            if embeddings[place].vector is not None:
                by_encoder.setdefault(embeddings[place].mark.model_id, []).append(place)
        for model_id, places in by_encoder.items():
            await self._content.write(tenant, model_id, points_of([embeddings[place] for place in places]))
        await self._keep_vectors(tenant, embeddings, good, outcomes)
        if neighbours:
            await self._add_neighbours(tenant, embeddings, good, outcomes, neighbours)
        return outcomes

    async def delete(self, tenant: str, keys: Keys, times_ms: Sequence[int] = ()) -> None:
        """Remove items from every collection and overlay; a later state of one brings it back.

        Args:
            tenant: Whose items.
            keys: Theirs.
            times_ms: When each was deleted; empty removes them as they are, and any state brings them back.
        """
        if len(times_ms):
            for key, at_ms in zip(keys.tolist(), times_ms, strict=True):
                self._tenants.get(tenant).apply(ItemDeleted(tenant, key, at_ms))
            await self._content.delete_as_of(tenant, keys, times_ms)
            return
        for serving in self._tenants.find(tenant).all():
            for key in keys.tolist():
                serving.catalogue.forget(key)
        await self._content.delete(tenant, keys)

    async def marks(self, tenant: str, keys: Keys, *, building: str = "") -> list[Mark]:
        """Give which embedding each item has, or has in a collection that is rebuilt; empty marks for none."""
        async with self._reading(tenant, building) as index:
            if index is None:
                return [Mark()] * len(keys)
            return [mark or Mark() for mark in await index.marks(keys)]

    async def vectors(self, tenant: str, keys: Keys, *, building: str = "") -> list[Floats | None]:
        """Give the stored vector of each item, None where there is none."""
        async with self._reading(tenant, building) as index:
            if index is None:
                return [None] * len(keys)
            there, vectors = await index.vectors(keys)
        stored = dict(zip(there.tolist(), vectors, strict=True))
        return [stored.get(key) for key in keys.tolist()]

    async def export(self, tenant: str, page_size: int) -> AsyncIterator[Points]:
        """Give all content vectors in pages, by key."""
        async with self._content.reading(tenant, self._encoder(tenant)) as index:
            if index is not None:
                async for points in index.scroll(page_size):
                    yield points

    async def count(self, tenant: str) -> int:
        """Give how many content vectors are stored."""
        async with self._content.reading(tenant, self._encoder(tenant)) as index:
            return 0 if index is None else await index.count()

    async def search(self, tenant: str, queries: Sequence[VectorQuery]) -> list[Neighbours | ServiceError]:
        """Give the items nearest by content that may be recommended, for each vector."""
        catalogue = self._tenants.find(tenant).active.catalogue
        outcomes: list[Neighbours | ServiceError] = [nothing_near()] * len(queries)
        async with self._content.reading(tenant, self._encoder(tenant)) as index:
            if index is None:
                return outcomes
            batches: dict[tuple[int, Filter, bool], list[int]] = {}
            for place, query in enumerate(queries):
                try:
                    index.space.check_queries(query.vector[None])
                except InvalidArgumentError as error:
                    outcomes[place] = error
                else:
                    batches.setdefault((query.limit, query.conditions, query.exact), []).append(place)
            for (limit, conditions, exact), places in batches.items():
                vectors = np.array([queries[place].vector for place in places], np.float32)
                found = await search_open(index, catalogue, vectors, limit=limit, conditions=conditions, exact=exact)
                for place, neighbours in zip(places, found, strict=True):
                    outcomes[place] = neighbours
        return outcomes

    async def search_factors(self, tenant: str, queries: Sequence[VectorQuery]) -> list[Neighbours | ServiceError]:
        """Give the items with the largest dot products that may be recommended, for each vector."""
        serving = self._tenants.find(tenant).active
        outcomes: list[Neighbours | ServiceError] = []
        for query in queries:
            try:
                outcomes.append(
                    search_factors(
                        serving.version,
                        serving.catalogue,
                        query.vector,
                        limit=query.limit,
                        conditions=query.conditions,
                    )
                )
            except InvalidArgumentError as error:
                outcomes.append(error)
            await asyncio.sleep(0)  # each takes milliseconds in a large catalogue: let others in between
        return outcomes

    async def measure(
        self, tenant: str, *, k: int, samples: int, selectivities: Sequence[float], seed: int
    ) -> RecallReport:
        """Compare the search of content vectors with exact search.

        Raises:
            NotFoundError: The tenant has no content vectors.
            InvalidArgumentError: A number is out of range.
        """
        async with self._content.reading(tenant, self._encoder(tenant)) as index:
            if index is None:
                raise NotFoundError(f"tenant {tenant} has no content vectors", field="collection")
            return await measure_recall(index, k=k, samples=samples, selectivities=selectivities, seed=seed)

    async def _leave_out_superseded(
        self, tenant: str, embeddings: Sequence[Embedding], outcomes: list[Outcome]
    ) -> None:
        """Mark what is older than what is known here, or than what stands before it."""
        places = [place for place, outcome in enumerate(outcomes) if isinstance(outcome, Neighbours)]
        if not places:
            return
        keys = [embeddings[place].item.key for place in places]
        known = dict(zip(keys, await self._content.known_ms(tenant, np.array(keys, np.int64)), strict=True))
        for place, key in zip(places, keys, strict=True):
            at_ms = embeddings[place].item.updated_at_ms
            if at_ms < known[key]:
                outcomes[place] = Superseded()
            known[key] = max(known[key], at_ms)

    async def _keep_vectors(
        self,
        tenant: str,
        embeddings: Sequence[Embedding],
        good: Sequence[int],
        outcomes: list[Outcome],
    ) -> None:
        """Replace what the items without a new vector are filtered by."""
        places = [place for place in good if embeddings[place].vector is None]
        if not places:
            return
        keys = np.array([embeddings[place].item.key for place in places], np.int64)
        items = [embeddings[place].item for place in places]
        await self._content.set_attributes(
            tenant, keys, [item.fields for item in items], [item.updated_at_ms for item in items]
        )
        for model_id in {embeddings[place].mark.model_id for place in places}:
            asked = [place for place in places if embeddings[place].mark.model_id == model_id]
            async with self._content.reading(tenant, model_id) as index:
                keys = np.array([embeddings[place].item.key for place in asked], np.int64)
                marks = [None] * len(asked) if index is None else await index.marks(keys)
            for place, mark in zip(asked, marks, strict=True):
                if mark is None:
                    key = embeddings[place].item.key
                    outcomes[place] = NotFoundError(f"item {key} has no vector to keep: send one", field="vector")

    async def _add_neighbours(
        self,
        tenant: str,
        embeddings: Sequence[Embedding],
        good: Sequence[int],
        outcomes: list[Outcome],
        count: int,
    ) -> None:
        good = [place for place in good if not isinstance(outcomes[place], ServiceError)]
        for model_id in {embeddings[place].mark.model_id for place in good}:
            places = [place for place in good if embeddings[place].mark.model_id == model_id]
            async with self._content.reading(tenant, model_id) as index:
                if index is None:
                    continue
                keys = np.array([embeddings[place].item.key for place in places], np.int64)
                there, vectors = await index.vectors(keys)
                stored = dict(zip(there.tolist(), vectors, strict=True))
                asked = [place for place in places if embeddings[place].item.key in stored]
                if not asked:
                    continue
                found = await index.search(
                    np.array([stored[embeddings[place].item.key] for place in asked], np.float32),
                    limit=count,
                    exclude=[np.array([embeddings[place].item.key], np.int64) for place in asked],
                )
                for place, neighbours in zip(asked, found, strict=True):
                    outcomes[place] = neighbours

    @asynccontextmanager
    async def _reading(self, tenant: str, building: str) -> AsyncIterator[DenseIndex | None]:
        if building:
            yield (await self._content.building(tenant, building)).index
        else:
            async with self._content.reading(tenant, self._encoder(tenant)) as index:
                yield index

    def _encoder(self, tenant: str) -> str:
        return self._tenants.find(tenant).active.version.encoder


def points_of(embeddings: Sequence[Embedding]) -> Points:
    """Give embeddings of one size as points.

    Raises:
        InvalidArgumentError: Their vectors are of different sizes.
    """
    vectors = [embedding.vector for embedding in embeddings if embedding.vector is not None]
    if len({len(vector) for vector in vectors}) > 1:
        raise InvalidArgumentError("the vectors of one encoder are of different sizes", field="vector")
    return Points(
        np.array([embedding.item.key for embedding in embeddings], np.int64),
        np.array(vectors, np.float32),
        [Payload(embedding.item.fields, embedding.mark) for embedding in embeddings],
    )


def check_embeddings(
    content: ContentVectors, tenant: str, embeddings: Sequence[Embedding]
) -> list[InvalidArgumentError | None]:
    """Give what is wrong with each embedding, since one bad vector would spoil the whole collection."""
    faults: list[InvalidArgumentError | None] = [None] * len(embeddings)
    by_encoder: dict[str, list[int]] = {}
    for place, embedding in enumerate(embeddings):
        by_encoder.setdefault(embedding.mark.model_id, []).append(place)
    for model_id, places in by_encoder.items():
        # Looking at each alone takes the event loop ten times as long, so that is done only where there is a fault.
        if _fault_of(content, tenant, model_id, [embeddings[place] for place in places]):
            for place in places:
                faults[place] = _fault_of(content, tenant, model_id, [embeddings[place]])
    return faults


def _fault_of(
    content: ContentVectors, tenant: str, model_id: str, embeddings: Sequence[Embedding]
) -> InvalidArgumentError | None:
    """Give what is wrong with embeddings by one encoder."""
    try:
        check_attributes([each.item.fields for each in embeddings])
        written = [each for each in embeddings if each.vector is not None]
        if written:
            check_model_id(model_id)
            points = points_of(written)
            stored = content.serving(tenant, model_id)
            dimensions = points.vectors.shape[1]
            space = stored.index.space if stored else Space(min(dimensions, MAX_DIMENSIONS), Distance.COSINE)
            space.check_points(points)
    except InvalidArgumentError as error:
        return error
    return None


def check_model_id(model_id: str) -> None:
    """Check the name of an encoder, which becomes part of the names of collections.

    Raises:
        InvalidArgumentError: There is none, or it is too long.
    """
    if not 1 <= len(model_id) <= _MAX_MODEL_ID:
        raise InvalidArgumentError(f"an encoder's name has 1 to {_MAX_MODEL_ID} characters", field="model_id")
