"""A shop's first day, over REST alone: catalogue, visitors, training, a new item, bad input, a killed service."""

import os
import signal
from typing import Any

import httpx
import pytest

from e2e.shop import fill, film, visit_and_train
from e2e.stack import Stack, until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def catalogue(stack: Stack) -> Stack:
    fill(stack)
    return stack


@pytest.fixture(scope="module")
def trained(catalogue: Stack) -> Stack:
    visit_and_train(catalogue)
    return catalogue


def test_before_anything_is_known_a_list_is_empty_and_no_error(stack: Stack) -> None:
    answer = stack.client.get("/api/recommendations")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"


def test_an_item_is_read_back_at_once_and_found_by_its_text(catalogue: Stack) -> None:
    assert (
        catalogue.client.get("/api/v1/items/space-3", params={"item_type": "film"}).json()["title"] == "Space story 3"
    )

    def found() -> bool:
        answer = catalogue.client.get("/api/v1/search", params={"q": "aliens in a spaceship", "limit": 5})
        items = answer.json().get("items", [])
        return len(items) == 5 and all(item["item_id"].startswith("space") for item in items)

    until(found, within_s=20, what="the catalogue is embedded")


def test_after_one_interaction_without_any_model_the_list_is_personal(catalogue: Stack) -> None:
    assert catalogue.list_for("newcomer")["cold_start"]
    catalogue.interact("newcomer", "western-1")
    answer = catalogue.list_for("newcomer")
    assert not answer["cold_start"]
    assert "western-1" not in [item["item_id"] for item in answer["items"]]
    assert sum(item["item_id"].startswith("western") for item in answer["items"]) >= 5


def test_a_trained_list_keeps_to_the_visitors_theme_and_says_why(trained: Stack) -> None:
    answer = trained.list_for("visitor-1", limit=5)
    assert [item["item_id"].split("-")[0] for item in answer["items"]] == ["western"] * 5
    assert answer["degraded"] == []
    reason = answer["items"][0]["reasons"][0]
    assert reason["code"] == "because_you_interacted"
    assert reason["item"]["item_id"].startswith("western")
    assert answer["items"][0]["sources"]["cooccurrence"] != 0


def test_an_interaction_is_in_history_seen_and_list_of_the_next_request(trained: Stack) -> None:
    before = trained.ids_for("visitor-2", limit=7)
    trained.interact("visitor-2", before[0])
    history = trained.client.get("/api/v1/interactions/user/visitor-2").json()["interactions"]
    assert history[0]["item_id"] == before[0]
    after = trained.ids_for("visitor-2", limit=7)
    assert before[0] not in after
    trained.interact("visitor-2", "space-0")
    trained.interact("visitor-2", "space-1")
    mixed = trained.ids_for("visitor-2", limit=10)
    assert any(item.startswith("space") for item in mixed)


def test_a_low_rating_counts_against(trained: Stack) -> None:
    trained.interact("critic", "romance-1", "rating", value=5)
    liked = trained.ids_for("critic", limit=10)
    assert any(item.startswith("romance") for item in liked)
    trained.interact("grump", "romance-1", "rating", value=1)
    trained.interact("grump", "cooking-1", "rating", value=5)
    disliked = trained.ids_for("grump", limit=10)
    assert not any(item.startswith("romance") for item in disliked)


def test_a_new_item_is_found_and_recommended_without_training(trained: Stack) -> None:
    new = film("space", 99) | {"item_id": "brand-new", "title": "Space story, the return"}
    posted = trained.client.post("/api/v1/items", json=new)
    assert posted.status_code == 201

    def similar() -> bool:
        answer = trained.client.get("/api/v1/recommendations/item/space-2", params={"item_type": "film", "limit": 30})
        return "brand-new" in [item["item_id"] for item in answer.json()["items"]]

    def searched() -> bool:
        answer = trained.client.get("/api/v1/search", params={"q": "Space story the return", "limit": 20})
        return "brand-new" in [item["item_id"] for item in answer.json()["items"]]

    until(similar, within_s=2, what="the new item is similar to its like")
    until(searched, within_s=2, what="the new item is found by search")
    assert "brand-new" in trained.ids_for("visitor-0", limit=10)
    assert "brand-new" not in trained.ids_for("visitor-1", limit=5)

    gone = trained.client.delete("/api/v1/items/brand-new", params={"item_type": "film"})
    assert gone.status_code == 204
    assert trained.client.get("/api/v1/items/brand-new", params={"item_type": "film"}).status_code == 404
    until(lambda: "brand-new" not in trained.ids_for("visitor-0", limit=30), within_s=2, what="the item is gone")


