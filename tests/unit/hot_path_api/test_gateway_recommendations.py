from typing import Any

Shop = Any  # the fixture's class lives in conftest


async def test_a_known_user_gets_what_the_history_speaks_for_then_what_is_popular(shop: Shop) -> None:
    answer = await shop.list("/api/recommendations", user_id="u1", limit=6)
    assert [item["item_id"] for item in answer["items"]] == ["5", "6", "7", "8", "1", "2"]
    assert answer["model_version"] == "v1"
    assert answer["strategy"] == "hybrid"
    assert answer["cold_start"] is False
    assert answer["degraded"] == []
    assert [item["rank"] for item in answer["items"]] == [1, 2, 3, 4, 5, 6]
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
