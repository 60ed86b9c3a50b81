"""Lists over REST, with all services there."""

from typing import Any

import numpy as np
import pytest

from hot_path_api.api.schemas import BatchOut, RecommendationsOut
from servicekit.testing import eventually

Shop = Any  # the fixture's class lives in conftest
MAIN = "/api/recommendations"


async def test_a_known_user_gets_what_the_history_speaks_for_then_what_is_popular(shop: Shop) -> None:
    answer = await shop.list(MAIN, user_id="u1", limit=6)
    assert [item["item_id"] for item in answer["items"]] == ["5", "6", "7", "8", "1", "2"]
    assert answer["model_version"] == "v1"
    assert answer["strategy"] == "hybrid"
    assert answer["cold_start"] is False
    assert answer["degraded"] == []
    assert [item["rank"] for item in answer["items"]] == [1, 2, 3, 4, 5, 6]
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)


async def test_the_answer_is_what_the_documentation_says(shop: Shop) -> None:
    answer = RecommendationsOut.model_validate(await shop.list(MAIN, user_id="u1", explain=True))
    assert answer.items[0].attributes == {"genres": ["Drama"], "year": 1995}
    assert answer.items[0].title == "Title 5"


async def test_reasons_name_the_history_item_or_say_that_it_is_popular(shop: Shop) -> None:
    items = (await shop.list(MAIN, user_id="u1", limit=6))["items"]
    cause = {"item_id": "4", "item_type": "film", "title": "Title 4"}
    assert items[0]["reasons"] == [{"code": "because_you_interacted", "item": cause}]
    assert items[0]["sources"] == {"cooccurrence": 0.9}
    assert items[3]["reasons"] == [{"code": "because_you_interacted", "item": cause}]
    assert items[3]["sources"] == {"graph": 0.2}
    assert items[4]["reasons"] == [{"code": "trending"}]


async def test_explain_adds_contributions_and_paths(shop: Shop) -> None:
    items = (await shop.list(MAIN, user_id="u1", limit=3, explain=True))["items"]
    assert [(r["code"], r["source"], r["share"]) for r in items[1]["reasons"]] == [
        ("because_you_interacted", "cooccurrence", 0.5),
        ("related_through", "graph", 0.3),
    ]
    assert items[1]["reasons"][1]["through"] == "Drama"
    assert items[1]["reasons"][1]["meta_path"] == "item_genre_item"


async def test_personal_answers_must_not_be_cached(shop: Shop) -> None:
    response = await shop.client.get(MAIN, params={"user_id": "u1"})
    assert response.headers["cache-control"] == "private, no-store"
    assert response.headers["x-personalized"] == "true"
    assert "etag" not in response.headers


async def test_the_anonymous_list_is_popular_public_and_has_an_etag(shop: Shop) -> None:
    response = await shop.client.get(MAIN, params={"limit": 3})
    assert [item["item_id"] for item in response.json()["items"]] == ["1", "2", "3"]
    assert response.json()["strategy"] == "trending"
    assert [item["score"] for item in response.json()["items"]] == [1.0, 0.666667, 0.333333]
    assert response.headers["cache-control"] == "public, max-age=300"
    assert "x-personalized" not in response.headers
    again = await shop.client.get(MAIN, params={"limit": 3}, headers={"if-none-match": response.headers["etag"]})
    assert again.status_code == 304
    assert not again.content
    other = await shop.client.get(MAIN, params={"limit": 2}, headers={"if-none-match": response.headers["etag"]})
    assert other.status_code == 200


async def test_an_unknown_user_gets_what_is_popular(shop: Shop) -> None:
    answer = await shop.list(MAIN, user_id="nobody", limit=3)
    assert [item["item_id"] for item in answer["items"]] == ["1", "2", "3"]
    assert answer["cold_start"] is True


