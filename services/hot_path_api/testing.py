"""Memory twins of the four services behind the gateway, for its tests and its load script.

They keep the promises of the protos that the gateway relies on, by the shortest means; the services' own tests are
what shows that the real ones keep them.
"""

# ruff: noqa: ARG002, N802 - the shapes and names are those of the protos

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import numpy as np

from hot_path_api.adapters.convert import filter_from_proto, item_from_proto
from recommendation.common.v1 import common_pb2
from recommendation.gpu_worker.v1 import gpu_worker_pb2, gpu_worker_pb2_grpc
from recommendation.graph_service.v1 import graph_service_pb2, graph_service_pb2_grpc
from recommendation.profile_store.v1 import profile_store_pb2, profile_store_pb2_grpc
from recommendation.vector_search.v1 import vector_search_pb2, vector_search_pb2_grpc
from servicekit.arrays import Floats, Keys, pack_floats, pack_ints, pack_keys, unpack_floats, unpack_keys
from servicekit.errors import UnavailableError
from servicekit.identity import item_key
from servicekit.rpc.server import GrpcServer

DIMENSIONS = 8
BUILT_IN_TYPES: Mapping[str, tuple[float, float | None]] = {
    "view": (1.0, None),
    "like": (2.0, None),
    "add_to_cart": (3.0, None),
    "purchase": (5.0, None),
    "rating": (1.0, 3.0),
}


@dataclass
class Weather:
    """How a twin behaves: well, late or not at all."""

    down: bool = False
    delay_s: float = 0.0

    async def endure(self) -> None:
        """Be late, or fail."""
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.down:
            raise UnavailableError("this twin was told to be down")


@dataclass
class World:
    """What all twins know.

    Args:
        items: The catalogue by key.
        neighbours: For a history item the (item, share) that each retrieval source answers with.
        related: For a history item the (item, score) that the graph answers with.
        feature_names: The rows that vector_search answers with; those that are no source are 1.
    """

    items: dict[int, common_pb2.Item] = field(default_factory=dict)
    interactions: dict[str, list[profile_store_pb2.Interaction]] = field(default_factory=lambda: defaultdict(list))
    event_ids: set[str] = field(default_factory=set)
    types: dict[str, tuple[float, float | None]] = field(default_factory=lambda: dict(BUILT_IN_TYPES))
    neighbours: dict[str, dict[int, list[tuple[int, float]]]] = field(default_factory=lambda: defaultdict(dict))
    related: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    feature_names: Sequence[str] = ("cooccurrence", "transition", "content", "nearest", "factors", "log_popularity")
    model_version: str = ""
    serving_json: str = ""
    profiles: Weather = field(default_factory=Weather)
    vectors: Weather = field(default_factory=Weather)
    graph: Weather = field(default_factory=Weather)
    encoder: Weather = field(default_factory=Weather)
    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def passes(self, key: int, conditions: common_pb2.Filter) -> bool:
        """Tell whether an item exists, is not hidden and passes."""
        item = self.items.get(key)
        return item is not None and not item.hidden and item_from_proto(item).passes(filter_from_proto(conditions))

    def weight(self, interaction: profile_store_pb2.Interaction) -> float:
        """Weigh an interaction."""
        weight, centre = self.types[interaction.interaction_type]
        return weight if centre is None else weight * (interaction.value - centre)


