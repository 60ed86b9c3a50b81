"""Whatever is wrong with a request, the answer is a problem document that names the field, and nothing is written."""

import asyncio
import json
import time
from typing import Any

Shop = Any  # the fixture's class lives in conftest
MAIN = "/api/recommendations"
INTERACTION = {"user_id": "u", "item_id": "1", "item_type": "film", "interaction_type": "view"}
ITEM = {"item_id": "new", "item_type": "film"}
NEXT_HOUR = time.time() + 3600


def is_problem(response: Any, status: int, field: str | None = None) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == status
    assert document["type"] == f"urn:problem:recommendation:{document['code']}"
    assert document["title"]
    assert document["detail"]
    assert document["request_id"] == response.headers["x-request-id"]
    if field is not None:
        assert document.get("field", "") == field, document


BAD_QUERIES = (
    ("limit=0", "limit"),
    ("limit=101", "limit"),
    ("limit=ten", "limit"),
    ("limit=5&limit=6", "limit"),
    ("nonsense=1", "nonsense"),
    ("user_id=", "user_id"),
    ("user_id=" + "x" * 256, "user_id"),
    ("user_id=%00", "user_id"),
    ("user_id=%ff", "user_id"),
    ("diversity=1.5", "diversity"),
    ("diversity=nan", "diversity"),
    ("algorithm=magic", "algorithm"),
    ("window=2h", "window"),
    ("explain=perhaps", "explain"),
    ("cursor=abc", "cursor"),
    ("cursor=b%3A12", "cursor"),
    ("weights=cooccurrence", "weights"),
    ("weights=cooccurrence:nan", "weights"),
    ("user_id=u&weights=magic:1", "weights.magic"),
    ("filter=genres", "filter[0]"),
    ("filter=genres:like:x", "filter[0]"),
    ("filter=year:eq:1&filter=year:gte:old", "filter[1]"),
    ("filter=year:exists:maybe", "filter[0]"),
    ("filter=wheels:eq:4", "filter.wheels"),
    ("item_type=a/b", "item_type"),
    ("exclude=" + "x" * 300, "exclude"),
    ("surface=" + "x" * 65, "surface"),
)


async def test_queries(shop: Shop) -> None:
    for query, field in BAD_QUERIES:
        is_problem(await shop.client.get(f"{MAIN}?{query}"), 422, field)