async def test_one_interaction_makes_the_next_list_personal(shop: Shop) -> None:
    before = await shop.list(MAIN, user_id="new", limit=3)
    written = await shop.client.post(
        "/api/v1/interactions",
        json={"user_id": "new", "item_id": "4", "item_type": "film", "interaction_type": "like"},
    )
    after = await shop.list(MAIN, user_id="new", limit=3)
    assert written.status_code == 201
    assert [item["item_id"] for item in before["items"]] == ["1", "2", "3"]
    assert [item["item_id"] for item in after["items"]] == ["5", "6", "7"]
    assert after["cold_start"] is False


async def test_what_was_disliked_is_no_reason(shop: Shop) -> None:
    shop.add_interaction("critic", "4", "rating", 1.0)
    for explain in ("true", "false"):
        answer = await shop.list(MAIN, user_id="critic", explain=explain)
        assert answer["strategy"] == "trending"
        assert answer["cold_start"] is False
        assert {reason["code"] for item in answer["items"] for reason in item["reasons"]} <= {"trending", "fallback"}
        assert answer["items"][0]["reasons"] == [{"code": "trending"}]


async def test_what_resembles_a_disliked_item_comes_last(shop: Shop) -> None:
    shop.add_interaction("critic", "4", "rating", 1.0)
    shop.link("cooccurrence", "4", ("1", 0.9), ("5", 0.2))
    shop.link("graph", "4")
    answer = await shop.list(MAIN, user_id="critic", limit=10)
    ids = [item["item_id"] for item in answer["items"]]
    # Popular ones, those of which nothing is known, then what resembles 4: 1 would be the most popular.
    assert ids[:2] == ["2", "3"]
    assert set(ids[2:5]) == {"6", "8", "9"}
    assert ids[5:] == ["5", "7", "1"]
    assert answer["cold_start"] is False


async def test_seen_and_excluded_items_are_left_out(shop: Shop) -> None:
    shop.add_interaction("u1", "1")
    assert await shop.ids(MAIN, user_id="u1", limit=9, exclude=["film/5", "film/2"]) == [
        "6",
        "7",
        "8",
        "3",
        "9",
    ]
    assert await shop.ids(MAIN, limit=3, exclude=["1"], item_type="film") == ["2", "3", "4"]


async def test_filters_hold_for_every_source(shop: Shop) -> None:
    assert await shop.ids(MAIN, user_id="u1", filter="genres:eq:Drama") == ["5", "7", "1", "3", "9"]
    assert await shop.ids(MAIN, user_id="u1", filter=["year:gte:1996", "year:lte:1997"]) == ["6", "7"]
    assert await shop.ids(MAIN, user_id="u1", filter="genres:in:War,Western", limit=3) == ["6", "8", "2"]
    assert await shop.ids(MAIN, user_id="u1", filter="genres:not_in:Drama", limit=3) == ["6", "8", "2"]
    assert await shop.ids(MAIN, user_id="u1", filter="year:eq:1995") == ["5"]
    assert await shop.ids(MAIN, user_id="u1", item_type="book") == []


async def test_hidden_and_deleted_items_vanish_at_once(shop: Shop) -> None:
    assert (await shop.ids(MAIN, user_id="u1"))[:2] == ["5", "6"]
    assert (await shop.client.delete("/api/v1/items/5", params={"item_type": "film"})).status_code == 204
    hidden = {"title": "Title 6", "hidden": True}
    assert (await shop.client.put("/api/v1/items/6", params={"item_type": "film"}, json=hidden)).status_code == 200
    assert (await shop.ids(MAIN, user_id="u1"))[:2] == ["7", "8"]


async def test_pages_follow_each_other(shop: Shop) -> None:
    first = await shop.list(MAIN, user_id="u1", limit=3)
    second = await shop.list(MAIN, user_id="u1", limit=3, cursor=first["next_cursor"])
    third = await shop.list(MAIN, user_id="u1", limit=3, cursor=second["next_cursor"])
    pages = [[item["item_id"] for item in page["items"]] for page in (first, second, third)]
    assert pages == [["5", "6", "7"], ["8", "1", "2"], ["3", "9"]]
    assert [item["rank"] for item in second["items"]] == [4, 5, 6]
    assert third["next_cursor"] is None


