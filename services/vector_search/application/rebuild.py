"""Content vectors made anew beside those that serve, and switched to in one step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from servicekit.arrays import Floats
from servicekit.clock import Clock
from servicekit.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError, ServiceError
from vector_search.application.content import ContentVectors
from vector_search.application.embeddings import (
    MAX_DIMENSIONS,
    Embedding,
    check_embeddings,
    check_model_id,
    points_of,
)
from vector_search.domain.dense import Mark
from vector_search.domain.ports import Role
from vector_search.domain.recall import measure_recall

_RECALL_SAMPLES = 100
_STALLED_MS = 60_000


@dataclass(frozen=True, slots=True)
class Begun:
    """A new collection, and how much the one has that serves."""

    collection: str
    serving_points: int


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild came to."""

    points: int
    previous_points: int
    recall_at_10: float


class VectorRebuild:
    """The steps of a rebuild, which gpu_worker takes one after the other, through any replica.

    Args:
        content: The collections.
        least_recall: A collection whose search finds a smaller part of the nearest ten never serves.
    """

    def __init__(self, content: ContentVectors, *, least_recall: float, clock: Clock) -> None:
        self._content = content
        self._least_recall = least_recall
        self._clock = clock
        self._moved: dict[str, tuple[int, int]] = {}

    async def begin(self, tenant: str, model_id: str, dimensions: int) -> Begun:
        """Begin a new collection of an encoder's vectors beside the one that serves.

        Raises:
            InvalidArgumentError: The encoder's name or the size is out of bounds.
            FailedPreconditionError: The stored vectors are of another size.
        """
        check_model_id(model_id)
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise InvalidArgumentError(f"a vector has 1 to {MAX_DIMENSIONS} numbers", field="dimensions")
        name = await self._content.begin_rebuild(tenant, model_id, dimensions)
        serving = self._content.serving(tenant, model_id)
        return Begun(name, 0 if serving is None else await serving.index.count())

    async def fill(self, tenant: str, building: str, embeddings: Sequence[Embedding]) -> list[ServiceError | None]:
        """Store embeddings of one tenant in a collection that is rebuilt.

        An embedding without a vector takes that of the serving collection if it is of the same text; a NotFoundError
        when there is none. What is in the collection already and of the same text stays as it is: it was written
        meanwhile, and is newer.

        Raises:
            NotFoundError: No rebuild fills a collection of that name.
        """
        collection = await self._content.building(tenant, building)
        outcomes: list[ServiceError | None] = [*check_embeddings(self._content, tenant, embeddings)]
        good = [place for place, outcome in enumerate(outcomes) if outcome is None]
        keys = np.array([embeddings[place].item.key for place in good], np.int64)
        there = await collection.index.marks(keys)
        missing = [place for place, mark in zip(good, there, strict=True) if not _is_of(mark, embeddings[place])]
        kept = [place for place in missing if embeddings[place].vector is None]
        found = await self._vectors_of_same_text(tenant, [embeddings[place] for place in kept])
        vectors = dict(zip(kept, found, strict=True))
        for place in kept:
            if vectors[place] is None:
                key = embeddings[place].item.key
                outcomes[place] = NotFoundError(f"item {key} has no vector of this text: send one", field="vector")
        wanted = [
            replace(embeddings[place], vector=vectors.get(place, embeddings[place].vector))
            for place in missing
            if outcomes[place] is None
        ]
        if wanted:
            await collection.index.upsert(points_of(wanted))
        return outcomes

    async def finish(self, tenant: str, building: str, *, least_points: int) -> Rebuilt:
        """Verify a rebuilt collection and let it serve.

        Raises:
            NotFoundError: No rebuild fills a collection of that name.
            FailedPreconditionError: It has too few points, or its search finds too little.
        """
        collection = await self._content.building(tenant, building)
        points = await collection.index.count()
        if points < least_points:
            raise FailedPreconditionError(f"{building} holds {points} vectors, at least {least_points} are wanted")
        report = await measure_recall(collection.index, samples=_RECALL_SAMPLES, selectivities=(1.0,))
        recall = report.measurements[0].recall
        if recall < self._least_recall:
            raise FailedPreconditionError(f"the search of {building} finds {recall:.3f} of the nearest")
        serving = self._content.serving(tenant, collection.stored.model_id)
        previous = 0 if serving is None else await serving.index.count()
        await self._content.finish_rebuild(tenant, building)
        model_id = collection.stored.model_id
        if not self._content.is_shared and await self._content.has_outgrown(tenant, model_id):
            await self._content.copy(tenant, model_id, collection.index.space)
        return Rebuilt(points, previous, recall)

    async def roll_back(self, tenant: str) -> str:
        """Let the collection serve again that served before the last rebuild, and give its name.

        Raises:
            FailedPreconditionError: There is none.
        """
        return await self._content.roll_back(tenant)

    async def is_moving(self, tenant: str) -> bool:
        """Tell whether a rebuild of the tenant goes on: it has stored something within the last minute."""
        now_ms = self._clock.now_ms()
        moved = {}
        for each in self._content.all(tenant):
            if each.stored.role is Role.BUILDING:
                count = await each.index.count()
                before = self._moved.get(each.stored.name, (-1, now_ms))
                moved[each.stored.name] = before if before[0] == count else (count, now_ms)
        self._moved = moved
        return any(now_ms - at_ms < _STALLED_MS for _, at_ms in moved.values())

    async def _vectors_of_same_text(self, tenant: str, embeddings: Sequence[Embedding]) -> list[Floats | None]:
        """Give the serving collections' vectors of the same texts by the same encoders."""
        found: list[Floats | None] = [None] * len(embeddings)
        for model_id in {embedding.mark.model_id for embedding in embeddings}:
            places = [place for place, each in enumerate(embeddings) if each.mark.model_id == model_id]
            keys = np.array([embeddings[place].item.key for place in places], np.int64)
            async with self._content.reading(tenant, model_id) as index:
                if index is None:
                    continue
                marks = await index.marks(keys)
                there, vectors = await index.vectors(keys)
            stored = dict(zip(there.tolist(), vectors, strict=True))
            for place, key, mark in zip(places, keys.tolist(), marks, strict=True):
                if _is_of(mark, embeddings[place]):
                    found[place] = stored.get(key)
        return found


def _is_of(mark: Mark | None, embedding: Embedding) -> bool:
    return mark is not None and mark.is_of_same_text(embedding.mark)
