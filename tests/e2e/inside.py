"""Looks behind the gateway: asks one replica of a service by itself, and reads what a process exports."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import httpx
from prometheus_client.parser import text_string_to_metric_families

from e2e.stack import Stack
from recommend_cli.stack.health import is_ready
from recommendation.graph_service.v1 import graph_service_pb2 as graph
from recommendation.graph_service.v1.graph_service_pb2_grpc import GraphServiceStub
from recommendation.profile_store.v1 import profile_store_pb2 as profiles
from recommendation.profile_store.v1.profile_store_pb2_grpc import ProfileStoreServiceStub
from recommendation.vector_search.v1 import vector_search_pb2 as vectors
from recommendation.vector_search.v1.vector_search_pb2_grpc import VectorSearchServiceStub
from servicekit.arrays import unpack_floats, unpack_keys
from servicekit.identity import item_key
from servicekit.rpc.client import RpcChannel

CALL_S = 5.0
POPULAR = 1_000

T = TypeVar("T")


def tenant_of(stack: Stack) -> str:
    """Give the tenant whose key the stack has."""
    return str(stack.state()["tenant"])


def film_key(stack: Stack, item_id: str) -> int:
    """Give the key of a film."""
    return item_key(tenant_of(stack), "film", item_id)


def ask_each(stack: Stack, service: str, ask: Callable[[RpcChannel], Awaitable[T]]) -> list[T]:
    """Ask every replica of a service the same, each by itself."""

    async def ask_one(endpoint: str) -> T:
        async with RpcChannel(endpoint, name=service) as rpc:
            return await ask(rpc)

    async def ask_all() -> list[T]:
        return list(await asyncio.gather(*(ask_one(replica["endpoint"]) for replica in stack.replicas(service))))

    return asyncio.run(ask_all())


def histories(stack: Stack, user_id: str) -> list[list[str]]:
    """Give a user's event ids as each profile_store tells them."""

    async def ask(rpc: RpcChannel) -> list[str]:
        request = profiles.ListInteractionsRequest(tenant=tenant_of(stack), user_id=user_id, limit=100)
        answer = await rpc.unary(ProfileStoreServiceStub(rpc.channel).ListInteractions, request, timeout_s=CALL_S)
        return [each.event_id for each in answer.interactions]

    return ask_each(stack, "profile_store", ask)


def popularity(stack: Stack) -> list[dict[int, float]]:
    """Give the undecayed popularity of each item as each profile_store tells it."""

    async def ask(rpc: RpcChannel) -> dict[int, float]:
        query = profiles.GetPopularityRequest.Query(
            tenant=tenant_of(stack), window=profiles.POPULARITY_WINDOW_ALL, limit=POPULAR
        )
        answer = await rpc.unary(
            ProfileStoreServiceStub(rpc.channel).GetPopularity,
            profiles.GetPopularityRequest(queries=[query]),
            timeout_s=CALL_S,
        )
        (result,) = answer.results
        keys = unpack_keys(result.item_keys, field="item_keys")
        return dict(zip(keys.tolist(), unpack_floats(result.scores, field="scores").tolist(), strict=True))

    return ask_each(stack, "profile_store", ask)


def similar(stack: Stack, item_id: str) -> list[list[int]]:
    """Give the keys of the items most similar to a film as each vector_search tells them."""

    async def ask(rpc: RpcChannel) -> list[int]:
        query = vectors.SimilarItemsRequest.Query(tenant=tenant_of(stack), item_key=film_key(stack, item_id), limit=30)
        answer = await rpc.unary(
            VectorSearchServiceStub(rpc.channel).SimilarItems,
            vectors.SimilarItemsRequest(queries=[query]),
            timeout_s=CALL_S,
        )
        (result,) = answer.results
        return list(map(int, unpack_keys(result.item_keys, field="item_keys")))

    return ask_each(stack, "vector_search", ask)


def related(stack: Stack, item_id: str) -> list[list[int]]:
    """Give the keys of the items related to a film as each graph_service tells them."""

    async def ask(rpc: RpcChannel) -> list[int]:
        query = graph.RelatedItemsRequest.Query(tenant=tenant_of(stack), item_key=film_key(stack, item_id), limit=100)
        answer = await rpc.unary(
            GraphServiceStub(rpc.channel).RelatedItems, graph.RelatedItemsRequest(queries=[query]), timeout_s=CALL_S
        )
        (result,) = answer.results
        return list(map(int, unpack_keys(result.item_keys, field="item_keys")))

    return ask_each(stack, "graph_service", ask)


def active_versions(stack: Stack) -> list[str]:
    """Give the version that each vector_search serves."""

    async def ask(rpc: RpcChannel) -> str:
        request = vectors.DescribeVersionsRequest(tenant=tenant_of(stack))
        answer = await rpc.unary(VectorSearchServiceStub(rpc.channel).DescribeVersions, request, timeout_s=CALL_S)
        return next((version.version for version in answer.versions if version.active), "")

    return ask_each(stack, "vector_search", ask)


def is_replaced(stack: Stack, service: str, killed: int) -> bool:
    """Tell whether another process serves in place of the one that had this pid."""
    replicas = stack.replicas(service)
    if any(replica["pid"] == killed for replica in replicas):
        return False
    return all(asyncio.run(is_ready(each["endpoint"], each["protocol"], timeout_s=1.0)) for each in replicas)


def metric(process: Mapping[str, Any], metric_name: str, **labels: str) -> float:
    """Give the sum of a process's samples of that name that have these labels."""
    answer = httpx.get(f"http://127.0.0.1:{process['metrics_port']}/metrics")
    answer.raise_for_status()
    return sum(
        sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name == metric_name and labels.items() <= sample.labels.items()
    )
