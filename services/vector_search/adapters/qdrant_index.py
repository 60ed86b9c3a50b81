"""The dense index on a Qdrant server: one tenant's points of one collection."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from itertools import islice

import numpy as np
from qdrant_client import grpc as pb
from qdrant_client import models

from servicekit.arrays import Floats, Keys
from servicekit.errors import InvalidArgumentError
from servicekit.filters import AttributeValue, Filter
from servicekit.logs import get_logger
from vector_search.adapters import qdrant_payload
from vector_search.adapters.qdrant_connection import QdrantConnection
from vector_search.adapters.qdrant_payload import TENANT, encode_filter, of_tenant, of_tenant_with
from vector_search.adapters.stored_payload import (
    MARK_FIELDS,
    attribute_paths,
    decode,
    decode_mark,
    encode,
    encode_state,
)
from vector_search.domain.dense import (
    Distance,
    Mark,
    Neighbours,
    Points,
    Space,
    check_attributes_of,
    check_search,
    nothing_near,
    sample_numbers,
)

EXACT_BELOW = 10_000
"""Where a filter leaves about this many points or fewer, all of them are compared."""
_TORN = 0.3
_TIES = 8  # how many more are asked for at first, so that a tie at the end of the list is seen
_MAX_TIES = 16_384
_BATCH = 256  # points in one call; a few hundred kilobytes
_MAX_INDEXES = 256
_INDEXING_TIMEOUT_S = 120.0
_COUNT_HOLDS_S = 2.0  # how long a count is good enough to choose how to search

_EXACT = pb.SearchParams(exact=True)
_log = get_logger(__name__)
# What int8 finds is scored again by the vectors themselves, which a server does only when told to.
_BY_GRAPH = pb.SearchParams(hnsw_ef=256, quantization=pb.QuantizationSearchParams(rescore=True, oversampling=2.0))


class QdrantVectorIndex:
    """DenseIndex on a collection, or on an alias of one, that may hold other tenants' points too.

    Made by QdrantDenseStore, which also closes the connection. A write is durable and seen by all when it returns.
    """

    def __init__(
        self,
        connection: QdrantConnection,
        collection: str,
        *,
        tenant: str,
        space: Space,
        indexed: set[str],
        ordering: models.WriteOrdering,
    ) -> None:
        """Speak for a tenant's points; `indexed` holds the paths that have a payload index, or were refused one."""
        self._connection = connection
        self._collection = collection
        self._tenant = tenant
        self._space = space
        self._indexed = indexed
        self._ordering = ordering
        self._counted = (-1, 0.0)
        self._was_refused = False

    @property
    def space(self) -> Space:
        """The size of the vectors and their distance."""
        return self._space

    @property
    def collection(self) -> str:
        """The collection or alias that is asked."""
        return self._collection

    async def upsert(self, points: Points) -> None:
        """Store the points."""
        # A server takes a vector that is not finite, and finds it before all others from then on.
        checked = self._space.check_points(points)
        samples = sample_numbers(checked.keys).tolist()
        stored = [
            {TENANT: self._tenant, **encode(payload, sample=sample)}
            for payload, sample in zip(checked.payloads, samples, strict=True)
        ]
        await self._add_indexes({path for payload in stored for path in attribute_paths(payload)})
        rows = iter(zip(checked.keys.tolist(), checked.vectors, stored, strict=True))
        while page := list(islice(rows, _BATCH)):
            await self._upsert(
                [models.PointStruct(id=key, vector=row.tolist(), payload=payload) for key, row, payload in page]
            )

    async def set_attributes(
        self, keys: Keys, attributes: Sequence[Mapping[str, AttributeValue]], updated_at_ms: Sequence[int]
    ) -> None:
        """Replace attributes and times of points, keeping the rest."""
        check_attributes_of(keys, attributes, updated_at_ms)
        parts = [encode_state(mapping, at_ms) for mapping, at_ms in zip(attributes, updated_at_ms, strict=True)]
        await self._add_indexes({path for part in parts for path in attribute_paths(part)})
        # Chosen by a filter, a point that is not there is passed over; named by its id, it would fail the call.
        changes = (
            models.SetPayloadOperation(
                set_payload=models.SetPayload(payload=part, filter=of_tenant_with(self._tenant, key))
            )
            for key, part in zip(np.asarray(keys, np.int64)[:, None], parts, strict=True)
        )
        while page := list(islice(changes, _BATCH)):
            await self._update(page)

    async def delete(self, keys: Keys) -> None:
        """Remove points."""
        if not len(keys):
            return
        chosen = models.FilterSelector(filter=of_tenant_with(self._tenant, keys))
        await self._connection.call(
            "removing vectors",
            lambda client: client.delete(self._collection, chosen, wait=True, ordering=self._ordering),
        )

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
        found = [nothing_near()] * len(queries)
        places = [place for place, query in enumerate(queries) if query.any() or self._space.distance is Distance.DOT]
        if not places:
            return found
        params = _EXACT if exact else await self._params(conditions)
        asked = limit + _TIES
        # The server gives ties in any order and cuts the list inside them: ask on until the tie at the end is whole.
        while places:
            wanted = [
                pb.QueryPoints(
                    collection_name=self._collection,
                    query=pb.Query(nearest=pb.VectorInput(dense=pb.DenseVector(data=queries[place].tolist()))),
                    filter=encode_filter(self._tenant, conditions, exclude=exclude[place] if exclude else None),
                    params=params,
                    limit=asked,
                )
                for place in places
            ]
            request = pb.QueryBatchPoints(collection_name=self._collection, query_points=wanted)
            cut = []
            for place, answer in zip(places, await self._connection.query("searching", request), strict=True):
                points = answer.result
                if len(points) == asked < limit + _MAX_TIES and points[limit - 1].score <= points[-1].score:
                    cut.append(place)
                else:
                    found[place] = _best(points, limit)
            places = cut
            asked = limit + 8 * (asked - limit)
        return found

    async def vectors(self, keys: Keys) -> tuple[Keys, Floats]:
        """Give the stored ones of these keys in the order asked with their vectors."""
        points = await self._points(keys, [TENANT], with_vectors=True)
        stored = [key for key in keys.tolist() if key in points]
        rows = [_vector_of(points[key]) for key in stored]
        return np.array(stored, np.int64), np.array(rows, np.float32).reshape(-1, self._space.dimensions)

    async def marks(self, keys: Keys) -> list[Mark | None]:
        """Give each key's mark."""
        points = await self._points(keys, [TENANT, *MARK_FIELDS], with_vectors=False)
        return [
            decode_mark(qdrant_payload.payload_values(points[key].payload)) if key in points else None
            for key in keys.tolist()
        ]

    async def scroll(self, page_size: int) -> AsyncIterator[Points]:
        """Give all points in pages by rising key."""
        offset: int | None = 0
        while offset is not None:
            records, offset = await self._page(offset, page_size)
            if records:
                keys = np.array([record.id for record in records], dtype=np.int64)
                rows = np.array([record.vector for record in records], dtype=np.float32)
                yield Points(keys, rows, [decode(record.payload or {}) for record in records])

    async def count(self) -> int:
        """Give the number of points."""
        answer = await self._connection.call(
            "counting vectors",
            lambda client: client.count(self._collection, count_filter=of_tenant(self._tenant), exact=True),
        )
        return int(answer.count)

    async def close(self) -> None:
        """Hold nothing of its own: the store closes the connection."""

    async def _params(self, conditions: Filter) -> pb.SearchParams:
        if self._space.distance is Distance.DOT:
            return _EXACT  # products have no neighbourhoods that a graph could follow
        stored = await self._about_stored()
        if stored < EXACT_BELOW:
            return _EXACT
        if conditions:
            # A filter tears the graph: of a tenth of the points it finds a half. Comparing these is as fast.
            passing = await self._estimate(conditions)
            if passing < max(EXACT_BELOW, _TORN * stored):
                return _EXACT
        return _BY_GRAPH

    async def _about_stored(self) -> int:
        count, at = self._counted
        if count < 0 or time.monotonic() - at > _COUNT_HOLDS_S:
            count = await self._estimate(())
            self._counted = (count, time.monotonic())
        return count

    async def _estimate(self, conditions: Filter) -> int:
        chosen = encode_filter(self._tenant, conditions)
        request = pb.CountPoints(collection_name=self._collection, filter=chosen, exact=False)
        return await self._connection.count("estimating", request)

    async def _points(self, keys: Keys, fields: Sequence[str], *, with_vectors: bool) -> dict[int, pb.RetrievedPoint]:
        """Look points up; one of another tenant counts as not there."""
        points = {}
        for first in range(0, len(keys), 1_000):
            request = pb.GetPoints(
                collection_name=self._collection,
                ids=[pb.PointId(num=key) for key in keys[first : first + 1_000].tolist()],
                with_payload=pb.WithPayloadSelector(include=pb.PayloadIncludeSelector(fields=fields)),
                with_vectors=pb.WithVectorsSelector(enable=with_vectors),
            )
            for point in await self._connection.get("looking vectors up", request):
                if point.payload[TENANT].string_value == self._tenant:
                    points[int(point.id.num)] = point
        return points

    async def _upsert(self, structs: list[models.PointStruct]) -> None:
        await self._connection.call(
            "storing vectors",
            lambda client: client.upsert(self._collection, structs, wait=True, ordering=self._ordering),
        )

    async def _update(self, changes: list[models.SetPayloadOperation]) -> None:
        await self._connection.call(
            "replacing attributes",
            lambda client: client.batch_update_points(self._collection, changes, wait=True, ordering=self._ordering),
        )

    async def _page(self, offset: int, size: int) -> tuple[list[models.Record], int | None]:
        records, following = await self._connection.call(
            "reading all vectors",
            lambda client: client.scroll(
                self._collection,
                scroll_filter=of_tenant(self._tenant),
                limit=size,
                offset=offset,
                with_payload=True,
                with_vectors=True,
            ),
        )
        return records, following if isinstance(following, int) else None

    async def _add_indexes(self, paths: set[str]) -> None:
        """Make the payload indexes that are missing, up to a bound; what is beyond it is filtered by its values.

        So is what the server refuses to index, as in strict mode with a lower bound. It is not asked again.
        """
        for path in sorted(paths - self._indexed)[: max(0, _MAX_INDEXES - len(self._indexed))]:
            try:
                await add_index(self._connection, self._collection, path, qdrant_payload.index_params(path))
            except InvalidArgumentError as error:
                if not self._was_refused:
                    _log.warning(
                        "an attribute cannot be indexed, and others may not be", path=path, error=error.message
                    )
                self._was_refused = True
            self._indexed.add(path)


async def add_index(
    connection: QdrantConnection, collection: str, path: str, params: qdrant_payload.IndexParams
) -> None:
    """Make a payload index; one that is there stays."""
    await connection.call(
        "indexing payloads",
        lambda client: client.create_payload_index(
            collection, path, params, wait=True, timeout=int(_INDEXING_TIMEOUT_S)
        ),
        timeout_s=_INDEXING_TIMEOUT_S,
    )


def _best(points: Sequence[pb.ScoredPoint], limit: int) -> Neighbours:
    keys = np.fromiter((point.id.num for point in points), dtype=np.int64, count=len(points))
    scores = np.fromiter((point.score for point in points), dtype=np.float32, count=len(points))
    best = np.lexsort((keys, -scores))[:limit]
    return Neighbours(keys[best], scores[best])


def _vector_of(point: pb.RetrievedPoint) -> Sequence[float]:
    """Read a vector in the form of today's servers, or of those before 1.16."""
    vector = point.vectors.vector
    data: Sequence[float] = vector.dense.data if vector.WhichOneof("vector") == "dense" else vector.data
    return data
