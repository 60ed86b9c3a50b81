"""graph_service over gRPC: candidates, related items, paths."""

from collections.abc import Mapping, Sequence

from hot_path_api.adapters.convert import error_from_proto, filter_to_proto, same_length
from hot_path_api.domain.candidates import GRAPH, Candidates, SourceQuery
from hot_path_api.domain.ports import Contribution
from recommendation.graph_service.v1 import graph_service_pb2 as pb
from recommendation.graph_service.v1 import graph_service_pb2_grpc as rpc
from servicekit.arrays import Floats, Keys, pack_keys, unpack_floats, unpack_ints, unpack_keys
from servicekit.errors import InternalError, ServiceError
from servicekit.rpc.client import RpcChannel

META_PATHS: Mapping[str, "pb.MetaPath.ValueType"] = {
    "item_person_item": pb.META_PATH_ITEM_PERSON_ITEM,
    "item_genre_item": pb.META_PATH_ITEM_GENRE_ITEM,
    "item_user_item": pb.META_PATH_ITEM_USER_ITEM,
}
_NAMES = {number: name for name, number in META_PATHS.items()}
_SHARES = frozenset({GRAPH})
# The service looks at the last few history items only, so no more are sent.
_HISTORY = 20


class GraphServiceClient:
    """The Graph of graph_service.

    Args:
        rpc_channel: The connection.
        candidates: How many candidates are asked for at most.
    """

    def __init__(self, rpc_channel: RpcChannel, *, candidates: int) -> None:
        self._rpc = rpc_channel
        self._stub = rpc.GraphServiceStub(rpc_channel.channel)
        self._candidates = candidates

    async def expand(self, queries: Sequence[SourceQuery], *, timeout_s: float) -> Sequence[Candidates | ServiceError]:
        """Find each user's candidates."""
        request = pb.ExpandUsersRequest(queries=[self._to_proto(query) for query in queries])
        response = await self._rpc.unary(self._stub.ExpandUsers, request, timeout_s=timeout_s, idempotent=True)
        same_length("graph_service", queries, response.results)
        return [_from_proto(result) for result in response.results]

    async def related(self, tenant: str, item_key: int, *, limit: int, timeout_s: float) -> tuple[Keys, Floats]:
        """Find the items related to one."""
        query = pb.RelatedItemsRequest.Query(tenant=tenant, item_key=item_key, limit=min(limit, 400))
        request = pb.RelatedItemsRequest(queries=[query])
        response = await self._rpc.unary(self._stub.RelatedItems, request, timeout_s=timeout_s, idempotent=True)
        same_length("graph_service", request.queries, response.results)
        (result,) = response.results
        if result.HasField("error"):
            raise error_from_proto(result.error)
        return unpack_keys(result.item_keys, field="item_keys"), unpack_floats(result.scores, field="scores")

    async def explain(
        self, tenant: str, history_keys: Keys, item_keys: Keys, *, limit: int, timeout_s: float
    ) -> Sequence[Contribution]:
        """Find the paths from the history to these items."""
        query = pb.ExplainRecommendationsRequest.Query(
            tenant=tenant,
            history_keys=pack_keys(history_keys[:_HISTORY]),
            item_keys=pack_keys(item_keys),
            limit=limit,
        )
        request = pb.ExplainRecommendationsRequest(queries=[query])
        response = await self._rpc.unary(
            self._stub.ExplainRecommendations, request, timeout_s=timeout_s, idempotent=True
        )
        for result in response.results:
            if result.HasField("error"):
                raise error_from_proto(result.error)
        return [
            Contribution(
                each.item_key,
                each.history_key,
                round(each.share, 6),
                GRAPH,
                meta_path=_NAMES.get(each.meta_path, ""),
                through=each.through,
            )
            for result in response.results
            for each in result.paths
        ]

    def _to_proto(self, query: SourceQuery) -> pb.ExpandUsersRequest.Query:
        # History beyond the first few is excluded like everything else that was seen.
        exclude = query.history_keys[_HISTORY:].tobytes() + query.exclude_keys.tobytes()
        return pb.ExpandUsersRequest.Query(
            tenant=query.tenant,
            history_keys=query.history_keys[:_HISTORY].tobytes(),
            history_weights=query.history_weights[:_HISTORY].tobytes(),
            exclude_keys=exclude,
            limit=self._candidates,
            meta_path_weights=[
                pb.MetaPathWeight(meta_path=META_PATHS[name], weight=weight) for name, weight in query.weights.items()
            ]
            if query.weights
            else [],
            filter=filter_to_proto(query.filter),
        )


def _from_proto(result: pb.ExpandUsersResponse.Candidates) -> Candidates | ServiceError:
    if result.HasField("error"):
        return error_from_proto(result.error)
    try:
        keys = unpack_keys(result.item_keys, field="item_keys")
        return Candidates(
            keys=keys,
            names=(GRAPH,),
            features=unpack_floats(result.scores, field="scores").reshape(1, len(keys)),
            because=unpack_ints(result.because, field="because").reshape(len(keys)),
            shares=_SHARES,
        )
    except (ServiceError, ValueError) as error:
        return InternalError(f"graph_service sent candidates that cannot be read: {error}")
