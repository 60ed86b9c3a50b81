"""Limits at the door, and lists that are kept, through REST."""

import re
from typing import Any

import pytest

Shop = Any  # the fixture's class lives in conftest

HARDLY = 0.001  # requests a second: none comes in while a test runs


@pytest.fixture
def more_settings() -> dict[str, Any]:
    return {
        "rate_limit_rps": HARDLY,
        "rate_limit_burst": 6,
        "rate_limit_user_rps": HARDLY,
        "rate_limit_user_burst": 2,
    }


async def test_who_asks_too_often_is_told_when_to_come_again(shop: Shop) -> None:
    for left in (5, 4, 3, 2, 1, 0):
        answer = await shop.client.get("/api/recommendations")
        assert answer.status_code == 200
        assert answer.headers["ratelimit-policy"] == '"tenant";q=6;w=6000'
        assert re.fullmatch(rf'"tenant";r={left};t=\d+', answer.headers["ratelimit"])
    answer = await shop.client.get("/api/recommendations")
    assert answer.status_code == 429
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == "rate_limited"
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert 990 <= int(answer.headers["retry-after"]) <= 1_000
    assert answer.headers["ratelimit"] == f'"tenant";r=0;t={answer.headers["retry-after"]}'
    assert 'route="other",status="429"' in (await shop.client.get("/metrics")).text


async def test_one_user_cannot_use_up_what_the_others_have(shop: Shop) -> None:
    paths = ["/api/recommendations?user_id=u1", "/api/v1/recommendations/user/u1"]
    statuses = [(await shop.client.get(path)).status_code for path in [*paths, *paths, *paths, *paths]]
    assert statuses == [200] * 2 + [429] * 6
    answer = await shop.client.get("/api/recommendations?user_id=u2")
    assert answer.status_code == 200
    assert answer.headers["ratelimit"].startswith('"user";r=1;')
    assert (await shop.client.get("/api/recommendations")).headers["ratelimit"].startswith('"tenant";r=2;')


async def test_a_user_in_a_body_is_counted_too(shop: Shop) -> None:
    for status in (200, 200, 429):
        answer = await shop.client.post("/api/recommendations", json={"user_id": "u1"})
        assert answer.status_code == status, answer.text
    assert answer.headers["ratelimit"].startswith('"user";r=0;')
    batch = await shop.client.post("/api/v1/recommendations/batch", json={"requests": [{"user_id": "u1"}, {}]})
    refused, answered = batch.json()["results"]
    assert refused["code"] == "rate_limited"
    assert answered["items"]


async def test_health_metrics_and_documentation_are_not_counted(shop: Shop) -> None:
    for _ in range(10):
        for path in ("/health/live", "/health/ready", "/metrics", "/api/docs"):
            assert (await shop.client.get(path)).status_code == 200
    assert (await shop.client.get("/api/recommendations")).headers["ratelimit"].startswith('"tenant";r=5;')


async def test_429_is_documented(shop: Shop) -> None:
    document = (await shop.client.get("/openapi.json")).json()
    assert "429" in document["paths"]["/api/recommendations"]["get"]["responses"]
