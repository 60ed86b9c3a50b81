import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from recommend_cli.clients.gateway import Gateway
from recommend_cli.datasets.films import Credits, read_film_database
from recommend_cli.datasets.ml100k import film_record, interaction_records
from recommend_cli.datasets.movielens import Film, Ratings
from recommend_cli.demo.movies import load_movielens, read_load
from recommend_cli.demo.show import VISITORS, show_a_change, show_visitors
from recommend_cli.stack.stores import open_stores


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Make a data cache of two films and three ratings, one of them by a user who rated twice in one second."""
    folder = tmp_path / "cache" / "recbole" / "dataset_example" / "ml-100k"
    folder.mkdir(parents=True)
    (folder / "ml-100k.inter").write_text("u\ti\tr\tt\n2\t1\t4\t1000\n1\t2\t3\t900\n1\t1\t5\t900\n")
    (folder / "ml-100k.item").write_text("i\tt\ty\tc\n1\tRoof, The\t1995\tWar\n2\tOther\t1990\tDrama\n")
    database = tmp_path / "cache" / "bokeh_sampledata" / "_data" / "movies.db"
    database.parent.mkdir(parents=True)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute('CREATE TABLE omdb ("Title", "Year", "Director", "Cast", "Country")')
        row = ("The Roof", 1995, "Ann Lee", "Cy Dow, Jr., Bea Fox", None)
        connection.execute("INSERT INTO omdb VALUES (?, ?, ?, ?, ?)", row)
        connection.commit()
    return tmp_path / "cache"


def test_a_film_with_and_without_credits() -> None:
    film = Film("12", "Usual Suspects, The", 1995, ("Crime", "Thriller"))
    made = Credits("The Usual Suspects", 1995, ("Bryan Singer",), ("Kevin Spacey",), ("United States",))
    assert film_record(film, made) == {
        "item_id": "12",
        "item_type": "film",
        "title": "The Usual Suspects",
        "description": "Crime, Thriller film of 1995 from United States, directed by Bryan Singer.",
        "attributes": {
            "year": 1995,
            "genres": ["Crime", "Thriller"],
            "directors": ["Bryan Singer"],
            "actors": ["Kevin Spacey"],
            "countries": ["United States"],
        },
    }
    assert film_record(Film("267", "", None, ()), None) == {
        "item_id": "267",
        "item_type": "film",
        "title": "Film 267",
        "description": "Film.",
        "attributes": {},
    }


def test_credits_are_read_and_juniors_keep_their_names(cache: Path) -> None:
    found = read_film_database(cache).find("Roof, The", 1995)
    assert found == Credits("The Roof", 1995, ("Ann Lee",), ("Cy Dow, Jr.", "Bea Fox"), ())


def test_ratings_become_views_or_ratings_with_the_same_ids() -> None:
    ratings = Ratings(np.array([7]), np.array([3]), np.array([4.0]), np.array([1_000]))
    rows = [np.array([0])]
    (view,) = interaction_records(ratings, rows, as_views=True, shift_ms=5)
    (rating,) = interaction_records(ratings, rows, as_views=False, shift_ms=5)
    assert view.record == {
        "event_id": "ml-100k-7-3",
        "user_id": "7",
        "item_type": "film",
        "item_id": "3",
        "occurred_at": 1_000_005,
        "interaction_type": "view",
    }
    assert rating.record == {**view.record, "interaction_type": "rating", "value": 4.0}


async def test_loading_again_sends_the_same_events(cache: Path, tmp_path: Path) -> None:
    sent: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        (records,) = orjson.loads(request.content).values()
        sent.extend(record for record in records if "event_id" in record)
        return httpx.Response(201, json={"accepted": len(records), "applied": len(records), "errors": []})

    stores = open_stores(tmp_path)
    async with Gateway("http://gateway", "", transport=httpx.MockTransport(answer)) as gateway:
        items, interactions = await load_movielens(gateway, stores, cache)
        first, sent = sent, []
        await load_movielens(gateway, stores, cache)
    assert (items.new, interactions.new) == (2, 3)
    assert sorted(first, key=str) == sorted(sent, key=str)
    # Ties in the order of the file, and the newest of all as of now.
    assert [record["item_id"] for record in first if record["user_id"] == "1"] == ["2", "1"]
    load = read_load(stores)
    assert load is not None
    assert load.films == 2
    assert max(record["occurred_at"] for record in first) == 1_000_000 + load.shift_ms


async def test_an_interrupted_load_is_not_taken_for_a_whole_one(cache: Path, tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if "interactions" in request.url.path:
            return httpx.Response(422, json={"detail": "no such interaction type"})
        return httpx.Response(201, json={"accepted": 2, "applied": 2, "errors": []})

    async with Gateway("http://gateway", "", transport=httpx.MockTransport(answer)) as gateway:
        with pytest.raises(Exception, match="no such interaction type"):
            await load_movielens(gateway, open_stores(tmp_path), cache)
    load = read_load(open_stores(tmp_path))
    assert load is not None
    assert load.films == 0


async def test_the_show_rates_two_films_of_another_kind(capsys: pytest.CaptureFixture[str]) -> None:
    rated: list[str] = []

    def item(number: int, genre: str) -> dict[str, Any]:
        attributes = {"year": 1990 + number, "genres": [genre]}
        return {
            "item_id": f"{genre}{number}",
            "item_type": "film",
            "title": f"{genre} {number}",
            "attributes": attributes,
        }

    def answer(request: httpx.Request) -> httpx.Response:
        path, query = request.url.path, request.url.params
        if path == "/api/v1/interactions":
            rated.append(orjson.loads(request.content)["item_id"])
            return httpx.Response(201, json={})
        if path.startswith("/api/v1/interactions/user/"):
            event = {"item_type": "film", "item_id": "1", "interaction_type": "rating", "occurred_at": ""}
            events = [{**event, "value": 2.0}, {**event, "value": 5.0}]
            return httpx.Response(200, json={"interactions": events, "next_cursor": None})
        if path.startswith("/api/v1/items/"):
            return httpx.Response(200, json=item(1, "Romance"))
        genre = query.get("filter", "genres:eq:Horror" if not rated else "::Western").split(":")[2]
        items = [{**item(n, genre), "score": 1.0, "reasons": []} for n in range(int(query["limit"]))]
        document = {"model_version": "v", "strategy": "hybrid", "degraded": [], "items": items}
        return httpx.Response(200, json=document)

    async with Gateway("http://gateway", "", transport=httpx.MockTransport(answer)) as gateway:
        await show_visitors(gateway)
        await show_a_change(gateway)
    shown = capsys.readouterr().out
    assert all(f"Visitor {visitor}" in shown for visitor in VISITORS)
    assert rated == ["Animation0", "Animation1"]  # the list was all horror
    assert "The list changed" in shown
    assert shown.count("new") == 10