class _Profiles(profile_store_pb2_grpc.ProfileStoreServiceServicer):
    def __init__(self, world: World) -> None:
        self._world = world

    async def GetUserContexts(
        self, request: profile_store_pb2.GetUserContextsRequest, context: Any
    ) -> profile_store_pb2.GetUserContextsResponse:
        await self._world.profiles.endure()
        self._world.calls["GetUserContexts"] += 1
        return profile_store_pb2.GetUserContextsResponse(contexts=[self._context(query) for query in request.queries])

    def _context(
        self, query: profile_store_pb2.GetUserContextsRequest.Query
    ) -> profile_store_pb2.GetUserContextsResponse.UserContext:
        history: dict[int, list[float]] = {}
        done = self._world.interactions.get(f"{query.tenant}/{query.user_id}", [])
        for each in sorted(done, key=lambda each: each.occurred_at_ms):
            key = item_key(each.tenant, each.item_type, each.item_id)
            weight, _ = history.pop(key, [0.0, 0])
            history[key] = [weight + self._world.weight(each), each.occurred_at_ms]
        newest = list(reversed(history))
        kept, rest = newest[: query.history_limit], newest[query.history_limit :]
        return profile_store_pb2.GetUserContextsResponse.UserContext(
            history_keys=pack_keys(kept),
            history_weights=pack_floats([history[key][0] for key in kept]),
            history_times_ms=pack_keys([int(history[key][1]) for key in kept]),
            seen_keys=pack_keys(rest),
            interaction_count=len(done),
        )

    async def AppendInteractions(
        self, request: profile_store_pb2.AppendInteractionsRequest, context: Any
    ) -> profile_store_pb2.AppendInteractionsResponse:
        await self._world.profiles.endure()
        self._world.calls["AppendInteractions"] += 1
        results = []
        for each in request.interactions:
            applied = each.event_id not in self._world.event_ids
            if applied:
                self._world.event_ids.add(each.event_id)
                self._world.interactions[f"{each.tenant}/{each.user_id}"].append(each)
            results.append(profile_store_pb2.AppendInteractionsResponse.Result(applied=applied))
        return profile_store_pb2.AppendInteractionsResponse(results=results)

    async def ListInteractions(
        self, request: profile_store_pb2.ListInteractionsRequest, context: Any
    ) -> profile_store_pb2.ListInteractionsResponse:
        await self._world.profiles.endure()
        done = self._world.interactions.get(f"{request.tenant}/{request.user_id}", [])[::-1]
        begin = int(request.cursor or 0)
        end = begin + request.limit
        return profile_store_pb2.ListInteractionsResponse(
            interactions=done[begin:end], next_cursor=str(end) if end < len(done) else ""
        )

    async def PutItems(
        self, request: profile_store_pb2.PutItemsRequest, context: Any
    ) -> profile_store_pb2.PutItemsResponse:
        await self._world.profiles.endure()
        results = []
        for item in request.items:
            key = item_key(item.tenant, item.item_type, item.item_id)
            created = key not in self._world.items
            self._world.items[key] = item
            results.append(profile_store_pb2.PutItemsResponse.Result(applied=True, created=created))
        return profile_store_pb2.PutItemsResponse(results=results)

    async def GetItems(
        self, request: profile_store_pb2.GetItemsRequest, context: Any
    ) -> profile_store_pb2.GetItemsResponse:
        await self._world.profiles.endure()
        self._world.calls["GetItems"] += 1
        keys = [key for key in unpack_keys(request.item_keys, field="item_keys").tolist() if key in self._world.items]
        return profile_store_pb2.GetItemsResponse(
            item_keys=pack_keys(keys), items=[self._world.items[key] for key in keys]
        )

    async def DeleteItems(
        self, request: profile_store_pb2.DeleteItemsRequest, context: Any
    ) -> profile_store_pb2.DeleteItemsResponse:
        await self._world.profiles.endure()
        keys = [item_key(ref.tenant, ref.item_type, ref.item_id) for ref in request.items]
        return profile_store_pb2.DeleteItemsResponse(
            deleted=[self._world.items.pop(key, None) is not None for key in keys]
        )

    async def ListItems(
        self, request: profile_store_pb2.ListItemsRequest, context: Any
    ) -> profile_store_pb2.ListItemsResponse:
        await self._world.profiles.endure()
        found = sorted(
            (
                item
                for item in self._world.items.values()
                if item.tenant == request.tenant and request.item_type in {"", item.item_type}
            ),
            key=lambda item: (item.item_type, item.item_id),
        )
        begin = int(request.cursor or 0)
        end = begin + request.limit
        return profile_store_pb2.ListItemsResponse(
            items=found[begin:end], next_cursor=str(end) if end < len(found) else ""
        )

    async def PutInteractionTypes(
        self, request: profile_store_pb2.PutInteractionTypesRequest, context: Any
    ) -> profile_store_pb2.PutInteractionTypesResponse:
        await self._world.profiles.endure()
        for each in request.types:
            self._world.types[each.name] = (each.weight, each.centre if each.HasField("centre") else None)
        return profile_store_pb2.PutInteractionTypesResponse()

    async def ListInteractionTypes(
        self, request: profile_store_pb2.ListInteractionTypesRequest, context: Any
    ) -> profile_store_pb2.ListInteractionTypesResponse:
        await self._world.profiles.endure()
        self._world.calls["ListInteractionTypes"] += 1
        return profile_store_pb2.ListInteractionTypesResponse(
            types=[
                profile_store_pb2.InteractionType(name=name, weight=weight, centre=centre, counts_as_seen=True)
                for name, (weight, centre) in sorted(self._world.types.items())
            ]
        )

    async def GetPopularity(
        self, request: profile_store_pb2.GetPopularityRequest, context: Any
    ) -> profile_store_pb2.GetPopularityResponse:
        await self._world.profiles.endure()
        self._world.calls["GetPopularity"] += 1
        counts: dict[int, float] = defaultdict(float)
        for done in self._world.interactions.values():
            for each in done:
                counts[item_key(each.tenant, each.item_type, each.item_id)] += max(self._world.weight(each), 0.0)
        results = []
        for query in request.queries:
            keys = [key for key, count in counts.items() if count > 0 and self._world.passes(key, query.filter)]
            keys.sort(key=lambda key: (-counts[key], key))
            keys = keys[: query.limit]
            results.append(
                profile_store_pb2.GetPopularityResponse.Popularity(
                    item_keys=pack_keys(keys), scores=pack_floats([counts[key] for key in keys])
                )
            )
        return profile_store_pb2.GetPopularityResponse(results=results)


