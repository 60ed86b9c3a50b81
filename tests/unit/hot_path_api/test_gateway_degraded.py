"""Lists when something is missing: late, down, or never there."""

import asyncio
from typing import Any

import pytest

from servicekit.testing import eventually

Shop = Any  # the fixture's class lives in conftest
MAIN = "/api/recommendations"


async def test_without_the_graph(shop: Shop) -> None:
    shop.world.graph.down = True
    answer = await shop.list(MAIN, user_id="u1", limit=3)
    assert [item["item_id"] for item in answer["items"]] == ["5", "6", "7"]
    assert answer["degraded"] == ["graph"]


async def test_without_vectors_the_graph_and_what_is_popular_remain(shop: Shop) -> None:
    shop.world.vectors.down = True
    answer = await shop.list(MAIN, user_id="u1", limit=4)
    assert [item["item_id"] for item in answer["items"]] == ["6", "8", "1", "2"]
    assert answer["degraded"] == ["vectors"]
    assert answer["model_version"] == "v1"


async def test_a_late_source_is_left_out_in_time(shop: Shop) -> None:
    await shop.list(MAIN, user_id="u1")
    shop.world.graph.delay_s = 5.0
    began = asyncio.get_running_loop().time()
    answer = await shop.list(MAIN, user_id="u1", limit=3)
    assert asyncio.get_running_loop().time() - began < 2.0
    assert answer["degraded"] == ["graph"]
    assert [item["item_id"] for item in answer["items"]] == ["5", "6", "7"]


async def test_without_profiles_what_was_popular_remains(shop: Shop) -> None:
    await shop.list(MAIN)
    shop.world.profiles.down = True
    answer = await shop.list(MAIN, user_id="u1", limit=3)
    assert [item["item_id"] for item in answer["items"]] == ["1", "2", "3"]
    assert "profile" in answer["degraded"]
    assert answer["cold_start"] is False


async def test_what_is_popular_is_known_before_anybody_asks(shop: Shop) -> None:
    shop.train(version="v3", fallback=[])
    await eventually(lambda: shop.world.calls["GetPopularity"])
    await asyncio.sleep(0.3)  # the items of the list are read after it
    shop.world.profiles.down = True
    for asked in ({"user_id": "u1"}, {"window": "1h"}, {"item_type": "film"}, {"filter": "genres:in:Drama"}):
        answer = await shop.list(MAIN, limit=2, **asked)
        assert len(answer["items"]) == 2, asked
        assert answer["items"][0]["title"]
        assert answer["degraded"]
        assert answer["strategy"] == "trending"


@pytest.mark.usefixtures("nothing_in_reserve")
async def test_with_nothing_at_all_the_static_list_remains(shop: Shop) -> None:
    for weather in (shop.world.profiles, shop.world.vectors, shop.world.graph, shop.world.encoder):
        weather.down = True
    answer = await shop.list(MAIN, user_id="u1", limit=3)
    assert [item["item_id"] for item in answer["items"]] == ["1", "2"]
    assert answer["items"][0]["title"] == "Title 1"
    assert answer["items"][0]["reasons"] == [{"code": "fallback"}]
    assert answer["strategy"] == "fallback"
    assert answer["degraded"] == ["profile", "trending"]


@pytest.mark.usefixtures("nothing_in_reserve")
async def test_degraded_anonymous_lists_are_not_cached(shop: Shop) -> None:
    shop.world.profiles.down = True
    response = await shop.client.get(MAIN)
    assert "trending" in response.json()["degraded"]
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.usefixtures("nothing_in_reserve")
async def test_when_nothing_can_be_said_the_answer_is_503(shop: Shop) -> None:
    shop.train(version="v3", fallback=[])

    async def has_no_fallback() -> bool:
        return bool((await shop.client.get("/health")).json()["model_version"] == "v3")

    await eventually(has_no_fallback)
    shop.world.profiles.down = True
    response = await shop.client.get(MAIN)
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "unavailable"
    assert response.headers["retry-after"] == "1"


async def test_similar_items_come_from_the_graph_while_the_index_is_down(shop: Shop) -> None:
    shop.world.vectors.down = True
    answer = await shop.list("/api/v1/recommendations/item/4", item_type="film")
    assert [item["item_id"] for item in answer["items"]] == ["6", "8"]
    assert answer["degraded"] == ["vectors"]


async def test_search_without_an_encoder_is_503(shop: Shop) -> None:
    shop.world.encoder.down = True
    response = await shop.client.get("/api/v1/search", params={"q": "words"})
    assert response.status_code == 503
    assert response.json()["code"] == "unavailable"


async def test_writes_are_accepted_while_the_store_is_down(shop: Shop) -> None:
    interaction = {"user_id": "u2", "item_id": "4", "item_type": "film", "interaction_type": "view"}
    assert (await shop.client.post("/api/v1/interactions", json=interaction)).status_code == 201
    shop.world.profiles.down = True
    single = await shop.client.post("/api/v1/interactions", json=interaction)
    assert single.status_code == 202
    assert single.json()["status"] == "accepted"
    bulk = await shop.client.post("/api/v1/interactions/bulk", json={"interactions": [interaction] * 3})
    assert bulk.status_code == 202
    assert bulk.json() == {"accepted": 3, "applied": 0, "errors": []}
    item = await shop.client.post("/api/v1/items", json={"item_id": "new", "item_type": "film", "title": "New"})
    assert item.status_code == 202
    # The gateway knows what it has logged.
    read = await shop.client.get("/api/v1/items/new", params={"item_type": "film"})
    assert read.json()["title"] == "New"
    assert sum((await shop.log.end_offsets(["user.interactions"])).values()) == 5


async def test_health_says_what_is_missing_and_stays_ready(shop: Shop) -> None:
    health = (await shop.client.get("/health")).json()
    assert health["services"] == dict.fromkeys(
        ("profile_store", "vector_search", "graph_service", "gpu_worker"), "serving"
    )
    assert (await shop.client.get("/health/ready")).status_code == 200
    assert (await shop.client.get("/ready")).status_code == 200
    assert (await shop.client.get("/health/live")).json() == {"status": "ok"}


async def test_a_log_that_hangs_is_told_before_the_caller_gives_up(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    resumed = asyncio.Event()

    async def hang(*_: object) -> None:
        await resumed.wait()

    monkeypatch.setattr("hot_path_api.adapters.event_log._APPEND_S", 0.05)
    monkeypatch.setattr("servicekit.eventlog.memory.MemoryProducer.append", hang)
    body = {"user_id": "a", "item_id": "1", "item_type": "film", "interaction_type": "view"}
    try:
        refused = await shop.client.post("/api/v1/interactions", json=body)
    finally:
        resumed.set()
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    assert "the same event_id" in refused.json()["detail"]
    assert not shop.world.interactions["default/a"]
