"""Items and interactions over REST: read your writes, repeat them safely."""

from typing import Any

from hot_path_api.api import schemas
from recommendation.events.v1 import events_pb2
from servicekit.eventlog.decode import decode
from servicekit.eventlog.port import NewRecord, Start
from servicekit.testing import eventually

Shop = Any  # the fixture's class lives in conftest
ITEMS = "/api/v1/items"
INTERACTIONS = "/api/v1/interactions"
FILM = {"item_type": "film"}
NEW = {
    "item_id": "a/b ü",
    "item_type": "film",
    "title": "Paths of Glory",
    "description": "A colonel defends his men.",
    "attributes": {"genres": ["Drama", "War"], "year": 1957, "rating": 8.4, "colour": False, "studio": "UA", "x": None},
    "created_at": "1977-12-25T00:00:00+01:00",
    "available_from": 1_600_000_000,
}


async def events(shop: Shop, topic: str) -> list[Any]:
    consumer = shop.log.consumer([topic], group=None, start=Start.EARLIEST)
    records = await consumer.poll(max_records=1_000, timeout_s=0.1)
    await consumer.close()
    return list(records)


async def test_an_item_is_read_right_after_it_was_created(shop: Shop) -> None:
    created = await shop.client.post(ITEMS, json=NEW)
    assert created.status_code == 201
    assert created.json() == {"item_id": "a/b ü", "item_type": "film", "status": "created"}
    schemas.ItemWritten.model_validate(created.json())
    read = (await shop.client.get(f"{ITEMS}/a%2Fb%20%C3%BC", params=FILM)).json()
    schemas.ItemOut.model_validate(read)
    assert read["attributes"] == {name: value for name, value in NEW["attributes"].items() if value is not None}  # type: ignore[attr-defined]
    assert read["created_at"] == "1977-12-24T23:00:00.000Z"
    assert read["available_from"] == "2020-09-13T12:26:40.000Z"
    assert read["available_until"] is None
    (record,) = await events(shop, "content.changed")
    assert record.key == "default/film/a/b ü"
    assert decode(record, events_pb2.ContentChanged).put.title == "Paths of Glory"


async def test_creating_twice_is_a_conflict_and_putting_replaces(shop: Shop) -> None:
    again = await shop.client.post(ITEMS, json={"item_id": "1", "item_type": "film"})
    assert again.status_code == 409
    assert again.json()["code"] == "already_exists"
    replaced = await shop.client.put(f"{ITEMS}/1", params=FILM, json={"title": "New title"})
    assert replaced.status_code == 200
    assert replaced.json()["status"] == "replaced"
    read = (await shop.client.get(f"{ITEMS}/1", params=FILM)).json()
    assert read["title"] == "New title"
    assert read["attributes"] == {}
    # What was read can be put back after editing, but for the time of the last change.
    read["title"] = "Newer title"
    del read["updated_at"]
    assert (await shop.client.put(f"{ITEMS}/1", params=FILM, json=read)).status_code == 200
    created = await shop.client.put(f"{ITEMS}/unheard-of", params=FILM, json={})
    assert created.status_code == 201


async def test_deleting(shop: Shop) -> None:
    gone = await shop.client.delete(f"{ITEMS}/1", params=FILM)
    assert gone.status_code == 204
    assert not gone.content
    assert (await shop.client.get(f"{ITEMS}/1", params=FILM)).status_code == 404
    assert (await shop.client.delete(f"{ITEMS}/1", params=FILM)).status_code == 404


async def test_paging_through_the_catalogue(shop: Shop) -> None:
    first = (await shop.client.get(ITEMS, params={"limit": 5, "item_type": "film"})).json()
    second = (await shop.client.get(ITEMS, params={"limit": 5, "cursor": first["next_cursor"]})).json()
    schemas.ItemPage.model_validate(first)
    assert [item["item_id"] for item in first["items"] + second["items"]] == [str(n) for n in range(1, 10)]
    assert second["next_cursor"] is None


async def test_many_items_at_once(shop: Shop) -> None:
    rows = [{"item_id": f"bulk{n}", "item_type": "film", "attributes": {"n": n}} for n in range(50)]
    rows.insert(7, {"item_id": ""})
    response = await shop.client.post(f"{ITEMS}/bulk", json={"items": rows})
    assert response.status_code == 201
    written = schemas.BulkWritten.model_validate(response.json())
    assert (written.accepted, written.applied) == (50, 50)
    assert [(error.index, error.field) for error in written.errors] == [(7, "item_id")]
    assert (await shop.client.get(f"{ITEMS}/bulk49", params=FILM)).json()["attributes"] == {"n": 49}