class _Vectors(vector_search_pb2_grpc.VectorSearchServiceServicer):
    def __init__(self, world: World) -> None:
        self._world = world

    async def RetrieveCandidates(
        self, request: vector_search_pb2.RetrieveCandidatesRequest, context: Any
    ) -> vector_search_pb2.RetrieveCandidatesResponse:
        await self._world.vectors.endure()
        self._world.calls["RetrieveCandidates"] += 1
        return vector_search_pb2.RetrieveCandidatesResponse(
            results=[self._retrieve(query) for query in request.queries], feature_names=self._world.feature_names
        )

    def _retrieve(
        self, query: vector_search_pb2.RetrieveCandidatesRequest.Query
    ) -> vector_search_pb2.RetrieveCandidatesResponse.Candidates:
        history = unpack_keys(query.history_keys, field="history_keys").tolist()
        weights = unpack_floats(query.history_weights, field="history_weights").tolist()
        left_out = {*history, *unpack_keys(query.exclude_keys, field="exclude_keys").tolist()}
        names = list(self._world.feature_names)
        asked = {each.source: each.weight for each in query.source_weights} or dict.fromkeys(names, 1.0)
        shares: dict[int, Floats] = {}
        because: dict[int, tuple[float, int]] = {}
        for place, (key, weight) in enumerate(zip(history, weights, strict=True)):
            for row, name in enumerate(names):
                for neighbour, share in self._world.neighbours[name].get(key, []) if name in asked else []:
                    if neighbour in left_out or not self._world.passes(neighbour, query.filter):
                        continue
                    shares.setdefault(neighbour, np.zeros(len(names), np.float32))[row] += weight * share
                    because[neighbour] = max(because.get(neighbour, (0.0, -1)), (weight * share, place))
        totals = {key: float(sum(row)) for key, row in shares.items()}
        keys = sorted(totals, key=lambda key: (-totals[key], key))[: query.limit]
        features = np.array([shares[key] for key in keys], np.float32).reshape(len(keys), len(names)).T
        return vector_search_pb2.RetrieveCandidatesResponse.Candidates(
            item_keys=pack_keys(keys),
            features=pack_floats(np.ascontiguousarray(features)),
            because=pack_ints([because[key][1] for key in keys]),
            model_version=self._world.model_version,
        )

    async def SimilarItems(
        self, request: vector_search_pb2.SimilarItemsRequest, context: Any
    ) -> vector_search_pb2.SimilarItemsResponse:
        await self._world.vectors.endure()
        results = []
        for query in request.queries:
            found = self._world.neighbours["content"].get(query.item_key)
            if found is None:
                error = common_pb2.ElementError(code="not_found", message="no such item", field="item_key")
                results.append(vector_search_pb2.SimilarItemsResponse.Similar(error=error))
                continue
            passing = [each for each in found if self._world.passes(each[0], query.filter)][: query.limit]
            scores = pack_floats([score for _, score in passing])
            results.append(
                vector_search_pb2.SimilarItemsResponse.Similar(
                    item_keys=pack_keys([key for key, _ in passing]), scores=scores, shares=scores
                )
            )
        return vector_search_pb2.SimilarItemsResponse(results=results, source_names=["content"])

    async def SearchByVector(
        self, request: vector_search_pb2.SearchByVectorRequest, context: Any
    ) -> vector_search_pb2.SearchByVectorResponse:
        await self._world.vectors.endure()
        results = []
        for query in request.queries:
            vector = unpack_floats(query.vector, field="vector")
            scored = [
                (float(vector @ text_vector(item.title)), key)
                for key, item in self._world.items.items()
                if self._world.passes(key, query.filter)
            ]
            scored.sort(key=lambda each: (-each[0], each[1]))
            scored = scored[: query.limit]
            results.append(
                vector_search_pb2.SearchByVectorResponse.Neighbours(
                    item_keys=pack_keys([key for _, key in scored]), scores=pack_floats([score for score, _ in scored])
                )
            )
        return vector_search_pb2.SearchByVectorResponse(results=results)

    async def ExplainScores(
        self, request: vector_search_pb2.ExplainScoresRequest, context: Any
    ) -> vector_search_pb2.ExplainScoresResponse:
        await self._world.vectors.endure()
        results = []
        for query in request.queries:
            history = unpack_keys(query.history_keys, field="history_keys").tolist()
            results.append(
                vector_search_pb2.ExplainScoresResponse.Explanation(
                    contributions=[
                        vector_search_pb2.ExplainScoresResponse.Contribution(
                            item_key=key, history_key=seen, source=source, share=share
                        )
                        for key in unpack_keys(query.item_keys, field="item_keys").tolist()
                        for seen in history
                        for source, table in self._world.neighbours.items()
                        for neighbour, share in table.get(seen, [])
                        if neighbour == key
                    ]
                )
            )
        return vector_search_pb2.ExplainScoresResponse(results=results)

    async def DescribeVersions(
        self, request: vector_search_pb2.DescribeVersionsRequest, context: Any
    ) -> vector_search_pb2.DescribeVersionsResponse:
        await self._world.vectors.endure()
        return vector_search_pb2.DescribeVersionsResponse(serving_json=self._world.serving_json)


