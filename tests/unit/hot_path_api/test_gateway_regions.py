"""A region that takes no writes refuses them; a region without a graph does without it and calls that whole."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from hot_path_api.bootstrap import gateway
from hot_path_api.settings import Settings
from hot_path_api.testing import World, twins
from servicekit.clock import SystemClock
from servicekit.eventlog.memory import MemoryEventLog
from servicekit.eventlog.topics import USER_INTERACTIONS
from servicekit.testing import eventually

READS = {("post", "/api/recommendations"), ("post", "/api/v1/recommendations/batch")}


@asynccontextmanager
async def gateway_of(world: World, log: MemoryEventLog, **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with twins(world) as endpoints:
        addresses = {
            "agentdb_endpoint": endpoints.profile_store,
            "vector_db_endpoint": endpoints.vector_search,
            "graph_db_endpoint": endpoints.graph_service,
            "gpu_worker_endpoint": endpoints.gpu_worker,
        }
        settings = Settings(http_port=0, auth_required=False, time_budget_ms=500.0, **{**addresses, **changes})
        stop = asyncio.Event()
        async with gateway(settings, event_log=log) as running:
            task = asyncio.create_task(running.run(stop))
            await eventually(lambda: running.server.port)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.server.port}") as client:
                await eventually(lambda: _is_ready(client))
                try:
                    yield client
                finally:
                    stop.set()
            await task


async def _is_ready(client: httpx.AsyncClient) -> bool:
    health = (await client.get("/health")).json()
    return bool(health["status"] == "ok" and health["model_version"] == "v1")


@pytest.fixture
async def log() -> AsyncIterator[MemoryEventLog]:
    log = MemoryEventLog(clock=SystemClock())
    yield log
    await log.close()


async def test_a_fenced_region_refuses_every_write_and_says_where_to_go(shop: Any, log: MemoryEventLog) -> None:
    async with gateway_of(
        shop.world, log, writes_fenced=True, region="eu-west-1", primary_url="https://us.example.com"
    ) as client:
        document = (await client.get("/openapi.json")).json()
        for path, methods in document["paths"].items():
            for method in methods:
                if method == "get" or (method, path) in READS:
                    continue
                response = await client.request(method, path.replace("{item_id}", "1"), json={})
                assert (response.status_code, response.json()["code"]) == (503, "write_fenced"), (method, path)
                assert "eu-west-1" in response.json()["detail"]
                assert "https://us.example.com" in response.json()["detail"]
        answer = await client.get("/api/recommendations", params={"user_id": "u1"})
        assert (answer.status_code, answer.json()["degraded"]) == (200, [])
        session = {"history": [{"item_id": "4", "item_type": "film", "interaction_type": "view"}]}
        assert (await client.post("/api/recommendations", json=session)).status_code == 200
        assert not sum((await log.end_offsets([USER_INTERACTIONS])).values())


async def test_a_region_without_a_graph_is_whole_without_it(shop: Any, log: MemoryEventLog) -> None:
    shop.world.graph.down = True
    async with gateway_of(shop.world, log, graph_enabled=False, graph_db_endpoint="nowhere.invalid:1") as client:
        answer = (await client.get("/api/recommendations", params={"user_id": "u1", "explain": "true"})).json()
        assert answer["degraded"] == []
        assert [item["item_id"] for item in answer["items"]][:3] == ["5", "6", "7"]
        assert all("graph" not in item["sources"] for item in answer["items"])
        assert shop.world.calls["ExpandUsers"] == 0
        assert "graph_service" not in (await client.get("/health")).json()["services"]
        alone = (await client.get("/api/v1/recommendations/user/u1", params={"algorithm": "graph"})).json()
        assert [item["item_id"] for item in alone["items"]][:3] == ["1", "2", "3"]
        similar = await client.get("/api/v1/recommendations/item/1", params={"item_type": "film"})
        assert similar.status_code == 200