async def test_the_pages_of_a_deep_list_neither_repeat_nor_leave_out(shop: Shop) -> None:
    draw = np.random.default_rng(1)
    films = [f"deep {number}" for number in range(400)]
    for film in films:
        shop.add_item(film)
    for source in ("cooccurrence", "content"):  # each source has an order of its own
        shop.link(source, "4", *zip(films, draw.permutation(np.linspace(0.001, 1.0, len(films))).tolist(), strict=True))
    page = await shop.list(MAIN, user_id="u1", limit=10)
    shown = page["items"]
    while page["next_cursor"]:
        page = await shop.list(MAIN, user_id="u1", limit=10, cursor=page["next_cursor"])
        assert not page["degraded"]
        shown += page["items"]
    ids = [item["item_id"] for item in shown]
    assert len(ids) == len(set(ids))
    assert set(ids) >= set(films)
    first = [item["score"] for item in shown[:200]]
    assert first == sorted(first, reverse=True)


async def test_weights_ask_the_named_sources_only(shop: Shop) -> None:
    assert await shop.ids(MAIN, user_id="u1", weights="content:1") == ["7"]
    assert await shop.ids(MAIN, user_id="u1", weights="graph:1") == ["6", "8"]
    assert await shop.ids(MAIN, user_id="u1", weights="trending:1", limit=3) == ["1", "2", "3"]
    assert await shop.ids(MAIN, user_id="u1", weights="cooccurrence:1,content:2") == ["7", "5", "6"]
    answer = await shop.list(MAIN, user_id="u1", weights="graph:0.5")
    assert answer["strategy"] == "weights"
    assert answer["items"][0]["score"] == 0.15


async def test_algorithms_are_groups_of_sources(shop: Shop) -> None:
    path = "/api/v1/recommendations/user/u1"
    assert (await shop.ids(path, algorithm="collaborative"))[:3] == ["5", "6", "1"]
    assert (await shop.ids(path, algorithm="content_based"))[:2] == ["7", "1"]
    assert (await shop.ids(path, algorithm="graph"))[:3] == ["6", "8", "1"]


@pytest.mark.usefixtures("nothing_in_reserve")
async def test_a_catalogue_that_nobody_has_touched_is_shown_all_the_same(shop: Shop) -> None:
    shop.world.interactions.clear()
    answer = await shop.list(MAIN, limit=100)
    assert {item["item_id"] for item in answer["items"]} == {str(number) for number in range(1, 10)}
    assert answer["items"][0]["reasons"] == [{"code": "fallback"}]
    assert await shop.ids(MAIN, user_id="nobody", filter="year:lte:1991") == ["1"]


async def test_an_anonymous_session_is_personal(shop: Shop) -> None:
    response = await shop.client.post(MAIN, json={"history": [{"item_id": "4", "item_type": "film"}], "limit": 3})
    assert [item["item_id"] for item in response.json()["items"]] == ["5", "6", "7"]
    assert response.headers["x-personalized"] == "true"
    assert response.json()["cold_start"] is False


async def test_a_body_can_say_all_that_a_query_can(shop: Shop) -> None:
    response = await shop.client.post(
        MAIN,
        json={
            "user_id": "u1",
            "limit": 5,
            "filter": [{"field": "genres", "op": "in", "value": ["Drama"]}],
            "exclude": [{"item_id": "5", "item_type": "film"}],
            "weights": {"cooccurrence": 1.0, "content": 1.0, "trending": 0.1},
        },
    )
    assert [item["item_id"] for item in response.json()["items"]] == ["7", "1", "3", "9"]