BAD_BODIES: tuple[tuple[str, Any, str], ...] = (
    (MAIN, {"limit": 0}, "limit"),
    (MAIN, {"limit": "many"}, "limit"),
    (MAIN, {"nonsense": 1}, "nonsense"),
    (MAIN, [], "body"),
    (MAIN, "text", "body"),
    (MAIN, {"limit": "5"}, "limit"),
    (MAIN, {"limit": True}, "limit"),
    (MAIN, {"explain": "yes"}, "explain"),
    (MAIN, {"diversity": "0.5"}, "diversity"),
    (MAIN, {"history": [{"item_id": "1", "interaction_type": "rating", "value": 1e37}]}, "history[0].value"),
    (MAIN, {"history": [{"item_id": "1", "interaction_type": "x" * 65}]}, "history[0].interaction_type"),
    (MAIN, {"weights": {"content": 1e308}}, "weights.content"),
    (MAIN, {"history": [{"item_id": ""}]}, "history[0].item_id"),
    (MAIN, {"history": [{"item_id": "1", "interaction_type": "sniff"}]}, "history[0].interaction_type"),
    (MAIN, {"history": [{"item_id": "1", "interaction_type": "rating"}]}, "history[0].value"),
    (MAIN, {"history": [{"item_id": "1", "occurred_at": NEXT_HOUR}]}, "history[0].occurred_at"),
    (MAIN, {"filter": [{"field": "genres", "op": "like", "value": "x"}]}, "filter[0].op"),
    (MAIN, {"filter": [{"field": "genres", "op": "eq", "value": ["a", "b"]}]}, "filter[0].value"),
    (MAIN, {"filter": [{"field": "genres", "op": "eq", "value": {"a": 1}}]}, "filter[0].value"),
    (MAIN, {"filter": [{"field": "wheels", "op": "eq", "value": 4}]}, "filter.wheels"),
    (MAIN, {"weights": {}}, "weights"),
    (MAIN, {"caps": {"genres": 0}}, "caps.genres"),
    ("/api/v1/recommendations/batch", {"requests": []}, "requests"),
    ("/api/v1/recommendations/batch", {"requests": [{"limit": 0}]}, "requests[0].limit"),
    ("/api/v1/interactions", {**INTERACTION, "user_id": "x" * 256}, "user_id"),
    ("/api/v1/interactions", {**INTERACTION, "user_id": 7}, "user_id"),
    ("/api/v1/interactions", {**INTERACTION, "item_id": "a\nb"}, "item_id"),
    ("/api/v1/interactions", {**INTERACTION, "interaction_type": "sniff"}, "interaction_type"),
    ("/api/v1/interactions", {**INTERACTION, "interaction_type": "rating"}, "value"),
    ("/api/v1/interactions", {**INTERACTION, "value": "five"}, "value"),
    ("/api/v1/interactions", {**INTERACTION, "value": "5"}, "value"),
    ("/api/v1/interactions", {**INTERACTION, "value": True}, "value"),
    ("/api/v1/interactions", {**INTERACTION, "occurred_at": NEXT_HOUR}, "occurred_at"),
    ("/api/v1/interactions", {**INTERACTION, "occurred_at": "2024-01-01T00:00:00"}, "occurred_at"),
    ("/api/v1/interactions", {**INTERACTION, "occurred_at": "1950-01-01T00:00:00Z"}, "occurred_at"),
    ("/api/v1/interactions", {**INTERACTION, "event_id": "x" * 65}, "event_id"),
    ("/api/v1/interactions", {**INTERACTION, "more": 1}, "more"),
    ("/api/v1/interactions", {"user_id": "u"}, "item_id"),
    ("/api/v1/interactions/bulk", {"interactions": []}, "interactions"),
    ("/api/v1/interactions/bulk", {"interactions": [INTERACTION] * 10_001}, "interactions"),
    ("/api/v1/interactions/bulk", [INTERACTION], "interactions"),
    ("/api/v1/interactions/bulk", {"interactions": [INTERACTION], "more": 1}, "more"),
    ("/api/v1/interactions/bulk", {"interactions": [{**INTERACTION, "item_id": ""}]}, "[0].item_id"),
    ("/api/v1/items", {**ITEM, "item_id": ""}, "item_id"),
    ("/api/v1/items", {**ITEM, "item_type": "a/b"}, "item_type"),
    ("/api/v1/items", {**ITEM, "attributes": {"year": {"a": 1}}}, "attributes.year"),
    ("/api/v1/items", {**ITEM, "attributes": {"year": 2**60}}, "attributes.year"),
    ("/api/v1/items", {**ITEM, "attributes": {"genres": ["a", 1]}}, "attributes.genres"),
    ("/api/v1/items", {**ITEM, "attributes": {"text": "x" * 10_001}}, "attributes.text"),
    ("/api/v1/items", {**ITEM, "attributes": {str(n): n for n in range(101)}}, "attributes"),
    ("/api/v1/items", {**ITEM, "attributes": {f"a{n}": "x" * 9_000 for n in range(40)}}, "attributes"),
    ("/api/v1/items", {**ITEM, "created_at": "1957-01-01T00:00:00Z"}, "created_at"),
    ("/api/v1/items", {**ITEM, "created_at": NEXT_HOUR}, "created_at"),
    ("/api/v1/items", {**ITEM, "available_until": "9999-12-31T23:00:00-05:00"}, "available_until"),
    ("/api/v1/items", {**ITEM, "title": "x" * 1_001}, "title"),
    ("/api/v1/items", {**ITEM, "available_from": "2025-01-01T00:00Z", "available_until": 0}, "available_until"),
    ("/api/v1/items", {**ITEM, "hidden": "true"}, "hidden"),
    ("/api/v1/items", {**ITEM, "price": 3}, "price"),
    ("/api/v1/items/bulk", {"items": [{**ITEM, "price": 3}]}, "[0].price"),
)


async def test_bodies(shop: Shop) -> None:
    for path, body, field in BAD_BODIES:
        is_problem(await shop.client.post(path, json=body), 422, field)
    assert sum((await shop.log.end_offsets(["user.interactions", "content.changed"])).values()) == 0


