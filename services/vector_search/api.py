"""vector_search's RPCs: messages to domain, one call of a use case, domain to messages."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from recommendation.vector_search.v1 import vector_search_pb2 as pb
from recommendation.vector_search.v1 import vector_search_pb2_grpc as pb_grpc
from servicekit.arrays import Floats, Keys, pack_floats, pack_ints, pack_keys, unpack_floats, unpack_keys
from servicekit.errors import InvalidArgumentError, ServiceError, UnavailableError
from vector_search.application.embeddings import Embedding, Embeddings, Outcome, Superseded, VectorQuery
from vector_search.application.rebuild import VectorRebuild
from vector_search.application.retrieval import Retrieval, SimilarQuery
from vector_search.application.tenants import Serving, Tenants
from vector_search.application.versions import Versions
from vector_search.convert import element_error, filter_from_message, item_from_message
from vector_search.domain.dense import Mark, Neighbours, nothing_near
from vector_search.domain.recall import SELECTIVITIES
from vector_search.domain.retrieval import Candidates, UserQuery

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["VectorSearchService"].full_name

MAX_USERS = 256
MAX_VECTORS = 64
MAX_UPSERTS = 1_000
MAX_LOOKUPS = 10_000
MAX_VECTOR_LOOKUPS = 1_000
MAX_HISTORY = 10_000
MAX_LIMIT = 1_000
MAX_NEIGHBOURS = 400
MAX_EXPLAINED = 1_000
MAX_CONTRIBUTIONS = 20
MAX_PAGE = 10_000
MAX_RECALL_SAMPLES = 10_000

_Query = TypeVar("_Query")
_Answer = TypeVar("_Answer")


class VectorSearchServicer(pb_grpc.VectorSearchServiceServicer):
    """Answers the RPCs; `ready` says whether the log was caught up with."""

    def __init__(
        self,
        *,
        tenants: Tenants,
        retrieval: Retrieval,
        embeddings: Embeddings,
        rebuild: VectorRebuild,
        versions: Versions,
        ready: Callable[[], bool],
    ) -> None:
        self._tenants = tenants
        self._retrieval = retrieval
        self._embeddings = embeddings
        self._rebuild = rebuild
        self._versions = versions
        self._ready = ready

    async def RetrieveCandidates(  # noqa: N802 - the name of the RPC
        self, request: pb.RetrieveCandidatesRequest, _context: Any
    ) -> pb.RetrieveCandidatesResponse:
        """Answer with candidates and their features."""
        self._begin(request.queries, MAX_USERS)
        answers = await _by_tenant(request.queries, _user_query, self._retrieval.retrieve)
        names = _feature_names(answers)
        return pb.RetrieveCandidatesResponse(
            results=[_candidates_message(answer, names) for answer in answers], feature_names=names
        )

    async def SimilarItems(  # noqa: N802 - the name of the RPC
        self, request: pb.SimilarItemsRequest, _context: Any
    ) -> pb.SimilarItemsResponse:
        """Answer with the items similar to each."""
        self._begin(request.queries, MAX_USERS)
        answers = await _by_tenant(request.queries, _similar_query, self._retrieval.similar)
        names = [name for name in _feature_names(answers) if name in _share_names(answers)]
        return pb.SimilarItemsResponse(
            results=[_similar_message(answer, names) for answer in answers], source_names=names
        )

    async def SearchByVector(  # noqa: N802 - the name of the RPC
        self, request: pb.SearchByVectorRequest, _context: Any
    ) -> pb.SearchByVectorResponse:
        """Answer with the nearest items of each vector."""
        self._begin(request.queries, MAX_VECTORS)
        results: list[Any] = [None] * len(request.queries)
        for search, in_factors in ((self._embeddings.search, False), (self._embeddings.search_factors, True)):
            places = [
                place
                for place, query in enumerate(request.queries)
                if (query.collection == pb.COLLECTION_FACTORS) is in_factors
            ]
            found = await _by_tenant([request.queries[place] for place in places], _vector_query, search)
            for place, answer in zip(places, found, strict=True):
                results[place] = _neighbours_message(answer)
        return pb.SearchByVectorResponse(results=results)

    async def ExplainScores(  # noqa: N802 - the name of the RPC
        self, request: pb.ExplainScoresRequest, _context: Any
    ) -> pb.ExplainScoresResponse:
        """Answer with what made the scores."""
        self._begin(request.queries, MAX_VECTORS)
        return pb.ExplainScoresResponse(results=map(self._explain, request.queries))

    async def UpsertItems(  # noqa: N802 - the name of the RPC
        self, request: pb.UpsertItemsRequest, _context: Any
    ) -> pb.UpsertItemsResponse:
        """Store vectors and answer with their neighbours."""
        self._begin(request.embeddings, MAX_UPSERTS)
        count = _bounded(request.neighbours, "neighbours", MAX_NEIGHBOURS, default=0)

        async def upsert(tenant: str, embeddings: Sequence[Embedding]) -> Sequence[Outcome]:
            if request.collection:
                outcomes = await self._rebuild.fill(tenant, request.collection, embeddings)
                return [outcome or nothing_near() for outcome in outcomes]
            return await self._embeddings.upsert(tenant, embeddings, neighbours=count)

        outcomes = await _by_tenant(request.embeddings, _embedding, upsert, tenant_of=lambda each: each.item.tenant)
        return pb.UpsertItemsResponse(results=map(_upserted_message, outcomes))

    async def DeleteItems(  # noqa: N802 - the name of the RPC
        self, request: pb.DeleteItemsRequest, _context: Any
    ) -> pb.DeleteItemsResponse:
        """Remove items."""
        _require(request.tenant, "tenant")
        keys = _keys(request.item_keys, "item_keys", MAX_LOOKUPS)
        times_ms = _keys(request.deleted_at_ms, "deleted_at_ms", MAX_LOOKUPS)
        if len(times_ms) not in {0, len(keys)}:
            raise InvalidArgumentError(f"{len(keys)} keys have {len(times_ms)} times", field="deleted_at_ms")
        await self._embeddings.delete(request.tenant, keys, times_ms.tolist())
        return pb.DeleteItemsResponse()

    async def LookupEmbeddings(  # noqa: N802 - the name of the RPC
        self, request: pb.LookupEmbeddingsRequest, _context: Any
    ) -> pb.LookupEmbeddingsResponse:
        """Answer which embedding each item has."""
        _require(request.tenant, "tenant")
        keys = _keys(request.item_keys, "item_keys", MAX_VECTOR_LOOKUPS if request.with_vectors else MAX_LOOKUPS)
        marks = await self._embeddings.marks(request.tenant, keys, building=request.collection)
        vectors: Sequence[Floats | None] = [None] * len(keys)
        if request.with_vectors:
            vectors = await self._embeddings.vectors(request.tenant, keys, building=request.collection)
        return pb.LookupEmbeddingsResponse(
            marks=[
                pb.LookupEmbeddingsResponse.Mark(
                    model_id=mark.model_id,
                    content_hash=mark.content_hash,
                    vector=b"" if vector is None else pack_floats(vector),
                )
                for mark, vector in zip(marks, vectors, strict=True)
            ]
        )

    async def ExportEmbeddings(  # noqa: N802 - the name of the RPC
        self, request: pb.ExportEmbeddingsRequest, _context: Any
    ) -> AsyncIterator[pb.ExportEmbeddingsResponse]:
        """Give all content vectors."""
        _require(request.tenant, "tenant")
        page_size = _bounded(request.page_size, "page_size", MAX_PAGE, default=1_000)
        async for points in self._embeddings.export(request.tenant, page_size):
            yield pb.ExportEmbeddingsResponse(
                item_keys=pack_keys(points.keys),
                vectors=pack_floats(points.vectors),
                dimensions=points.vectors.shape[1],
            )

    async def BeginRebuild(  # noqa: N802 - the name of the RPC
        self, request: pb.BeginRebuildRequest, _context: Any
    ) -> pb.BeginRebuildResponse:
        """Begin a new collection."""
        _require(request.tenant, "tenant")
        begun = await self._rebuild.begin(request.tenant, request.model_id, request.dimensions)
        return pb.BeginRebuildResponse(collection=begun.collection, serving_points=begun.serving_points)

    async def FinishRebuild(  # noqa: N802 - the name of the RPC
        self, request: pb.FinishRebuildRequest, _context: Any
    ) -> pb.FinishRebuildResponse:
        """Switch to a new collection."""
        _require(request.tenant, "tenant")
        _require(request.collection, "collection")
        rebuilt = await self._rebuild.finish(request.tenant, request.collection, least_points=request.least_points)
        return pb.FinishRebuildResponse(
            points=rebuilt.points, previous_points=rebuilt.previous_points, recall_at_10=rebuilt.recall_at_10
        )

    async def RollBackRebuild(  # noqa: N802 - the name of the RPC
        self, request: pb.RollBackRebuildRequest, _context: Any
    ) -> pb.RollBackRebuildResponse:
        """Go back to the collection before."""
        _require(request.tenant, "tenant")
        return pb.RollBackRebuildResponse(collection=await self._rebuild.roll_back(request.tenant))

    async def FindGaps(  # noqa: N802 - the name of the RPC
        self, _request: pb.FindGapsRequest, _context: Any
    ) -> pb.FindGapsResponse:
        """Answer where vectors are lost."""
        lost = await self._versions.find_gaps()
        gaps = {tenant: items for tenant, items in lost.items() if not await self._rebuild.is_moving(tenant)}
        return pb.FindGapsResponse(
            gaps=[pb.FindGapsResponse.Gap(tenant=tenant, items=items) for tenant, items in sorted(gaps.items())]
        )

    async def ActivateVersion(  # noqa: N802 - the name of the RPC
        self, request: pb.ActivateVersionRequest, _context: Any
    ) -> pb.ActivateVersionResponse:
        """Switch to a version."""
        _require(request.tenant, "tenant")
        _require(request.version, "version")
        activated = await self._versions.activate(request.tenant, request.version)
        return pb.ActivateVersionResponse(previous_version=activated.previous, recall_at_10=activated.recall_at_10)

    async def DropVersion(  # noqa: N802 - the name of the RPC
        self, request: pb.DropVersionRequest, _context: Any
    ) -> pb.DropVersionResponse:
        """Free a version."""
        _require(request.tenant, "tenant")
        _require(request.version, "version")
        await self._versions.drop(request.tenant, request.version)
        return pb.DropVersionResponse()

    async def DescribeVersions(  # noqa: N802 - the name of the RPC
        self, request: pb.DescribeVersionsRequest, _context: Any
    ) -> pb.DescribeVersionsResponse:
        """Answer with the versions held here."""
        _require(request.tenant, "tenant")
        tenant = self._tenants.find(request.tenant)
        held = [serving for serving in (tenant.active, tenant.previous) if serving and serving.version.name]
        return pb.DescribeVersionsResponse(
            versions=[
                _version_message(serving, active=serving is tenant.active)
                for serving in sorted(held, key=lambda each: each.version.trained_at_ms, reverse=True)
            ],
            serving_json=tenant.active.version.serving_json,
            overlay_items=tenant.active.catalogue.newcomers,
            embedded_items=await self._embeddings.count(request.tenant),
        )

    async def MeasureRecall(  # noqa: N802 - the name of the RPC
        self, request: pb.MeasureRecallRequest, _context: Any
    ) -> pb.MeasureRecallResponse:
        """Answer with how much of the truth the dense search finds."""
        _require(request.tenant, "tenant")
        if request.collection == pb.COLLECTION_FACTORS:
            raise InvalidArgumentError("factors are always compared exactly", field="collection")
        report = await self._embeddings.measure(
            request.tenant,
            k=_bounded(request.k, "k", 100, default=10),
            samples=_bounded(request.samples, "samples", MAX_RECALL_SAMPLES, default=200),
            selectivities=tuple(request.selectivities) or SELECTIVITIES,
            seed=request.seed,
        )
        return pb.MeasureRecallResponse(
            measurements=[
                pb.MeasureRecallResponse.Measurement(
                    selectivity=each.selectivity, recall=each.recall, p50_ms=each.p50_ms
                )
                for each in report.measurements
            ],
            points=report.points,
        )

    def _begin(self, elements: Sequence[Any], most: int) -> None:
        if not self._ready():
            raise UnavailableError("this replica still catches up with the log")
        if not 1 <= len(elements) <= most:
            raise InvalidArgumentError(f"a batch has 1 to {most} elements, not {len(elements)}")

    def _explain(self, message: pb.ExplainScoresRequest.Query) -> pb.ExplainScoresResponse.Explanation:
        try:
            _require(message.tenant, "tenant")
            keys = _keys(message.item_keys, "item_keys", MAX_EXPLAINED)
            limit = _bounded(message.limit, "limit", MAX_CONTRIBUTIONS, default=3)
            query = UserQuery(*_history(message), limit)
            contributions = self._retrieval.explain(message.tenant, query, keys, limit=limit)
        except InvalidArgumentError as error:
            return pb.ExplainScoresResponse.Explanation(error=element_error(error))
        return pb.ExplainScoresResponse.Explanation(
            contributions=[
                pb.ExplainScoresResponse.Contribution(
                    item_key=each.item_key, history_key=each.history_key, source=each.source, share=each.share
                )
                for each in contributions
            ]
        )


async def _by_tenant(
    messages: Sequence[Any],
    read: Callable[[Any], _Query],
    answer: Callable[[str, Sequence[_Query]], Awaitable[Sequence[_Answer]]],
    *,
    tenant_of: Callable[[Any], str] = lambda message: message.tenant,
) -> list[_Answer | ServiceError]:
    """Read each element, let each tenant's good ones be answered together, and give all in the order asked."""
    outcomes: list[_Answer | ServiceError | None] = [None] * len(messages)
    queries: dict[str, list[tuple[int, _Query]]] = {}
    for place, message in enumerate(messages):
        try:
            tenant = tenant_of(message)
            _require(tenant, "tenant")
            queries.setdefault(tenant, []).append((place, read(message)))
        except InvalidArgumentError as error:
            outcomes[place] = error
    for tenant, placed in queries.items():
        found = await answer(tenant, [query for _, query in placed])
        for (place, _), each in zip(placed, found, strict=True):
            outcomes[place] = each
    return [outcome for outcome in outcomes if outcome is not None]


