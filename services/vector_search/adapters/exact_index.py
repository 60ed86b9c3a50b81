"""The dense index in plain numpy: every search compares with every point, nothing is written to disk."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from servicekit.arrays import Floats, Keys
from servicekit.filters import AttributeValue, Filter, matches
from vector_search.domain.dense import (
    SAMPLE_FIELD,
    Distance,
    Mark,
    Neighbours,
    Payload,
    Points,
    Space,
    check_attributes_of,
    check_search,
    nothing_near,
    sample_numbers,
)


class ExactVectorIndex:
    """The reference implementation of DenseIndex: right and simple, gone when the process ends."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._rows: dict[int, int] = {}
        self._vectors = np.empty((0, space.dimensions), dtype=np.float32)
        self._payloads: list[Payload] = []

    @property
    def space(self) -> Space:
        """The size of the vectors and their distance."""
        return self._space

    async def upsert(self, points: Points) -> None:
        """Store the points."""
        checked = self._space.check_points(points)
        keys = checked.keys.tolist()
        fresh = [key for key in keys if key not in self._rows]
        self._rows.update({key: len(self._rows) + place for place, key in enumerate(fresh)})
        self._payloads.extend([Payload()] * len(fresh))
        self._vectors = np.concatenate([self._vectors, np.empty((len(fresh), self._space.dimensions), np.float32)])
        for key, vector, payload in zip(keys, checked.vectors, checked.payloads, strict=True):
            row = self._rows[key]
            self._vectors[row] = vector
            self._payloads[row] = payload

    async def set_attributes(
        self, keys: Keys, attributes: Sequence[Mapping[str, AttributeValue]], updated_at_ms: Sequence[int]
    ) -> None:
        """Replace attributes and times of points, keeping the rest."""
        check_attributes_of(keys, attributes, updated_at_ms)
        for key, mapping, at_ms in zip(keys.tolist(), attributes, updated_at_ms, strict=True):
            row = self._rows.get(key)
            if row is not None:
                self._payloads[row] = Payload(mapping, replace(self._payloads[row].mark, updated_at_ms=at_ms))

    async def delete(self, keys: Keys) -> None:
        """Remove points."""
        gone = set(keys.tolist())
        kept = [(key, row) for key, row in self._rows.items() if key not in gone]
        self._vectors = self._vectors[[row for _, row in kept]]
        self._payloads = [self._payloads[row] for _, row in kept]
        self._rows = {key: place for place, (key, _) in enumerate(kept)}

    async def search(
        self,
        vectors: Floats,
        *,
        limit: int,
        conditions: Filter = (),
        exclude: Sequence[Keys] = (),
        exact: bool = False,  # noqa: ARG002  # it always is
    ) -> list[Neighbours]:
        """Find the nearest points of each query."""
        queries = self._space.check_queries(vectors)
        check_search(queries, limit=limit, exclude=exclude)
        keys = self._keys()
        passing = self._passing(keys, conditions)
        found = []
        for place, query in enumerate(queries):
            if self._space.distance is Distance.COSINE and not query.any():
                found.append(nothing_near())
                continue
            rows = np.flatnonzero(passing & ~np.isin(keys, exclude[place])) if exclude else np.flatnonzero(passing)
            # In double precision equal vectors get equal scores, whichever row they stand in.
            scores = (self._vectors[rows].astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
            best = np.lexsort((keys[rows], -scores))[:limit]
            found.append(Neighbours(keys[rows][best], scores[best]))
        return found

    async def vectors(self, keys: Keys) -> tuple[Keys, Floats]:
        """Give the stored ones of these keys in the order asked with their vectors."""
        stored = [key for key in keys.tolist() if key in self._rows]
        return np.array(stored, dtype=np.int64), self._vectors[[self._rows[key] for key in stored]]

    async def marks(self, keys: Keys) -> list[Mark | None]:
        """Give each key's mark."""
        rows = [self._rows.get(key) for key in keys.tolist()]
        return [None if row is None else self._payloads[row].mark for row in rows]

    async def scroll(self, page_size: int) -> AsyncIterator[Points]:
        """Give all points in pages by rising key."""
        keys = np.sort(self._keys())
        for start in range(0, len(keys), page_size):
            page = [key for key in keys[start : start + page_size].tolist() if key in self._rows]
            rows = [self._rows[key] for key in page]
            yield Points(np.array(page, dtype=np.int64), self._vectors[rows], [self._payloads[row] for row in rows])

    async def count(self) -> int:
        """Give the number of points."""
        return len(self._rows)

    async def close(self) -> None:
        """Let the points go."""
        await self.delete(self._keys())

    def _keys(self) -> Keys:
        return np.fromiter(self._rows, dtype=np.int64, count=len(self._rows))

    def _passing(self, keys: Keys, conditions: Filter) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        samples = sample_numbers(keys).tolist()

        def passes(row: int) -> bool:
            attributes = self._payloads[row].attributes
            return matches(conditions, lambda name: samples[row] if name == SAMPLE_FIELD else attributes.get(name))

        if not conditions:
            return np.ones(len(keys), dtype=np.bool_)
        return np.fromiter((passes(row) for row in range(len(keys))), dtype=np.bool_, count=len(keys))
