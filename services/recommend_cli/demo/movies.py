"""Loads MovieLens-100K once into a stack's stores, and remembers with which shift of time."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from recommend_cli.clients.gateway import Gateway
from recommend_cli.datasets.ml100k import film_records, interaction_records
from recommend_cli.datasets.movielens import read_ratings
from recommend_cli.loading import LoadOutcome
from recommend_cli.populating import load_interactions, load_items, numbered
from recommend_cli.stack.stores import Stores


@dataclass(frozen=True, slots=True)
class MovieLensLoad:
    """What a stack's stores hold of MovieLens-100K.

    Args:
        shift_ms: Added to every time; kept, so that loading again sends the same events.
        films: How many films are there; 0 before the load was complete.
    """

    shift_ms: int
    films: int = 0


def read_load(stores: Stores) -> MovieLensLoad | None:
    """Give what was loaded, or begun, into the stores."""
    try:
        return MovieLensLoad(**json.loads(_path(stores).read_text()))
    except FileNotFoundError:
        return None


async def load_movielens(gateway: Gateway, stores: Stores, cache: Path) -> tuple[LoadOutcome, LoadOutcome]:
    """Load films and ratings; the first time the newest rating is as of now."""
    films, ratings = film_records(cache), read_ratings(cache)
    load = read_load(stores)
    if load is None:
        load = MovieLensLoad(shift_ms=time.time_ns() // 1_000_000 - int(ratings.times_s.max()) * 1000)
        _write(stores, load)
    items = await load_items(gateway, numbered(films), total=len(films))
    rows = ratings.rows_by_user().values()
    interactions = await load_interactions(
        gateway, interaction_records(ratings, rows, as_views=False, shift_ms=load.shift_ms), total=len(ratings)
    )
    if not items.bad and not interactions.bad:
        _write(stores, MovieLensLoad(load.shift_ms, len(films)))
    return items, interactions


def _write(stores: Stores, load: MovieLensLoad) -> None:
    _path(stores).write_text(json.dumps(asdict(load)) + "\n")


def _path(stores: Stores) -> Path:
    return stores.data_dir / "ml-100k.json"