def _user_query(message: pb.RetrieveCandidatesRequest.Query) -> UserQuery:
    keys, strengths, ages_s = _history(message)
    return UserQuery(
        keys,
        strengths,
        ages_s,
        _bounded(message.limit, "limit", MAX_LIMIT, default=200),
        _keys(message.exclude_keys, "exclude_keys", MAX_HISTORY),
        filter_from_message(message.filter),
        _source_weights(message.source_weights),
        message.include_history,
    )


def _history(message: Any) -> tuple[Keys, Floats, Floats]:
    keys = _keys(message.history_keys, "history_keys", MAX_HISTORY)
    strengths = unpack_floats(message.history_weights, field="history_weights")
    ages_s = unpack_floats(message.history_ages_s, field="history_ages_s")
    if not len(keys) == len(strengths) == len(ages_s):
        raise InvalidArgumentError(
            f"the history has {len(keys)} keys, {len(strengths)} weights and {len(ages_s)} ages", field="history_keys"
        )
    if len(ages_s) and ages_s.min() < 0:
        raise InvalidArgumentError("an age is not negative", field="history_ages_s")
    return keys, strengths, ages_s


def _similar_query(message: pb.SimilarItemsRequest.Query) -> SimilarQuery:
    return SimilarQuery(
        message.item_key,
        _bounded(message.limit, "limit", MAX_LIMIT, default=10),
        filter_from_message(message.filter),
        _source_weights(message.source_weights),
    )