HUGE = b"1" * 400
NOT_FINITE = (
    ("/api/v1/interactions", b'{"user_id":"u","item_id":"1","interaction_type":"view","value":NaN}', "value"),
    ("/api/v1/items", b'{"item_id":"1","attributes":{"year":Infinity}}', "attributes.year"),
    (MAIN, b'{"weights":{"content":NaN}}', "weights.content"),
    (MAIN, b'{"limit":%b}' % HUGE, "limit"),
    (MAIN, b'{"history":[{"item_id":"1","occurred_at":1e999}]}', "history[0].occurred_at"),
    (MAIN, b'{"filter":[{"field":"year","op":"gte","value":%b}]}' % HUGE, "filter[0].value"),
    ("/api/v1/interactions", b'{"user_id":"u","item_id":"1","interaction_type":"view","value":1e999}', "value"),
    ("/api/v1/items", b'{"item_id":"1","attributes":{"year":%b,"x":NaN}}' % HUGE, "attributes.year"),
)
HALVES = (
    (MAIN, rb'{"user_id":"\ud800"}', "user_id"),
    (MAIN, rb'{"surface":"NaN","weights":{"\ud800":1}}', "weights.?"),
    (MAIN, rb'{"\ud800":1}', "?"),
    (MAIN, rb'{"filter":[{"field":"item_type","op":"eq","value":"\ud800"}]}', "filter[0].value"),
    (MAIN, rb'"\ud800"', "body"),
    ("/api/v1/items", rb'{"item_id":"a1","title":"NaN","attributes":{"x":"\ud800"}}', "attributes.x"),
    ("/api/v1/items", rb'{"item_id":"a1","attributes":{"x":["a","\udc00"]}}', "attributes.x"),
    ("/api/v1/items", rb'{"item_id":"a1","attributes":{"\ud800":"x"}}', "attributes.?"),
)


async def test_numbers_that_are_not_finite(shop: Shop) -> None:
    for path, body, field in NOT_FINITE:
        is_problem(await shop.client.post(path, content=body), 422, field)


async def test_halves_of_surrogate_pairs(shop: Shop) -> None:
    for path, body, field in HALVES:
        is_problem(await shop.client.post(path, content=body), 422, field)
    assert sum((await shop.log.end_offsets(["user.interactions", "content.changed"])).values()) == 0


async def test_what_no_json_can_hold_refuses_one_record_of_a_bulk(shop: Shop) -> None:
    bad = (
        rb'{"item_id":"b","attributes":{"x":"\ud800"}}',
        b'{"item_id":"b","attributes":{"x":1e999}}',
        b'{"item_id":NaN}',
    )
    for at, record in enumerate(bad):
        body = b'{"items":[{"item_id":"ok%d","item_type":"film"},%b]}' % (at, record)
        answer = await shop.client.post("/api/v1/items/bulk", content=body)
        assert (answer.status_code, answer.json()["accepted"]) == (201, 1)
        assert [error["index"] for error in answer.json()["errors"]] == [1]
        assert (await shop.client.get(f"/api/v1/items/ok{at}?item_type=film")).status_code == 200


async def test_bodies_that_are_no_json(shop: Shop) -> None:
    for body in (b"", b"{", b'{"a":}', b"\xff", b"NaN, 1", b"[" * 5_000, "\ufeff{}".encode(), "{}".encode("utf-16")):
        is_problem(await shop.client.post("/api/v1/interactions", content=body), 400, "body")


async def test_a_compressed_body(shop: Shop) -> None:
    for encoding in ("gzip", "br"):
        answer = await shop.client.post(MAIN, content=b"{}", headers={"Content-Encoding": encoding})
        is_problem(answer, 415, "Content-Encoding")
    assert (await shop.client.post(MAIN, content=b"{}", headers={"Content-Encoding": "identity"})).status_code == 200


async def test_paths_that_are_no_text(shop: Shop) -> None:
    for method, path in (
        ("PUT", "/api/v1/items/a%ffb"),
        ("GET", "/api/v1/recommendations/user/%ff"),
        ("GET", "/api/v1/recommendations/item/%c3%28"),
    ):
        is_problem(await shop.client.request(method, path, content=b"{}"), 422, "path")