def test_filters_and_exclusions_hold(trained: Stack) -> None:
    answer = trained.list_for("visitor-3", filter="year:gte:1960", exclude="film/romance-12", limit=10)
    assert answer["items"]
    for item in answer["items"]:
        assert item["attributes"]["year"] >= 1960
        assert item["item_id"] != "romance-12"


def test_each_source_alone_can_be_asked(trained: Stack) -> None:
    for source in ("cooccurrence", "session", "transition", "content", "graph", "trending", "factors"):
        body = {"user_id": "visitor-1", "weights": {source: 1}, "limit": 3}
        answer = trained.client.post("/api/recommendations", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["items"], source


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"user_id": "u", "item_id": "i", "interaction_type": "nonsense"}, "interaction_type"),
        ({"user_id": "u" * 256, "item_id": "i", "interaction_type": "like"}, "user_id"),
        ({"user_id": "u", "item_id": "i", "interaction_type": "rating"}, "value"),
        ({"user_id": "u", "item_id": "i", "interaction_type": "like", "colour": "red"}, "colour"),
        (
            {"user_id": "u", "item_id": "i", "interaction_type": "like", "occurred_at": "2099-01-01T00:00:00Z"},
            "occurred_at",
        ),
    ],
)
def test_bad_input_is_told_by_field_and_stored_nowhere(trained: Stack, body: dict[str, Any], field: str) -> None:
    answer = trained.client.post("/api/v1/interactions", json=body)
    assert 400 <= answer.status_code < 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["field"] == field
    assert trained.client.get("/api/v1/interactions/user/u").json()["interactions"] == []


def test_without_the_key_nothing_is_told(trained: Stack) -> None:
    answer = httpx.get(trained.client.base_url.join("/api/recommendations"), params={"user_id": "visitor-1"})
    assert answer.status_code == 401
    assert httpx.get(trained.client.base_url.join("/health/live")).status_code == 200


@pytest.mark.parametrize(
    ("service", "name"), [("graph_service", "graph"), ("vector_search", "vectors"), ("profile_store", "profile")]
)
def test_a_killed_service_is_restarted_and_missed_politely_until_then(trained: Stack, service: str, name: str) -> None:
    expected = trained.ids_for("visitor-1", limit=5)
    before = trained.state()["services"][service]
    os.kill(before["pid"], signal.SIGKILL)
    seen_degraded = False

    def healed() -> bool:
        nonlocal seen_degraded
        answer = trained.list_for("visitor-1", limit=5)
        assert answer["items"]
        seen_degraded |= name in answer["degraded"]
        return not answer["degraded"] and [item["item_id"] for item in answer["items"]] == expected

    until(lambda: trained.list_for("visitor-1")["degraded"], within_s=3, what="the answer says what it misses")
    until(healed, within_s=30, what=f"{service} is back and the list as before")
    assert seen_degraded
    assert trained.state()["services"][service]["restarts"] == before["restarts"] + 1


def test_a_model_can_be_rolled_back_and_activated_again(trained: Stack) -> None:
    first = trained.list_for("visitor-1")["model_version"]
    trained.recommend("train", "--seed", "2")
    second = trained.list_for("visitor-1")["model_version"]
    assert second != first
    trained.recommend("rollback")
    until(lambda: trained.list_for("visitor-1")["model_version"] == first, within_s=5, what="the first model serves")
    trained.recommend("activate", second)
    until(lambda: trained.list_for("visitor-1")["model_version"] == second, within_s=5, what="the second serves")


@pytest.mark.parametrize("what", ["vectors", "graph"])
@pytest.mark.parametrize("source", ["profile-store", "log"])
def test_what_is_derived_can_be_made_anew_and_tells_the_same_story(trained: Stack, what: str, source: str) -> None:
    before = trained.ids_for("visitor-1", limit=10)
    assert "Both tell the same story" in trained.recommend("rebuild", what, "--from", source)
    until(lambda: trained.ids_for("visitor-1", limit=10) == before, within_s=10, what="the list is as before")
