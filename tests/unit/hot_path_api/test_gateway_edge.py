"""Keys, request ids, documentation, metrics, draining."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from hot_path_api.bootstrap import gateway
from hot_path_api.settings import Settings
from servicekit.clock import SystemClock
from servicekit.eventlog.memory import MemoryEventLog
from servicekit.testing import eventually, free_port

Shop = Any  # the fixture's class lives in conftest


@pytest.fixture
async def lonely(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Any, httpx.AsyncClient, asyncio.Event]]:
    """A gateway that asks for a key, with nobody behind it; a parameter is more settings."""
    nowhere = f"127.0.0.1:{free_port()}"
    settings = Settings(
        http_port=0,
        api_key="a key of our own",  # type: ignore[arg-type]  # pydantic makes it a secret
        drain_s=0.3,
        agentdb_endpoint=nowhere,
        vector_db_endpoint=nowhere,
        graph_db_endpoint=nowhere,
        gpu_worker_endpoint=nowhere,
        **getattr(request, "param", {}),
    )
    log = MemoryEventLog(clock=SystemClock())
    stop = asyncio.Event()
    async with gateway(settings, event_log=log) as running:
        task = asyncio.create_task(running.run(stop))
        await eventually(lambda: running.server.port)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.server.port}") as client:
            yield running, client, stop
        stop.set()
        await task
    await log.close()


async def test_a_key_is_asked_for(lonely: Any) -> None:
    _, client, _ = lonely
    for headers in ({}, {"X-API-Key": "wrong"}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
        response = await client.get("/api/recommendations", headers=headers)
        assert response.status_code == 401
        assert response.json()["code"] == "unauthenticated"
        assert response.headers["www-authenticate"].startswith("Bearer")
    for headers in (
        {"X-API-Key": "a key of our own"},
        {"Authorization": "Bearer a key of our own"},
        {"Authorization": "bearer  a key of our own"},
    ):
        assert (await client.get("/api/recommendations", headers=headers)).status_code == 503
    assert (await client.get("/api/v1/items/x")).status_code == 401
    assert (await client.get("/api/v1/nowhere")).status_code == 401


async def test_health_and_documentation_are_open(lonely: Any) -> None:
    _, client, _ = lonely
    for path in ("/health/live", "/metrics", "/openapi.json", "/api/docs", "/api/docs/static/swagger-ui.css"):
        assert (await client.get(path)).status_code == 200, path


async def test_whoever_opens_the_address_is_led_to_the_documentation(lonely: Any) -> None:
    _, client, _ = lonely
    for path in ("/", "/docs"):
        answer = await client.get(path)
        assert (answer.status_code, answer.headers["location"]) == (307, "/api/docs"), path
    assert not {"/", "/docs"} & (await client.get("/openapi.json")).json()["paths"].keys()


@pytest.mark.parametrize(
    ("lonely", "status"),
    [
        ({"environment": "production"}, 200),
        ({"metrics_port": 9090}, 200),
        ({"environment": "production", "metrics_port": 9090}, 404),
    ],
    indirect=["lonely"],
)
async def test_the_public_port_of_production_shows_no_metrics_when_another_one_does(lonely: Any, status: int) -> None:
    _, client, _ = lonely
    assert (await client.get("/metrics")).status_code == status
    assert (await client.get("/health/live")).status_code == 200


async def test_it_is_not_ready_before_it_has_met_the_profile_store(lonely: Any) -> None:
    _, client, _ = lonely
    assert (await client.get("/health/ready")).status_code == 503
    health = await client.get("/health")
    assert health.status_code == 503
    assert health.json()["status"] == "starting"
    assert health.json()["services"]["profile_store"] == "unreachable"


async def test_while_it_drains_it_answers_and_says_that_it_is_not_ready(lonely: Any) -> None:
    _, client, stop = lonely
    assert (await client.get("/health/live")).status_code == 200
    stop.set()
    await asyncio.sleep(0.1)
    ready = await client.get("/ready")
    assert ready.status_code == 503
    assert ready.json() == {"status": "draining"}
    assert (await client.get("/health/live")).status_code == 200


async def test_a_strange_request_id_is_replaced(shop: Shop) -> None:
    given = (await shop.client.get("/health", headers={"x-request-id": "mine-1"})).headers["x-request-id"]
    assert given == "mine-1"
    made = (await shop.client.get("/health", headers={"x-request-id": "x" * 500})).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{16}", made)


async def test_the_documentation_needs_no_other_server(shop: Shop) -> None:
    page = (await shop.client.get("/api/docs")).text
    assert not re.findall(r"""(?:src|href)=["'](?!/)[^"']*""", page)
    for address in re.findall(r"""(?:src|href)=["']([^"']*)""", page):
        assert (await shop.client.get(address)).status_code == 200, address


async def test_the_openapi_document_describes_every_route(shop: Shop) -> None:
    document = (await shop.client.get("/openapi.json")).json()
    main = document["paths"]["/api/recommendations"]
    assert {each["name"] for each in main["get"]["parameters"]} >= {"user_id", "limit", "filter", "diversity", "cursor"}
    assert main["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/RecommendationBody")
    known = document["components"]["schemas"]
    for reference in re.findall(r"#/components/schemas/([A-Za-z_-]+)", str(document)):
        assert reference in known, reference
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            assert described["summary"], (method, path)
            in_path = {each["name"] for each in described.get("parameters", []) if each["in"] == "path"}
            assert in_path == {name.partition(":")[0] for name in re.findall(r"{([^}]*)}", path)}, (method, path)


async def test_metrics_count_requests_by_route(shop: Shop) -> None:
    await shop.client.get("/api/recommendations", params={"user_id": "u1"})
    await shop.client.get("/api/v1/recommendations/user/u1")
    await shop.client.get("/no/such/path")
    metrics = (await shop.client.get("/metrics")).text
    assert 'http_requests_total{method="GET",route="/api/recommendations",status="200"}' in metrics
    assert 'route="/api/v1/recommendations/user/{user_id:path}",status="200"' in metrics
    assert 'http_requests_total{method="GET",route="other",status="404"}' in metrics
    assert 'recommendations_total{strategy="hybrid",variant="default"}' in metrics
    assert 'stage_latency_seconds_bucket{le="0.001",stage="profile"}' in metrics


def test_settings_ask_for_a_key() -> None:
    with pytest.raises(ValueError, match="AUTH_REQUIRED=false"):
        Settings(api_key="")  # type: ignore[arg-type]  # pydantic makes it a secret