def _vector_query(message: pb.SearchByVectorRequest.Query) -> VectorQuery:
    return VectorQuery(
        unpack_floats(message.vector, field="vector"),
        _bounded(message.limit, "limit", MAX_LIMIT, default=10),
        filter_from_message(message.filter),
        message.exact,
    )


def _embedding(message: pb.UpsertItemsRequest.Embedding) -> Embedding:
    return Embedding(
        item_from_message(message.item),
        unpack_floats(message.vector, field="vector") if message.vector else None,
        Mark(message.model_id, message.content_hash, message.item.updated_at_ms),
    )


def _source_weights(messages: Sequence[pb.SourceWeight]) -> Mapping[str, float] | None:
    if not messages:
        return None
    weights = {message.source: message.weight for message in messages}
    if not np.isfinite(list(weights.values())).all():
        raise InvalidArgumentError("a source's weight is finite", field="source_weights")
    return weights


def _keys(packed: bytes, field: str, most: int) -> Keys:
    keys = unpack_keys(packed, field=field)
    if len(keys) > most:
        raise InvalidArgumentError(f"{field} has at most {most} keys, not {len(keys)}", field=field)
    return keys


def _bounded(value: int, field: str, most: int, *, default: int) -> int:
    if value > most:
        raise InvalidArgumentError(f"{field} is at most {most}, not {value}", field=field)
    return value or default