class _Graph(graph_service_pb2_grpc.GraphServiceServicer):
    def __init__(self, world: World) -> None:
        self._world = world

    async def ExpandUsers(
        self, request: graph_service_pb2.ExpandUsersRequest, context: Any
    ) -> graph_service_pb2.ExpandUsersResponse:
        await self._world.graph.endure()
        self._world.calls["ExpandUsers"] += 1
        results = []
        for query in request.queries:
            history = unpack_keys(query.history_keys, field="history_keys").tolist()
            left_out = {*history, *unpack_keys(query.exclude_keys, field="exclude_keys").tolist()}
            scores: dict[int, float] = {}
            because: dict[int, int] = {}
            for place, key in enumerate(history):
                for related, score in self._world.related.get(key, []):
                    if related not in left_out and self._world.passes(related, query.filter):
                        scores[related] = scores.get(related, 0.0) + score
                        because.setdefault(related, place)
            keys = sorted(scores, key=lambda key: (-scores[key], key))[: query.limit]
            results.append(
                graph_service_pb2.ExpandUsersResponse.Candidates(
                    item_keys=pack_keys(keys),
                    scores=pack_floats([scores[key] for key in keys]),
                    because=pack_ints([because[key] for key in keys]),
                )
            )
        return graph_service_pb2.ExpandUsersResponse(results=results)

    async def RelatedItems(
        self, request: graph_service_pb2.RelatedItemsRequest, context: Any
    ) -> graph_service_pb2.RelatedItemsResponse:
        await self._world.graph.endure()
        results = []
        for query in request.queries:
            found = self._world.related.get(query.item_key, [])[: query.limit]
            results.append(
                graph_service_pb2.RelatedItemsResponse.Related(
                    item_keys=pack_keys([key for key, _ in found]), scores=pack_floats([score for _, score in found])
                )
            )
        return graph_service_pb2.RelatedItemsResponse(results=results)

    async def ExplainRecommendations(
        self, request: graph_service_pb2.ExplainRecommendationsRequest, context: Any
    ) -> graph_service_pb2.ExplainRecommendationsResponse:
        await self._world.graph.endure()
        results = []
        for query in request.queries:
            paths = [
                graph_service_pb2.ExplainRecommendationsResponse.Path(
                    item_key=key,
                    history_key=seen,
                    meta_path=graph_service_pb2.META_PATH_ITEM_GENRE_ITEM,
                    through="Drama",
                    share=score,
                )
                for key in unpack_keys(query.item_keys, field="item_keys").tolist()
                for seen in unpack_keys(query.history_keys, field="history_keys").tolist()
                for related, score in self._world.related.get(seen, [])
                if related == key
            ]
            results.append(graph_service_pb2.ExplainRecommendationsResponse.Explanation(paths=paths))
        return graph_service_pb2.ExplainRecommendationsResponse(results=results)


