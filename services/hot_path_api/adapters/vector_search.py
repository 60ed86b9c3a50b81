"""vector_search over gRPC: candidates; similar items and text search in micro-batches."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hot_path_api.adapters.convert import error_from_proto, filter_to_proto, same_length
from hot_path_api.domain.candidates import FACTORS, Candidates, SourceQuery
from hot_path_api.domain.ports import Contribution, Similar
from recommendation.vector_search.v1 import vector_search_pb2 as pb
from recommendation.vector_search.v1 import vector_search_pb2_grpc as rpc
from servicekit.arrays import Floats, Keys, pack_floats, pack_keys, unpack_floats, unpack_ints, unpack_keys
from servicekit.batching import MicroBatcher
from servicekit.errors import InternalError, ServiceError
from servicekit.filters import Filter
from servicekit.rpc.client import RpcChannel

_READ_S = 0.5


class _SimilarQuery(NamedTuple):
    tenant: str
    item_key: int
    conditions: Filter
    limit: int
    weights: Mapping[str, float] | None


class _VectorQuery(NamedTuple):
    tenant: str
    vector: Floats
    conditions: Filter
    limit: int


class VectorSearchClient:
    """The VectorIndex of vector_search.

    Args:
        rpc_channel: The connection.
        in_flight: How many batches of similar items may be under way at a time.
    """

    def __init__(self, rpc_channel: RpcChannel, *, in_flight: int) -> None:
        self._rpc = rpc_channel
        self._stub = rpc.VectorSearchServiceStub(rpc_channel.channel)
        self._layouts: dict[tuple[str, ...], frozenset[str]] = {}
        self._similars: MicroBatcher[_SimilarQuery, Similar] = MicroBatcher(
            self._similar_batch, name="vector_search.similar", max_in_flight=in_flight, max_queue=4096
        )
        self._searches: MicroBatcher[_VectorQuery, tuple[Keys, Floats]] = MicroBatcher(
            self._search_batch, name="vector_search.search"
        )

    async def close(self) -> None:
        """Finish what was taken; the channel belongs to whoever made it."""
        for batcher in (self._similars, self._searches):
            await batcher.close()

    async def retrieve(
        self, queries: Sequence[SourceQuery], *, timeout_s: float
    ) -> Sequence[Candidates | ServiceError]:
        """Find each user's candidates."""
        request = pb.RetrieveCandidatesRequest(queries=[_retrieval_to_proto(query) for query in queries])
        response = await self._rpc.unary(self._stub.RetrieveCandidates, request, timeout_s=timeout_s, idempotent=True)
        same_length("vector_search", queries, response.results)
        names = tuple(response.feature_names)
        shares = self._layouts.get(names)
        if shares is None:
            # The sources stand before the factors, the model's columns behind them.
            shares = frozenset(names[: names.index(FACTORS)] if FACTORS in names else names)
            self._layouts[names] = shares
        return [_candidates_from_proto(result, names, shares) for result in response.results]

    async def similar(
        self,
        tenant: str,
        item_key: int,
        *,
        conditions: Filter,
        limit: int,
        weights: Mapping[str, float] | None,
        timeout_s: float,
    ) -> Similar:
        """Find items similar to one."""
        query = _SimilarQuery(tenant, item_key, conditions, limit, weights)
        return await self._similars.submit(query, timeout_s=timeout_s)

    async def search(
        self, tenant: str, vector: Floats, *, conditions: Filter, limit: int, timeout_s: float
    ) -> tuple[Keys, Floats]:
        """Find the items whose texts are nearest to a vector."""
        return await self._searches.submit(_VectorQuery(tenant, vector, conditions, limit), timeout_s=timeout_s)

    async def explain(
        self, query: SourceQuery, item_keys: Keys, *, limit: int, timeout_s: float
    ) -> Sequence[Contribution]:
        """Say which history items made the scores of these items."""
        request = pb.ExplainScoresRequest(
            queries=[
                pb.ExplainScoresRequest.Query(
                    tenant=query.tenant,
                    history_keys=pack_keys(query.history_keys),
                    history_weights=pack_floats(query.history_weights),
                    history_ages_s=pack_floats(query.history_ages_s),
                    item_keys=pack_keys(item_keys),
                    limit=limit,
                )
            ]
        )
        response = await self._rpc.unary(self._stub.ExplainScores, request, timeout_s=timeout_s, idempotent=True)
        for result in response.results:
            if result.HasField("error"):
                raise error_from_proto(result.error)
        return [
            Contribution(each.item_key, each.history_key, round(each.share, 6), each.source)
            for result in response.results
            for each in result.contributions
        ]

    async def serving_document(self, tenant: str, *, timeout_s: float) -> str:
        """Read what training left for serving with the active version."""
        request = pb.DescribeVersionsRequest(tenant=tenant)
        response = await self._rpc.unary(self._stub.DescribeVersions, request, timeout_s=timeout_s, idempotent=True)
        return response.serving_json

    async def _similar_batch(self, queries: list[_SimilarQuery]) -> Sequence[Similar | ServiceError]:
        request = pb.SimilarItemsRequest(
            queries=[
                pb.SimilarItemsRequest.Query(
                    tenant=query.tenant,
                    item_key=query.item_key,
                    filter=filter_to_proto(query.conditions),
                    limit=query.limit,
                    source_weights=_weights_to_proto(query.weights),
                )
                for query in queries
            ]
        )
        response = await self._rpc.unary(self._stub.SimilarItems, request, timeout_s=_READ_S, idempotent=True)
        names = tuple(response.source_names)
        return [_similar_from_proto(result, names) for result in response.results]

    async def _search_batch(self, queries: list[_VectorQuery]) -> Sequence[tuple[Keys, Floats] | ServiceError]:
        request = pb.SearchByVectorRequest(
            queries=[
                pb.SearchByVectorRequest.Query(
                    tenant=query.tenant,
                    collection=pb.COLLECTION_CONTENT,
                    vector=pack_floats(query.vector),
                    filter=filter_to_proto(query.conditions),
                    limit=query.limit,
                )
                for query in queries
            ]
        )
        response = await self._rpc.unary(self._stub.SearchByVector, request, timeout_s=_READ_S, idempotent=True)
        return [
            error_from_proto(result.error)
            if result.HasField("error")
            else (unpack_keys(result.item_keys, field="item_keys"), unpack_floats(result.scores, field="scores"))
            for result in response.results
        ]