async def test_an_item_changed_elsewhere_is_read_anew(shop: Shop) -> None:
    assert (await shop.client.get(f"{ITEMS}/1", params=FILM)).json()["title"] == "Title 1"
    change = events_pb2.ContentChanged(event_id="e", occurred_at_ms=2_000_000_000_000)
    change.put.CopyFrom(next(iter(shop.world.items.values())))
    change.put.title = "Changed elsewhere"
    producer = shop.log.producer()
    await producer.append([NewRecord("content.changed", "default/film/1", change.SerializeToString())])

    async def is_new() -> bool:
        return bool((await shop.client.get(f"{ITEMS}/1", params=FILM)).json()["title"] == "Changed elsewhere")

    await eventually(is_new)
    gone = events_pb2.ContentChanged(event_id="f", occurred_at_ms=2_000_000_000_001)
    gone.deleted.tenant, gone.deleted.item_type, gone.deleted.item_id = "default", "film", "1"
    nonsense = NewRecord("content.changed", "default/film/1", b"\xff\xff")
    await producer.append([nonsense, NewRecord("content.changed", "default/film/1", gone.SerializeToString())])

    async def is_gone() -> bool:
        response = await shop.client.get(f"{ITEMS}/1", params=FILM)
        return bool(response.status_code == 404)

    await eventually(is_gone)


async def test_an_interaction_is_in_the_history_and_in_the_log(shop: Shop) -> None:
    body = {
        "user_id": "u/2",
        "item_id": "1",
        "item_type": "film",
        "interaction_type": "rating",
        "value": 4.5,
        "occurred_at": "2024-05-01T12:00:00.250Z",
        "event_id": "mine",
    }
    response = await shop.client.post(INTERACTIONS, json=body)
    assert response.status_code == 201
    assert response.json() == {"event_id": "mine", "status": "created"}
    again = await shop.client.post(INTERACTIONS, json=body)
    assert again.status_code == 200
    assert again.json()["status"] == "unchanged"
    page = (await shop.client.get(f"{INTERACTIONS}/user/u%2F2")).json()
    schemas.InteractionPage.model_validate(page)
    del body["user_id"]
    assert page["interactions"] == [body]
    assert page["next_cursor"] is None
    first, _ = await events(shop, "user.interactions")
    assert first.key == "default/u/2"
    assert decode(first, events_pb2.InteractionRecorded).value == 4.5


async def test_paging_through_a_history(shop: Shop) -> None:
    rows = [{"user_id": "p", "item_id": str(n), "item_type": "film", "interaction_type": "view"} for n in range(5)]
    await shop.client.post(f"{INTERACTIONS}/bulk", json={"interactions": rows})
    first = (await shop.client.get(f"{INTERACTIONS}/user/p", params={"limit": 3})).json()
    second = (await shop.client.get(f"{INTERACTIONS}/user/p", params={"cursor": first["next_cursor"]})).json()
    assert [each["item_id"] for each in first["interactions"] + second["interactions"]] == ["4", "3", "2", "1", "0"]


async def test_a_repeated_write_under_one_key_is_done_once(shop: Shop) -> None:
    body = {"user_id": "u2", "item_id": "1", "item_type": "film", "interaction_type": "view"}
    key = {"Idempotency-Key": "k1"}
    first = await shop.client.post(INTERACTIONS, json=body, headers=key)
    second = await shop.client.post(INTERACTIONS, json=body, headers=key)
    assert first.status_code == second.status_code == 201
    assert first.json() == second.json()
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert len(shop.world.interactions["default/u2"]) == 1
    other = await shop.client.post(INTERACTIONS, json={**body, "item_id": "2"}, headers=key)
    assert other.status_code == 422
    assert other.json()["field"] == "Idempotency-Key"
    created = await shop.client.post(ITEMS, json={"item_id": "once", "item_type": "film"}, headers=key)
    repeated = await shop.client.post(ITEMS, json={"item_id": "once", "item_type": "film"}, headers=key)
    assert created.status_code == repeated.status_code == 201


async def test_a_key_gives_the_same_event_ids_wherever_the_write_is_repeated(shop: Shop) -> None:
    rows = [{"user_id": "u2", "item_id": str(n), "item_type": "film", "interaction_type": "view"} for n in range(3)]
    key = {"Idempotency-Key": "k2"}
    await shop.client.get("/api/v1/interaction-types")
    shop.world.profiles.down = True
    # The answer 202 is not final, so the repetition is carried out, as another replica would.
    statuses = [
        (await shop.client.post(f"{INTERACTIONS}/bulk", json={"interactions": rows}, headers=key)).status_code
        for _ in range(2)
    ]
    assert statuses == [202, 202]
    shop.world.profiles.down = False

    async def is_stored() -> bool:
        response = await shop.client.post(f"{INTERACTIONS}/bulk", json={"interactions": rows}, headers=key)
        return bool(response.status_code == 201)

    await eventually(is_stored, interval_s=0.2)  # the circuit closes first
    ids = [
        decode(record, events_pb2.InteractionRecorded).event_id for record in await events(shop, "user.interactions")
    ]
    assert len(set(ids)) == 3
    assert len(shop.world.interactions["default/u2"]) == 3


async def test_interaction_types_can_be_made(shop: Shop) -> None:
    path = "/api/v1/interaction-types"
    body = {"user_id": "u2", "item_id": "4", "item_type": "film", "interaction_type": "finished"}
    assert (await shop.client.post(INTERACTIONS, json=body)).json()["field"] == "interaction_type"
    made = await shop.client.put(path, json={"interaction_types": [{"name": "finished", "weight": 4}]})
    assert made.status_code == 200
    types = schemas.InteractionTypesOut.model_validate((await shop.client.get(path)).json()).interaction_types
    assert {each.name: each.weight for each in types}["finished"] == 4
    assert (await shop.client.post(INTERACTIONS, json=body)).status_code == 201
