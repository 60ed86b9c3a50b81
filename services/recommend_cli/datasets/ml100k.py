"""MovieLens-100K as records for the gateway: films with their credits, ratings or views as interactions."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from recommend_cli.datasets.files import Line, Record
from recommend_cli.datasets.films import Credits, read_film_database
from recommend_cli.datasets.movielens import Film, Ratings, read_films
from recommend_cli.datasets.titles import readable

FILM: Final = "film"


def film_records(cache: Path) -> list[Record]:
    """Read all films and enrich those that the film database knows."""
    database = read_film_database(cache)
    return [
        film_record(film, database.find(film.title, film.year) if film.year is not None else None)
        for film in read_films(cache)
    ]


def film_record(film: Film, made: Credits | None) -> Record:
    """Write a film as an item; what is unknown is left out."""
    attributes: dict[str, Any] = {"year": film.year, "genres": list(film.genres)}
    if made is not None:
        attributes |= {
            "directors": list(made.directors),
            "actors": list(made.actors),
            "countries": list(made.countries),
        }
    return {
        "item_id": film.item_id,
        "item_type": FILM,
        "title": readable(film.title) or f"Film {film.item_id}",
        "description": _description(film, made),
        "attributes": {name: value for name, value in attributes.items() if value},
    }


def interaction_records(
    ratings: Ratings, rows: Iterable[npt.NDArray[np.int64]], *, as_views: bool, shift_ms: int
) -> Iterator[Line]:
    """Write ratings as interactions.

    Args:
        ratings: All ratings.
        rows: Which of them, one array for each user, in the order to send.
        as_views: Every rating counts the same, whatever its stars.
        shift_ms: Added to every time.
    """
    for user_rows in rows:
        for row in user_rows.tolist():
            user, item = int(ratings.users[row]), int(ratings.items[row])
            record: Record = {
                # A user rates a film once, so this says which rating it is, however often it is loaded.
                "event_id": f"ml-100k-{user}-{item}",
                "user_id": str(user),
                "item_type": FILM,
                "item_id": str(item),
                "occurred_at": int(ratings.times_s[row]) * 1000 + shift_ms,
                "interaction_type": "view",
            }
            if not as_views:
                record |= {"interaction_type": "rating", "value": float(ratings.values[row])}
            yield Line(row + 2, record)  # the file begins with a header


def _description(film: Film, made: Credits | None) -> str:
    """Say in a sentence what a search by meaning may look for; the actors, in no order, would only drown it."""
    kind = f"{', '.join(film.genres)} film" if film.genres else "Film"
    if film.year is not None:
        kind += f" of {film.year}"
    if made is not None and made.countries:
        kind += f" from {', '.join(made.countries)}"
    if made is not None and made.directors:
        kind += f", directed by {', '.join(made.directors)}"
    return f"{kind}."