class _Encoder(gpu_worker_pb2_grpc.GpuWorkerServiceServicer):
    def __init__(self, world: World) -> None:
        self._world = world

    async def EncodeTexts(
        self, request: gpu_worker_pb2.EncodeTextsRequest, context: Any
    ) -> gpu_worker_pb2.EncodeTextsResponse:
        await self._world.encoder.endure()
        self._world.calls["EncodeTexts"] += 1
        vectors = np.array([text_vector(text) for text in request.texts], np.float32)
        return gpu_worker_pb2.EncodeTextsResponse(
            vectors=pack_floats(vectors), dimensions=DIMENSIONS, model_id="letters"
        )


def text_vector(text: str) -> Floats:
    """Give float32[DIMENSIONS] of length 1: how often letters fall into each class; all zero without letters."""
    vector = np.zeros(DIMENSIONS, np.float32)
    for letter in text.lower():
        if letter.isalpha():
            vector[ord(letter) % DIMENSIONS] += 1.0
    norm = float(np.linalg.norm(vector))
    return vector / np.float32(norm) if norm else vector


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the twins listen."""

    profile_store: str
    vector_search: str
    graph_service: str
    gpu_worker: str


@asynccontextmanager
async def twins(world: World) -> AsyncIterator[Endpoints]:
    """Run the four twins on free ports of this process."""

    def add(server: grpc.aio.Server, name: str) -> None:
        if name == "profile_store":
            profile_store_pb2_grpc.add_ProfileStoreServiceServicer_to_server(_Profiles(world), server)  # type: ignore[abstract]  # only what the gateway calls
        elif name == "vector_search":
            vector_search_pb2_grpc.add_VectorSearchServiceServicer_to_server(_Vectors(world), server)  # type: ignore[abstract]  # only what the gateway calls
        elif name == "graph_service":
            graph_service_pb2_grpc.add_GraphServiceServicer_to_server(_Graph(world), server)  # type: ignore[abstract]  # only what the gateway calls
        else:
            gpu_worker_pb2_grpc.add_GpuWorkerServiceServicer_to_server(_Encoder(world), server)  # type: ignore[abstract]  # only what the gateway calls

    async with AsyncExitStack() as stack:
        ports = {}
        for name in ("profile_store", "vector_search", "graph_service", "gpu_worker"):
            server = GrpcServer(
                host="127.0.0.1",
                port=0,
                service_names=(),
                register=lambda server, name=name: add(server, name),  # type: ignore[misc]
                shutdown_grace_s=0.1,
            )
            await stack.enter_async_context(server)
            server.set_serving(True)
            ports[name] = f"127.0.0.1:{server.port}"
        yield Endpoints(**ports)


def keys_of(items: Sequence[common_pb2.Item]) -> Keys:
    """Give int64[N], the keys of items."""
    return np.array([item_key(item.tenant, item.item_type, item.item_id) for item in items], np.int64)
