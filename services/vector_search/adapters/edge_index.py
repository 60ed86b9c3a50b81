"""The dense index on qdrant-edge: an engine inside this process, its files in one folder."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import qdrant_edge

from servicekit.arrays import Floats, Keys
from servicekit.errors import FailedPreconditionError
from servicekit.filters import AttributeValue, Filter
from vector_search.adapters import edge_folder
from vector_search.adapters.edge_folder import EXACT_BELOW, edge_errors
from vector_search.adapters.edge_log import bring_log_to_disk
from vector_search.adapters.edge_payload import encode_filter, indexes_of
from vector_search.adapters.stored_payload import MARK_FIELDS, decode, decode_mark, encode_state
from vector_search.domain.dense import (
    Distance,
    Mark,
    Neighbours,
    Points,
    Space,
    check_attributes_of,
    check_search,
    nothing_near,
)

FLUSH_AFTER = 5_000
"""After so many changes of points the engine shortens its log, which stalls the process for up to a tenth of a second;
a shard that was not closed takes about half a second longer to open, because it applies as many again."""

_EXACT = qdrant_edge.SearchParams(exact=True)
_BY_GRAPH = qdrant_edge.SearchParams(
    hnsw_ef=128,
    quantization=qdrant_edge.QuantizationSearchParams(rescore=True, oversampling=2.0),
    # Looks at neighbours of neighbours where a filter lets few points pass.
    acorn=qdrant_edge.AcornSearchParams(enable=True),
)
_PART = 16  # points written in one call, during which the engine holds the GIL and no search can begin: 2 to 4 ms
_TORN = 0.3
_TIES = 8  # how many more are asked for at first, so that a tie at the end of the list is seen
_MAX_TIES = 16_384

_T = TypeVar("_T")


class EdgeVectorIndex:
    """DenseIndex on one shard; all calls of the engine run in one thread of its own, in the order they were made.

    Made by `open`. A write is on the disk when it returns: in the engine's log, not yet in its other files.
    """

    def __init__(
        self,
        folder: Path,
        space: Space,
        shard: Any,
        thread: ThreadPoolExecutor,
        *,
        exact_below: int,
        flush_after: int,
    ) -> None:
        self._folder = folder
        self._space = space
        self._shard = shard
        self._thread = thread
        self._exact_below = exact_below
        self._flush_after = flush_after
        self._unflushed = 0
        self._indexed: set[str] = set(shard.info().payload_schema)

    @classmethod
    async def open(
        cls, folder: Path, space: Space, *, exact_below: int = EXACT_BELOW, flush_after: int = FLUSH_AFTER
    ) -> "EdgeVectorIndex":
        """Open the shard in a folder, or make an empty one.

        Args:
            folder: Of this index alone; its parent may hold several.
            space: What the vectors are.
            exact_below: When a filter leaves about this many points or fewer, all of them are compared.
            flush_after: After how many changes of points the engine shortens its log.

        Raises:
            FailedPreconditionError: Another process has it open, it holds other vectors, or it is damaged.
        """
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"edge-{folder.name}")

        def load() -> EdgeVectorIndex:
            stored = edge_folder.read_space(folder)
            if stored is None:
                edge_folder.create(folder, space)
            elif stored != space:
                raise FailedPreconditionError(f"{folder} holds {stored}, not {space}: remove it, or use another")
            shard = edge_folder.load(folder)
            return cls(folder, space, shard, thread, exact_below=exact_below, flush_after=flush_after)

        try:
            return await asyncio.get_running_loop().run_in_executor(thread, load)
        except BaseException:
            thread.shutdown(wait=False)
            raise

    @property
    def space(self) -> Space:
        """The size of the vectors and their distance."""
        return self._space

    async def upsert(self, points: Points) -> None:
        """Store the points."""
        # A bad point would stay in the engine's log, and the shard would not load again.
        checked = self._space.check_points(points)
        for part in _parts(len(checked.keys)):
            some = Points(checked.keys[part], checked.vectors[part], checked.payloads[part])
            await self._change(partial(edge_folder.write, self._shard, some, self._indexed), len(some.keys))
        await self._bring_to_disk()

    async def set_attributes(
        self, keys: Keys, attributes: Sequence[Mapping[str, AttributeValue]], updated_at_ms: Sequence[int]
    ) -> None:
        """Replace attributes and times of points, keeping the rest."""
        check_attributes_of(keys, attributes, updated_at_ms)

        def write(part: slice) -> None:
            known = self._records(keys[part])
            for key, mapping, at_ms in zip(keys[part].tolist(), attributes[part], updated_at_ms[part], strict=True):
                if key in known:
                    stored = encode_state(mapping, at_ms)
                    edge_folder.add_indexes(self._shard, indexes_of(stored), self._indexed)
                    self._shard.update(qdrant_edge.UpdateOperation.set_payload([key], stored))

        for part in _parts(len(keys)):
            await self._change(partial(write, part), len(keys[part]))
        await self._bring_to_disk()

    async def delete(self, keys: Keys) -> None:
        """Remove points."""
        doomed = keys.tolist()
        await self._change(lambda: self._shard.update(qdrant_edge.UpdateOperation.delete_points(doomed)), len(doomed))
        await self._bring_to_disk()

    async def search(
        self,
        vectors: Floats,
        *,
        limit: int,
        conditions: Filter = (),
        exclude: Sequence[Keys] = (),
        exact: bool = False,
    ) -> list[Neighbours]:
        """Find the nearest points of each query."""
        queries = self._space.check_queries(vectors)
        check_search(queries, limit=limit, exclude=exclude)

        def find() -> list[Neighbours]:
            params = self._params(conditions, exact=exact)
            found = []
            for place, query in enumerate(queries):
                if self._space.distance is Distance.COSINE and not query.any():
                    found.append(nothing_near())
                    continue
                excluded = exclude[place] if exclude else None
                found.append(self._nearest(query, limit, encode_filter(conditions, exclude=excluded), params))
            return found

        return await self._in_thread(find)

    async def vectors(self, keys: Keys) -> tuple[Keys, Floats]:
        """Give the stored ones of these keys in the order asked with their vectors."""
        records = await self._in_thread(lambda: self._records(keys, with_vector=True))
        stored = [key for key in keys.tolist() if key in records]
        return np.array(stored, dtype=np.int64), self._matrix([records[key] for key in stored])

    async def marks(self, keys: Keys) -> list[Mark | None]:
        """Give each key's mark."""
        records = await self._in_thread(lambda: self._records(keys, with_payload=list(MARK_FIELDS)))
        return [decode_mark(records[key].payload) if key in records else None for key in keys.tolist()]

    async def scroll(self, page_size: int) -> AsyncIterator[Points]:
        """Give all points in pages by rising key."""
        offset: int | None = 0
        while offset is not None:
            request = qdrant_edge.ScrollRequest(offset=offset, limit=page_size, with_payload=True, with_vector=True)
            records, offset = await self._in_thread(partial(self._shard.scroll, request))
            if records:
                keys = np.array([record.id for record in records], dtype=np.int64)
                yield Points(keys, self._matrix(records), [decode(record.payload) for record in records])

    async def count(self) -> int:
        """Give the number of points."""
        count: int = await self._in_thread(lambda: self._shard.count(qdrant_edge.CountRequest(exact=True)))
        return count

    async def close(self) -> None:
        """Write everything down and let the folder go."""
        try:
            await self._in_thread(self._shard.close)
        finally:
            self._thread.shutdown(wait=False)

    async def _change(self, change: Callable[[], None], points: int) -> None:
        """Change so many points; that survives the death of the process."""

        def apply() -> None:
            change()
            self._unflushed += points
            if self._unflushed >= self._flush_after:
                self._shard.flush()
                self._unflushed = 0

        await self._in_thread(apply)

    async def _bring_to_disk(self) -> None:
        """Return when what was changed survives a loss of power; not in the engine's thread, where searches wait."""
        await asyncio.to_thread(bring_log_to_disk, self._folder)

    async def _in_thread(self, call: Callable[[], _T]) -> _T:
        def guarded() -> _T:
            with edge_errors(self._folder):
                return call()

        return await asyncio.get_running_loop().run_in_executor(self._thread, guarded)

    def _params(self, conditions: Filter, *, exact: bool) -> Any:
        if exact or self._space.distance is Distance.DOT:
            return _EXACT
        count = self._shard.count(qdrant_edge.CountRequest(filter=encode_filter(conditions), exact=False))
        stored = self._shard.info().points_count if conditions else count
        # A filter tears the graph: of a tenth of the points it finds a half. Comparing these is as fast.
        if count < max(self._exact_below, _TORN * stored):
            return _EXACT
        return _BY_GRAPH

    def _nearest(self, query: Floats, limit: int, conditions: Any, params: Any) -> Neighbours:
        nearest = qdrant_edge.Query.Nearest(query.tolist())
        # The engine gives ties in any order and cuts the list inside them: ask on until the tie at the end is whole.
        asked = limit + _TIES
        while True:
            request = qdrant_edge.SearchRequest(
                nearest, asked, filter=conditions, params=params, with_payload=False, with_vector=False
            )
            found = self._shard.search(request)
            is_whole = len(found) < asked or found[limit - 1].score > found[-1].score
            if is_whole or asked >= limit + _MAX_TIES:
                break
            asked = limit + 8 * (asked - limit)
        keys = np.fromiter((point.id for point in found), dtype=np.int64, count=len(found))
        scores = np.fromiter((point.score for point in found), dtype=np.float32, count=len(found))
        best = np.lexsort((keys, -scores))[:limit]
        return Neighbours(keys[best], scores[best])

    def _records(
        self, keys: Keys, *, with_payload: bool | list[str] = False, with_vector: bool = False
    ) -> dict[int, Any]:
        return {record.id: record for record in self._shard.retrieve(keys.tolist(), with_payload, with_vector)}

    def _matrix(self, records: Sequence[Any]) -> Floats:
        stored = np.array([record.vector for record in records], dtype=np.float32)
        matrix: Floats = stored.reshape(-1, self._space.dimensions)
        return matrix


def _parts(count: int) -> list[slice]:
    return [slice(start, start + _PART) for start in range(0, count, _PART)]