async def test_caps_and_diversity_spread_the_list(shop: Shop) -> None:
    capped = await shop.client.post(MAIN, json={"user_id": "u1", "limit": 3, "caps": {"genres": 1}})
    assert [item["item_id"] for item in capped.json()["items"]] == ["5", "6"]
    # 5 and 7 are dramas; 6 and 8 are comedies about war.
    assert await shop.ids(MAIN, user_id="u1", limit=2, diversity=0.9) == ["5", "6"]
    shop.link("cooccurrence", "4", ("5", 0.9), ("7", 0.8), ("6", 0.5))
    shop.link("content", "4")
    assert await shop.ids(MAIN, user_id="u1", limit=3) == ["5", "7", "6"]
    assert await shop.ids(MAIN, user_id="u1", limit=2, diversity=0.9) == ["5", "6"]


async def test_several_lists_at_once(shop: Shop) -> None:
    response = await shop.client.post(
        "/api/v1/recommendations/batch",
        json={"requests": [{"user_id": "u1", "limit": 1}, {"limit": 1}, {"user_id": "u1", "weights": {"no": 1}}]},
    )
    results = BatchOut.model_validate(response.json()).results
    assert [item.item_id for result in results[:2] for item in result.items] == ["5", "1"]  # type: ignore[union-attr]
    assert response.json()["results"][2]["field"] == "weights.no"


async def test_trending_by_window(shop: Shop) -> None:
    assert await shop.ids("/api/v1/recommendations/trending", window="24h", limit=2) == ["1", "2"]
    popular = await shop.client.get("/api/v1/recommendations/trending", params={"filter": "genres:eq:War", "limit": 2})
    assert [item["item_id"] for item in popular.json()["items"]] == ["2", "4"]
    assert popular.headers["cache-control"] == "public, max-age=300"


async def test_popular_lists_are_asked_for_once_a_second(shop: Shop) -> None:
    await shop.list(MAIN)
    asked = shop.world.calls["GetPopularity"]
    for _ in range(20):
        await shop.list(MAIN)
    assert shop.world.calls["GetPopularity"] - asked <= 1


async def test_similar_items(shop: Shop) -> None:
    answer = await shop.list("/api/v1/recommendations/item/4", item_type="film")
    assert [item["item_id"] for item in answer["items"]] == ["7"]
    assert answer["items"][0]["reasons"][0]["code"] == "similar_to"
    RecommendationsOut.model_validate(answer)
    missing = await shop.client.get("/api/v1/recommendations/item/404", params={"item_type": "film"})
    assert missing.status_code == 404
    assert missing.json()["field"] == "item_id"
    # Known to the catalogue and to nobody else.
    assert await shop.ids("/api/v1/recommendations/item/9", item_type="film") == []


async def test_search_finds_by_meaning_and_keeps_vectors(shop: Shop) -> None:
    shop.add_item("letters", genres=["Drama"])
    shop.world.items[next(reversed(shop.world.items))].title = "zebra"
    first = await shop.list("/api/v1/search", q="zebra", limit=1)
    assert first["items"][0]["item_id"] == "letters"
    assert first["items"][0]["score"] == 1.0
    asked = shop.world.calls["EncodeTexts"]
    await shop.list("/api/v1/search", q="zebra", limit=2)
    assert shop.world.calls["EncodeTexts"] == asked
    assert await shop.ids("/api/v1/search", q="?!") == []


async def test_lists_that_were_served_are_logged(shop: Shop) -> None:
    response = await shop.client.get(
        MAIN, params={"user_id": "u1", "limit": 2, "surface": "home"}, headers={"x-request-id": "req-1"}
    )
    assert response.headers["x-request-id"] == "req-1"
    assert response.json()["request_id"] == "req-1"

    async def logged() -> bool:
        ends = await shop.log.end_offsets(["recommendations.served"])
        return bool(sum(ends.values()) == 1)

    await eventually(logged)


async def test_a_new_model_is_heard_of_without_waiting(shop: Shop) -> None:
    shop.train(version="v2", weights=[-1.0, 0.0, 1.0, 0.0])

    async def uses_new_weights() -> bool:
        answer = await shop.list(MAIN, user_id="u1", limit=1)
        return bool(answer["model_version"] == "v2" and answer["items"][0]["item_id"] == "7")

    await eventually(uses_new_weights)
