from collections.abc import Callable
from typing import Any

import httpx
import orjson
import pytest

from recommend_cli.clients import gateway as gateway_module
from recommend_cli.clients.gateway import Gateway, GatewayError, Refused, Written

_Handler = Callable[[httpx.Request], httpx.Response]

_LIST: dict[str, Any] = {
    "model_version": "v1",
    "strategy": "hybrid",
    "degraded": ["graph"],
    "items": [
        {"item_id": "a/b", "item_type": "film", "title": "A", "score": 1.5, "attributes": {}, "reasons": []},
    ],
}


def _gateway(handler: _Handler) -> Gateway:
    return Gateway("http://gateway", "secret", transport=httpx.MockTransport(handler))


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_module, "_FIRST_PAUSE_S", 0.001)


async def test_asks_for_a_list_and_reads_it() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer secret"
        assert request.url.params.multi_items() == [
            ("user_id", "a b&c"),
            ("limit", "5"),
            ("filter", "year:gte:1990"),
            ("filter", "genres:eq:War"),
            ("item_type", "film"),
        ]
        return httpx.Response(200, json=_LIST)

    async with _gateway(answer) as gateway:
        found = await gateway.recommend("a b&c", limit=5, item_type="film", filters=["year:gte:1990", "genres:eq:War"])
    assert found.ids == ("a/b",)
    assert found.model_version == "v1"
    assert found.degraded == ["graph"]


async def test_asks_each_source_alone_in_one_call() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        requests = orjson.loads(request.content)["requests"]
        assert requests[1] == {"user_id": "u", "limit": 10, "weights": {"content": 1.0}}
        problem = {"status": 422, "detail": "there is no source 'content'"}
        return httpx.Response(200, json={"results": [_LIST, problem if len(requests) > 2 else _LIST]})

    async with _gateway(answer) as gateway:
        lists = await gateway.recommend_by_each("u", ["graph", "content"])
        assert [each.ids for each in lists] == [("a/b",), ("a/b",)]
        with pytest.raises(GatewayError, match="no source"):
            await gateway.recommend_by_each("u", ["graph", "content", "graph"])


async def test_ids_are_quoted_in_paths() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.raw_path.startswith(b"/api/v1/recommendations/item/a%2Fb%3F?")
        return httpx.Response(200, json=_LIST)

    async with _gateway(answer) as gateway:
        await gateway.similar("film", "a/b?")


async def test_a_bulk_names_what_was_refused() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert len(orjson.loads(request.content)["interactions"]) == 3
        errors = [{"index": 1, "field": "value", "code": "invalid_argument", "message": "needed"}]
        return httpx.Response(201, json={"accepted": 2, "applied": 1, "errors": errors})

    async with _gateway(answer) as gateway:
        written = await gateway.append_interactions([{}, {}, {}])
    assert written == Written(new=1, known=1, refused=[Refused(1, "value: needed")])


async def test_a_bulk_that_was_refused_altogether_names_each_record() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        items = orjson.loads(request.content)["items"]
        errors = [{"field": f"[{at}].x", "code": "x", "message": f"no {item['x']}"} for at, item in enumerate(items)]
        return httpx.Response(422, json={"detail": "bad", "errors": errors[:2]})  # a problem names the first few only

    async with _gateway(answer) as gateway:
        written = await gateway.put_items([{"x": at} for at in range(5)])
    assert written == Written(refused=[Refused(at, f"x: no {at}") for at in range(5)])


async def test_a_bulk_that_is_too_large_is_halved_down_to_the_record_that_is() -> None:
    bulks = list[list[int]]()

    def answer(request: httpx.Request) -> httpx.Response:
        sizes = [item["size"] for item in orjson.loads(request.content)["items"]]
        if sum(sizes) > 10:
            return httpx.Response(413, text="<html>too large</html>")
        bulks.append(sizes)
        return httpx.Response(201, json={"accepted": len(sizes), "applied": len(sizes), "errors": []})

    async with _gateway(answer) as gateway:
        written = await gateway.put_items([{"size": size} for size in (4, 4, 1, 99, 5)])
    assert sorted(bulks) == [[1], [4, 4], [5]]
    assert written.new == 4
    assert [refused.index for refused in written.refused] == [3]
    assert "413" in written.refused[0].reason


async def test_a_problem_with_the_bulk_itself_is_an_error() -> None:
    errors = [{"field": "items", "code": "x", "message": "a bulk has 1 to 10000 elements"}]

    async with _gateway(lambda _: httpx.Response(422, json={"detail": "too many", "errors": errors})) as gateway:
        with pytest.raises(GatewayError, match="too many"):
            await gateway.put_items([{}])


async def test_a_busy_gateway_is_asked_again() -> None:
    answers = [httpx.Response(503), httpx.Response(429), httpx.Response(200, json=_LIST)]

    async with _gateway(lambda _: answers.pop(0)) as gateway:
        assert (await gateway.trending()).ids == ("a/b",)
    assert not answers


async def test_a_gateway_that_stays_away_is_told() -> None:
    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    async with _gateway(away) as gateway:
        with pytest.raises(GatewayError, match="cannot be reached"):
            await gateway.trending()


async def test_what_is_no_problem_document_is_shown() -> None:
    async with _gateway(lambda _: httpx.Response(400, text="<html>")) as gateway:
        with pytest.raises(GatewayError, match="400: <html>"):
            await gateway.trending()


async def test_a_history_is_read_to_its_end() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        last = "cursor" in request.url.params
        each = {"item_type": "film", "item_id": "2" if last else "1", "interaction_type": "view", "value": None}
        page = {"interactions": [{**each, "occurred_at": "t"}], "next_cursor": None if last else "more"}
        return httpx.Response(200, json=page)

    async with _gateway(answer) as gateway:
        assert [each.item_id async for each in gateway.history("u")] == ["1", "2"]
        assert [each.item_id for each in await gateway.latest("u", 1)] == ["1"]
