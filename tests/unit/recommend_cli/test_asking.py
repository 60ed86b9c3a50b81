from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from typer.testing import CliRunner, Result

from recommend_cli.app import app
from recommend_cli.clients.gateway import Gateway
from recommend_cli.commands import ask, data
from recommend_cli.errors import CommandError

_ITEMS: list[dict[str, Any]] = [
    {"item_type": "film", "item_id": "1", "title": "Alien", "attributes": {"year": 1979}},
    {"item_type": "film", "item_id": "2", "title": "Aliens", "attributes": {}},
]
_DID: list[dict[str, Any]] = [
    {"item_type": "film", "item_id": "1", "interaction_type": "rating", "value": 4.5},
    {"item_type": "film", "item_id": "gone", "interaction_type": "view", "value": None},
]


class _Stack:
    """A gateway with a small catalogue; `histories` tells whether histories can be read."""

    def __init__(self) -> None:
        self.histories = True
        self.written = list[dict[str, Any]]()

    def connect(self, _: Path) -> Gateway:
        return Gateway("http://gateway", "secret", transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:  # noqa: PLR0911 - one for each route
        path, query = request.url.path, request.url.params
        name = path.rpartition("/")[2]
        found = [item for item in _ITEMS if (item["item_type"], item["item_id"]) == (query.get("item_type"), name)]
        match path.removesuffix(name):
            case "/api/v1/interactions/user/":
                if not self.histories:
                    return httpx.Response(500, json={"detail": "profile_store is away"})
                did = [{**each, "occurred_at": "2026-01-02T03:04:05.000Z"} for each in _DID if name == "ann"]
                return httpx.Response(200, json={"interactions": did, "next_cursor": None})
            case "/api/v1/items/" if name == "bulk":
                self.written += orjson.loads(request.content)["items"]
                count = len(orjson.loads(request.content)["items"])
                errors = [{"index": at, "field": "x", "code": "x", "message": "no"} for at in range(1, count)]
                return httpx.Response(201, json={"accepted": 1, "applied": 1, "errors": errors})
            case "/api/v1/items/":
                return httpx.Response(200, json=found[0]) if found else httpx.Response(404, json={"detail": "no"})
            case "/api/v1/" if name == "items":
                return httpx.Response(200, json={"items": _ITEMS[:1], "next_cursor": "x"})
            case "/api/v1/recommendations/item/" if not found:
                return httpx.Response(404, json={"detail": "there is no such item"})
        items = [{**_ITEMS[1], "score": 1.0, "reasons": []}]
        return httpx.Response(
            200, json={"items": items, "model_version": "", "strategy": "hybrid", "degraded": []}
        )  # fmt: skip


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> _Stack:
    stack = _Stack()
    monkeypatch.setattr(ask, "gateway_of", stack.connect)
    monkeypatch.setattr(data, "gateway_of", stack.connect)
    return stack


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments], env={"COLUMNS": "80"})


def test_a_user_is_shown_with_what_they_did_last(stack: _Stack) -> None:
    lines = _run("for-user", "ann").output.splitlines()
    rated, viewed, recommended = (
        next(at for at, line in enumerate(lines) if text in line) for text in ("Alien ", "gone", "Aliens")
    )
    assert rated < viewed < recommended
    assert "rating 4.5" in lines[rated]
    assert "1979" in lines[rated]
    assert "did nothing yet" in _run("for-user", "bob").output
    stack.histories = False
    without = _run("for-user", "ann")
    assert without.exit_code == 0
    assert "profile_store is away" in without.output
    assert "Aliens" in without.output


@pytest.mark.usefixtures("stack")
def test_an_item_is_found_under_its_type() -> None:
    assert "Aliens" in _run("similar", "1").output
    assert "Aliens" in _run("similar", "1", "--item-type", "film").output
    for arguments, types in ((["9"], "item or film"), (["1", "-t", "book"], "book")):
        result = _run("similar", *arguments)
        assert isinstance(result.exception, CommandError)
        assert result.exception.message.endswith(f"of type {types}")
        assert "--item-type" in result.exception.hint


def test_every_bad_line_is_listed(stack: _Stack, tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text("".join("\n" if at == 30 else f'{{"item_id": 1, "x": {at}}}\n' for at in range(1, 61)))
    result = _run("load", "items", str(file))
    assert result.exit_code == 0
    assert len(stack.written) == 59
    assert "line 21: x: no" in result.output
    assert "and 38 more, on lines 22-29, 31-60" in result.output


def test_an_empty_file_is_an_error(stack: _Stack, tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.touch()
    result = _run("load", "items", str(file))
    assert isinstance(result.exception, CommandError)
    assert "No line" in result.exception.message
    assert not stack.written
