from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from recommend_cli.clients.gateway import Gateway
from recommend_cli.commands.evaluate import _read_seeds
from recommend_cli.datasets.movielens import Ratings
from recommend_cli.errors import CommandError
from recommend_cli.evaluation.asking import SERVED, Examined, Examiner
from recommend_cli.evaluation.baseline import count_popularity, popularity_predictions
from recommend_cli.evaluation.protocols import PROTOCOLS, ProtocolName
from recommend_cli.evaluation.report import make_report, report_table
from recommend_cli.evaluation.run import POPULARITY, SeedRun
from recommend_cli.evaluation.scores import Prediction, score, spread, summarize
from recommend_cli.evaluation.splits import last_interactions


class _FakeGateway:
    """Recommends the numbers 0 to 14 but what was seen; knows an interaction only some answers after its POST."""

    def __init__(self, *, delay: int) -> None:
        self._delay = delay
        self._waiting: list[tuple[int, str, str]] = []
        self._seen: dict[str, list[str]] = {}
        self.asked = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/v1/interactions":
            record = orjson.loads(request.content)
            self._waiting.append((self.asked + self._delay, record["user_id"], record["item_id"]))
            return httpx.Response(201, json={})
        if request.url.path.startswith("/api/v1/interactions/user/"):
            user = request.url.path.rpartition("/")[2]
            found = [{"event_id": f"{user}-{item}"} for item in self._seen.get(user, ())]
            return httpx.Response(200, json={"interactions": found, "next_cursor": None})
        for waiting in list(self._waiting):
            if waiting[0] <= self.asked:
                self._waiting.remove(waiting)
                self._seen.setdefault(waiting[1], []).append(waiting[2])
        self.asked += 1
        if request.url.path.endswith("/batch"):
            requests = orjson.loads(request.content)["requests"]
            return httpx.Response(200, json={"results": [_list(["source"]) for _ in requests]})
        unseen = (str(number) for number in range(15))
        items = [item for item in unseen if item not in self._seen.get(request.url.params["user_id"], ())][:10]
        return httpx.Response(200, json=_list(items))


def _list(ids: Sequence[str]) -> dict[str, Any]:
    items = [
        {"item_id": item, "item_type": "film", "title": "", "score": 0, "attributes": {}, "reasons": []} for item in ids
    ]
    return {"model_version": "v", "strategy": "", "degraded": [], "items": items}


def _coming(user: int, items: Sequence[str]) -> Examined:
    return Examined(user, [{"event_id": f"{user}-{item}", "user_id": str(user), "item_id": item} for item in items])


@pytest.mark.parametrize("delay", [0, 2])
async def test_a_replay_asks_scores_and_posts_in_turn(delay: int) -> None:
    fake = _FakeGateway(delay=delay)
    async with Gateway("http://gateway", "", transport=httpx.MockTransport(fake)) as gateway:
        asked = await Examiner(gateway, ["graph"], on_user=lambda: None).replay([_coming(7, ["3", "14", "0"])])
    first, second, third = asked.predictions[SERVED]
    assert first == Prediction(7, tuple("0123456789"), frozenset({"3"}))
    assert second.recommended == ("0", "1", "2", "4", "5", "6", "7", "8", "9", "10")
    assert third.recommended == second.recommended  # 14 was not in it, so nothing moved
    assert len(asked.knowing_ms) == 3
    assert asked.unchanged == 1
    assert len(asked.predictions["graph"]) == 3


async def test_all_at_once_asks_each_user_once() -> None:
    fake = _FakeGateway(delay=0)
    async with Gateway("http://gateway", "", transport=httpx.MockTransport(fake)) as gateway:
        users = [_coming(1, ["3", "4"]), _coming(2, ["5"])]
        asked = await Examiner(gateway, [], on_user=lambda: None).predict_all_at_once(users)
    assert {each.user: each.relevant for each in asked.predictions[SERVED]} == {
        1: frozenset({"3", "4"}),
        2: frozenset({"5"}),
    }
    assert fake.asked == 2


def test_popularity_leaves_out_what_is_seen_and_breaks_ties_by_id() -> None:
    # Items by training count: 3 twice, 10 and 2 once each; user 1 has seen 3 and 10, user 2 has seen 3 and 2.
    ratings = Ratings(
        users=np.array([1, 1, 1, 2, 2, 2]),
        items=np.array([3, 10, 2, 2, 3, 10]),
        values=np.ones(6),
        times_s=np.array([1, 2, 3, 1, 2, 3]),
    )
    split = last_interactions(ratings, count=1)
    popularity = count_popularity(ratings, split)
    assert popularity == {"3": 2, "10": 1, "2": 1}
    one, two = popularity_predictions(ratings, split, popularity, one_by_one=True)
    assert one == Prediction(1, ["2"], frozenset({"2"}))
    assert two == Prediction(2, ["10"], frozenset({"10"}))


def _scored(ranks: Sequence[int]) -> Any:
    """Score users each of whom finds the one right item at a rank, counted from 1."""
    predictions = [
        Prediction(user, [*(f"x{at}" for at in range(rank - 1)), "right"], frozenset({"right"}))
        for user, rank in enumerate(ranks)
    ]
    return score(predictions, popularity={"right": 3}, catalogue_size=100)


def test_figures_average_over_users_and_runs() -> None:
    figures = summarize([_scored([1, 1, 3]), _scored([1, 3, 3])])
    # By user over the two runs: 1, .75 and .5.
    assert figures["NDCG@10"]["mean"] == pytest.approx(0.75)
    assert figures["NDCG@10"]["se"] == pytest.approx(0.25 / np.sqrt(3))
    assert figures["HR@10"] == {"mean": 1.0, "se": 0.0}
    widths = spread([_scored([1, 1, 3]), _scored([1, 3, 3])])["NDCG@10"]
    assert widths["min"] == pytest.approx(2 / 3)
    assert widths["max"] == pytest.approx(2.5 / 3)


async def test_the_report_has_its_promised_shape() -> None:
    protocol = PROTOCOLS[ProtocolName.ML100K_REPLAY]
    async with Gateway("http://gateway", "", transport=httpx.MockTransport(_FakeGateway(delay=0))) as gateway:
        asked = await Examiner(gateway, ["graph"], on_user=lambda: None).replay([_coming(7, ["3"])])
    run = SeedRun(1, {SERVED: _scored([1]), POPULARITY: _scored([2]), "graph": _scored([3])}, asked, {"seconds": 1})
    report = make_report(protocol, [run])
    assert report["protocol"] == "ml100k-replay"
    assert set(report["metrics"]["NDCG@10"]) == {"mean", "se"}
    assert list(report["baselines"]) == ["popularity", "graph"]
    assert report["training"]["1"] == {"seconds": 1}
    assert report["environment"]["cores"] >= 1
    assert report["post_to_knowing_list_ms"]["p50"] > 0
    assert report_table(protocol, report).row_count == 3


def test_seeds_are_read_as_ranges_and_lists() -> None:
    protocol = PROTOCOLS[ProtocolName.ML100K_75_25]
    assert _read_seeds("", protocol) == [1, 2, 3, 4, 5]
    assert _read_seeds("2-4,9,3", protocol) == [2, 3, 4, 9]
    with pytest.raises(CommandError, match="1-5 or 1,3"):
        _read_seeds("one", protocol)