def _require(value: str, field: str) -> None:
    if not value:
        raise InvalidArgumentError(f"{field} is missing", field=field)


def _feature_names(answers: Sequence[Candidates | ServiceError]) -> list[str]:
    """Give the names of all rows of a response: those of the first answer, and what others have besides."""
    names: dict[str, None] = {}
    for answer in answers:
        if isinstance(answer, Candidates):
            names |= dict.fromkeys(answer.version.feature_names)
    return list(names)


def _share_names(answers: Sequence[Candidates | ServiceError]) -> set[str]:
    return {name for each in answers if isinstance(each, Candidates) for name in each.version.share_names}


def _rows(candidates: Candidates, names: Sequence[str]) -> Floats:
    """Give the rows of these names; zeros where the version that answered has none."""
    own = candidates.version.feature_names
    if tuple(names) == own:
        return candidates.features
    rows = np.zeros((len(names), len(candidates.keys)), np.float32)
    for place, name in enumerate(names):
        if name in own:
            rows[place] = candidates.features[own.index(name)]
    return rows


def _candidates_message(
    answer: Candidates | ServiceError, names: Sequence[str]
) -> pb.RetrieveCandidatesResponse.Candidates:
    if isinstance(answer, ServiceError):
        return pb.RetrieveCandidatesResponse.Candidates(error=element_error(answer))
    return pb.RetrieveCandidatesResponse.Candidates(
        item_keys=pack_keys(answer.keys),
        features=pack_floats(_rows(answer, names)),
        because=pack_ints(answer.because),
        model_version=answer.version.name,
    )