def _retrieval_to_proto(query: SourceQuery) -> pb.RetrieveCandidatesRequest.Query:
    return pb.RetrieveCandidatesRequest.Query(
        tenant=query.tenant,
        history_keys=query.history_keys.tobytes(),
        history_weights=query.history_weights.tobytes(),
        history_ages_s=query.history_ages_s.tobytes(),
        exclude_keys=query.exclude_keys.tobytes(),
        filter=filter_to_proto(query.filter),
        limit=query.limit,
        source_weights=_weights_to_proto(query.weights),
    )


def _weights_to_proto(weights: Mapping[str, float] | None) -> list[pb.SourceWeight]:
    return [pb.SourceWeight(source=name, weight=weight) for name, weight in weights.items()] if weights else []


def _candidates_from_proto(
    result: pb.RetrieveCandidatesResponse.Candidates, names: tuple[str, ...], shares: frozenset[str]
) -> Candidates | ServiceError:
    if result.HasField("error"):
        return error_from_proto(result.error)
    try:
        keys = unpack_keys(result.item_keys, field="item_keys")
        return Candidates(
            keys=keys,
            names=names,
            # Read without a look at each of thousands of numbers: one that is not finite spoils its item's rank only.
            features=np.frombuffer(result.features, "<f4").reshape(len(names), len(keys)),
            because=unpack_ints(result.because, field="because").reshape(len(keys)),
            shares=shares,
            model_version=result.model_version,
        )
    except (ServiceError, ValueError) as error:
        return InternalError(f"vector_search sent candidates that cannot be read: {error}")


def _similar_from_proto(result: pb.SimilarItemsResponse.Similar, names: tuple[str, ...]) -> Similar | ServiceError:
    if result.HasField("error"):
        return error_from_proto(result.error)
    try:
        keys = unpack_keys(result.item_keys, field="item_keys")
        return Similar(
            keys=keys,
            scores=unpack_floats(result.scores, field="scores").reshape(len(keys)),
            names=names,
            shares=unpack_floats(result.shares, field="shares").reshape(len(names), len(keys)),
        )
    except (ServiceError, ValueError) as error:
        return InternalError(f"vector_search sent similar items that cannot be read: {error}")