async def test_routes_that_take_a_body_take_no_unknown_parameters(shop: Shop) -> None:
    for path in (MAIN, "/api/v1/recommendations/batch", "/api/v1/interactions", "/api/v1/items"):
        is_problem(await shop.client.post(f"{path}?foo=1", content=b"{}"), 422, "foo")


async def test_similar_items_by_unknown_sources(shop: Shop) -> None:
    for source in ("magic", "trending"):
        answer = await shop.client.get(f"/api/v1/recommendations/item/1?item_type=film&weights={source}:1")
        is_problem(answer, 422, f"weights.{source}")


async def test_what_is_no_http(shop: Shop) -> None:
    address = shop.client.base_url
    for request in (
        "GET /api/recommendations?user_id=é HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        b"POST /api/recommendations HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(request)
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        assert head.startswith(b"HTTP/1.1 400 ")
        assert b"content-type: application/problem+json" in head
        assert f"x-request-id: {json.loads(body)['request_id']}".encode() in head
        assert json.loads(body)["code"] == "malformed_request"


async def test_a_method_that_a_path_does_not_take(shop: Shop) -> None:
    for path, allowed in ((MAIN, "GET, POST"), ("/api/v1/items", "GET, POST"), ("/api/v1/items/1", "DELETE, GET, PUT")):
        answer = await shop.client.patch(path)
        is_problem(answer, 405)
        assert answer.headers["allow"] == allowed


async def test_problems_are_not_kept_by_caches(shop: Shop) -> None:
    for path in ("/api/v1/items/nowhere", f"{MAIN}?limit=0", "/nowhere"):
        assert (await shop.client.get(path)).headers["cache-control"] == "no-store"


async def test_a_body_over_the_cap(shop: Shop) -> None:
    is_problem(await shop.client.post("/api/v1/items", content=b" " * (1 << 20) + b"{}"), 413)

    async def chunks() -> Any:
        for _ in range(20):
            yield b" " * (1 << 20)

    is_problem(await shop.client.post("/api/v1/items/bulk", content=chunks()), 413)


async def test_paths_and_methods_that_do_not_exist(shop: Shop) -> None:
    is_problem(await shop.client.get("/api/v2/nothing"), 404)
    response = await shop.client.put(MAIN, json={})
    is_problem(response, 405)
    is_problem(await shop.client.get("/api/v1/items/nothing", params={"item_type": "film"}), 404, "item_id")
    is_problem(await shop.client.get("/api/v1/items/" + "x" * 256), 422, "item_id")
    is_problem(await shop.client.get("/api/v1/recommendations/user/" + "x" * 256), 422, "user_id")
    is_problem(await shop.client.get("/api/v1/search"), 422, "q")


async def test_a_put_that_names_another_item(shop: Shop) -> None:
    response = await shop.client.put("/api/v1/items/a", json={"item_id": "b"})
    is_problem(response, 422, "item_id")


async def test_idempotency_keys_have_a_form(shop: Shop) -> None:
    response = await shop.client.post("/api/v1/interactions", json=INTERACTION, headers={"Idempotency-Key": "x" * 256})
    is_problem(response, 422, "Idempotency-Key")


async def test_all_wrong_fields_are_told(shop: Shop) -> None:
    response = await shop.client.post("/api/v1/interactions", json={**INTERACTION, "user_id": "", "more": 1})
    is_problem(response, 422, "user_id")
    assert [error["field"] for error in response.json()["errors"]] == ["user_id", "more"]


async def test_a_bad_element_of_a_bulk_is_told_by_its_index_and_the_others_go_in(shop: Shop) -> None:
    rows = [INTERACTION, {**INTERACTION, "item_id": ""}, {**INTERACTION, "interaction_type": "sniff"}, INTERACTION]
    response = await shop.client.post("/api/v1/interactions/bulk", json={"interactions": rows})
    assert response.status_code == 201
    document = response.json()
    assert document["accepted"] == document["applied"] == 2
    assert [(error["index"], error["field"]) for error in document["errors"]] == [
        (1, "item_id"),
        (2, "interaction_type"),
    ]
    assert len(shop.world.interactions["default/u"]) == 2
    late = {**INTERACTION, "occurred_at": NEXT_HOUR}
    response = await shop.client.post("/api/v1/interactions/bulk", json={"interactions": [late, INTERACTION]})
    assert [(error["index"], error["field"]) for error in response.json()["errors"]] == [(0, "occurred_at")]