def _similar_message(answer: Candidates | ServiceError, names: Sequence[str]) -> pb.SimilarItemsResponse.Similar:
    if isinstance(answer, ServiceError):
        return pb.SimilarItemsResponse.Similar(error=element_error(answer))
    return pb.SimilarItemsResponse.Similar(
        item_keys=pack_keys(answer.keys), scores=pack_floats(answer.scores), shares=pack_floats(_rows(answer, names))
    )


def _neighbours_message(answer: Neighbours | ServiceError) -> pb.SearchByVectorResponse.Neighbours:
    if isinstance(answer, ServiceError):
        return pb.SearchByVectorResponse.Neighbours(error=element_error(answer))
    return pb.SearchByVectorResponse.Neighbours(item_keys=pack_keys(answer.keys), scores=pack_floats(answer.scores))


def _upserted_message(outcome: Outcome) -> pb.UpsertItemsResponse.Result:
    if isinstance(outcome, ServiceError):
        return pb.UpsertItemsResponse.Result(error=element_error(outcome))
    if isinstance(outcome, Superseded):
        return pb.UpsertItemsResponse.Result(superseded=True)
    return pb.UpsertItemsResponse.Result(
        neighbour_keys=pack_keys(outcome.keys), neighbour_scores=pack_floats(outcome.scores)
    )


def _version_message(serving: Serving, *, active: bool) -> pb.DescribeVersionsResponse.Version:
    return pb.DescribeVersionsResponse.Version(
        version=serving.version.name,
        items=len(serving.version.items.keys),
        trained_at_ms=serving.version.trained_at_ms,
        active=active,
        previous=not active,
    )
