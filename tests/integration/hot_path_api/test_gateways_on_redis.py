"""Two gateways on one Redis: what one has made the other gives, what one counts the other knows; also without it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY
from redis import Redis
from servers.fleet import start_redis
from servers.redis_server import RedisServer
from unit.hot_path_api import conftest as one_gateway

from hot_path_api.bootstrap import gateway
from hot_path_api.settings import Settings
from hot_path_api.testing import twins
from servicekit.testing import eventually

pytestmark = pytest.mark.integration

Shop = one_gateway.Shop
world, shop = one_gateway.world, one_gateway.shop  # fixtures

POPULAR = "/api/recommendations?limit=3"
SIMILAR = "/api/v1/recommendations/item/4?item_type=film"
TRENDING = "/api/v1/recommendations/trending?limit=3"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with start_redis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def more_settings(redis: RedisServer) -> dict[str, Any]:
    return {
        "redis_url": redis.address,
        "redis_timeout_ms": 250.0,  # of a busy machine
        "shared_list_s": 1.0,
        "rate_limit_user_rps": 0.001,
        "rate_limit_user_burst": 6,
    }


@pytest.fixture
async def other(shop: Shop, more_settings: dict[str, Any]) -> AsyncIterator[httpx.AsyncClient]:
    """A second gateway in the same world."""
    async with AsyncExitStack() as opened:
        endpoints = await opened.enter_async_context(twins(shop.world))
        settings = Settings(
            http_port=0,
            auth_required=False,
            agentdb_endpoint=endpoints.profile_store,
            vector_db_endpoint=endpoints.vector_search,
            graph_db_endpoint=endpoints.graph_service,
            gpu_worker_endpoint=endpoints.gpu_worker,
            time_budget_ms=500.0,
            model_refresh_s=0.1,
            **more_settings,
        )
        stop = asyncio.Event()
        running = await opened.enter_async_context(gateway(settings, event_log=shop.log))
        task = asyncio.create_task(running.run(stop))
        await eventually(lambda: running.server.port)
        base_url = f"http://127.0.0.1:{running.server.port}"
        client = await opened.enter_async_context(httpx.AsyncClient(base_url=base_url, timeout=10.0))

        async def is_up() -> bool:
            return bool((await client.get("/health")).json()["model_version"] == "v1")

        await eventually(is_up)
        yield client
        stop.set()
        await task


def sample(metric: str, /, **labels: str) -> float:
    return REGISTRY.get_sample_value(metric, labels) or 0.0


async def ids(client: httpx.AsyncClient, path: str) -> list[str]:
    answer = await client.get(path)
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


@pytest.mark.parametrize(("path", "cache"), [(POPULAR, "popular"), (TRENDING, "trending"), (SIMILAR, "similar")])
async def test_what_one_gateway_made_the_other_gives(
    shop: Shop,
    other: httpx.AsyncClient,
    redis: RedisServer,
    path: str,
    cache: str,
) -> None:
    shop.link("content", "4", ("5", 0.9), ("6", 0.5))

    async def is_shared() -> bool:
        before = sample("cache_hits_total", cache=cache, tier="redis")
        mine, others = await shop.client.get(path), await other.get(path)
        assert mine.status_code == others.status_code == 200
        one, two = mine.json(), others.json()
        assert one.pop("request_id") != two.pop("request_id")
        assert one == two
        assert one["items"]
        return sample("cache_hits_total", cache=cache, tier="redis") > before

    await eventually(is_shared)
    with Redis(port=redis.port) as client:
        assert all(0 < client.pttl(key) <= 1_000 for key in client.scan_iter("recommendation:answer:*"))


async def test_a_deleted_item_is_gone_from_both(shop: Shop, other: httpx.AsyncClient) -> None:
    for client in (shop.client, other):
        assert "1" in await ids(client, POPULAR)
    assert (await shop.client.delete("/api/v1/items/1?item_type=film")).status_code in {200, 202, 204}
    for client in (other, shop.client):

        async def is_gone(client: httpx.AsyncClient = client) -> bool:
            return "1" not in await ids(client, POPULAR)

        await eventually(is_gone, timeout_s=2.0)


async def test_a_switch_of_models_is_seen_through_both(shop: Shop, other: httpx.AsyncClient) -> None:
    for client in (shop.client, other):
        assert (await client.get(POPULAR)).json()["model_version"] == "v1"
    shop.train(version="v2")
    for client in (shop.client, other):

        async def is_switched(client: httpx.AsyncClient = client) -> bool:
            return bool((await client.get(POPULAR)).json()["model_version"] == "v2")

        await eventually(is_switched)


async def test_an_unchanged_list_is_not_sent_again_by_either(shop: Shop, other: httpx.AsyncClient) -> None:
    mark = (await shop.client.get(POPULAR)).headers["etag"]
    answer = await other.get(POPULAR, headers={"if-none-match": mark})
    assert answer.status_code == 304


async def test_two_gateways_count_together(shop: Shop, other: httpx.AsyncClient) -> None:
    path = "/api/recommendations?user_id=u1"
    statuses = [(await client.get(path)).status_code for client in (shop.client, other) * 5]
    assert statuses == [200] * 6 + [429] * 4


@pytest.mark.parametrize("trouble", ["kill", "pause"])
async def test_without_redis_the_answers_stay_right_and_later_it_is_used_again(
    shop: Shop,
    other: httpx.AsyncClient,
    redis: RedisServer,
    trouble: str,
) -> None:
    expected = {path: await ids(shop.client, path) for path in (POPULAR, TRENDING)}
    done = 0
    wrong: list[tuple[str, str]] = []
    stop = asyncio.Event()

    async def load(client: httpx.AsyncClient, number: int) -> None:
        nonlocal done
        while not stop.is_set():
            # Each user once, so that no limit is met; a user of whom nothing is known gets what is popular.
            somebody = f"{POPULAR}&user_id=u-{number}-{done}"
            for path, items in {**expected, somebody: expected[POPULAR]}.items():
                answer = await client.get(path)
                found = answer.json()
                shown = [item["item_id"] for item in found.get("items", ())]
                # On a busy machine a list may be late for reasons of its own, and then says so.
                if answer.status_code != 200 or (shown != items and not found["degraded"]):
                    wrong.append((path, answer.text))
            done += 1

    async def served(more: int) -> None:
        goal = done + more
        await eventually(lambda: done >= goal, timeout_s=60.0)

    tasks = [asyncio.create_task(load(client, number)) for number, client in enumerate((shop.client, other) * 4)]
    try:
        await served(40)
        before = sum(sample("degraded_total", source="redis", reason=each) for each in REASONS)
        getattr(redis, trouble)()
        await served(80)
        assert sum(sample("degraded_total", source="redis", reason=each) for each in REASONS) > before
        assert sample("circuit_breaker_opened_total", name="redis") > 0
        redis.start() if trouble == "kill" else redis.resume()

        async def is_used() -> bool:
            hits = sample("cache_hits_total", cache="popular", tier="redis")
            await served(10)
            return sample("cache_hits_total", cache="popular", tier="redis") > hits

        await eventually(is_used, timeout_s=30.0)
    finally:
        stop.set()
        await asyncio.gather(*tasks)
    assert not wrong


REASONS = ("unavailable", "deadline_exceeded")
