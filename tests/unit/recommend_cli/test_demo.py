import io
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from recommend_cli.clients.gateway import Gateway
from recommend_cli.commands import demo as demo_module
from recommend_cli.demo import show
from recommend_cli.demo.movies import MovieLensLoad
from recommend_cli.stack.folder import StackState
from recommend_cli.stack.stores import open_stores

_REASON = {"code": "because_you_interacted", "item": {"item_type": "film", "item_id": "9", "title": "Film 9"}}
_STATE = StackState(1, 1.0, "ready", ("http://gateway",), auth=True)


def _rating(item_id: str, value: float | None) -> dict[str, Any]:
    return {
        "item_type": "film",
        "item_id": item_id,
        "interaction_type": "rating",
        "value": value,
        "occurred_at": "2026-03-28T14:05:00Z",
    }


def _answer(request: httpx.Request) -> httpx.Response:
    """Stand in for a gateway whose visitors liked the films 1 to 6 and rated 7, 8 and 9 with three stars."""
    path = request.url.path
    if path == "/api/recommendations":
        item = {"item_id": "50", "item_type": "film", "title": "Film 50", "score": 1.0, "attributes": {}}
        return httpx.Response(
            200,
            json={
                "model_version": "v2",
                "strategy": "hybrid",
                "degraded": ["graph"],
                "items": [item | {"reasons": [_REASON, {"code": "trending"}]}],
            },
        )
    if path.startswith("/api/v1/interactions/user/"):
        done = [*(_rating(str(at), 4.0) for at in range(1, 7)), *(_rating(str(at), 3.0) for at in range(7, 10))]
        return httpx.Response(200, json={"interactions": [_rating("10", None), *done], "next_cursor": None})
    return httpx.Response(200, json={"title": f"Film {path.rpartition('/')[2]}", "attributes": {}})


async def test_a_visitors_films_are_the_latest_favourites_and_those_that_the_reasons_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    console = Console(width=100, file=io.StringIO())
    monkeypatch.setattr(show, "OUT", console)
    monkeypatch.setattr(show, "VISITORS", ("44",))
    async with Gateway("http://gateway", "key", transport=httpx.MockTransport(_answer)) as gateway:
        with console.capture() as captured:
            await show.show_visitors(gateway)
    liked, _, recommended = captured.get().partition("Recommended")
    assert [line.split() for line in liked.splitlines() if "Film" in line] == [
        *(["★★★★", "Film", str(at)] for at in range(1, 6)),
        ["★★★", "Film", "9"],
    ]
    assert "because of Film 9" in recommended
    assert "without graph, which could not be asked" in recommended


async def test_with_a_model_the_demo_waits_until_the_gateway_serves_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    versions = iter(["", "v1", "v2"])
    asked = list[str]()

    def answer(_: httpx.Request) -> httpx.Response:
        asked.append(next(versions))
        document = {"model_version": asked[-1], "strategy": "trending", "degraded": [], "items": []}
        return httpx.Response(200, json=document)

    async def serving(_: StackState) -> str:
        return "v2"

    monkeypatch.setattr(demo_module, "read_load", lambda _: MovieLensLoad(0, films=1))
    monkeypatch.setattr(demo_module, "_serving_version", serving)
    async with Gateway("http://gateway", "key", transport=httpx.MockTransport(answer)) as gateway:
        await demo_module._fill(_STATE, gateway, open_stores(tmp_path), tmp_path)
    assert asked == ["", "v1", "v2"]
