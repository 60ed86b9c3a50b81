"""Reads MovieLens-100K as the package recbole ships it: films, and ratings in the order of the file."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from recommend_cli.errors import CommandError

TERMS: Final = (
    "MovieLens-100K (GroupLens, University of Minnesota): for research use only, no redistribution, no commercial "
    "use without permission. F. M. Harper and J. A. Konstan, 2015, https://doi.org/10.1145/2827872"
)

_YEAR_IN_TITLE: Final = re.compile(r"^(?P<title>.+) \((?P<year>\d{4})\).*$")
_FOLDER: Final = Path("recbole", "dataset_example", "ml-100k")


@dataclass(frozen=True, slots=True)
class Film:
    """A film as MovieLens names it: `title` with its article behind ("Usual Suspects, The"), empty if there is none."""

    item_id: str
    title: str
    year: int | None
    genres: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ratings:
    """Ratings as columns of one length, in the order of the file.

    `users` and `items` are the ids as int64, `values` the stars as float64, `times_s` Unix seconds as int64.
    """

    users: npt.NDArray[np.int64]
    items: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    times_s: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.users)

    def rows_by_user(self) -> dict[int, npt.NDArray[np.int64]]:
        """Give each user's rows by time, ties by the order of the file; users by id."""
        order = np.lexsort((np.arange(len(self)), self.times_s, self.users))
        users, starts = np.unique(self.users[order], return_index=True)
        return dict(zip(users.tolist(), np.split(order, starts[1:]), strict=True))


def read_films(cache: Path) -> list[Film]:
    """Read the films in the order of the file.

    Raises:
        CommandError: The data is not in the cache.
    """
    return [_film(*row) for row in _rows(cache, "ml-100k.item")]


def read_ratings(cache: Path) -> Ratings:
    """Read the ratings in the order of the file.

    Raises:
        CommandError: The data is not in the cache.
    """
    users, items, values, times = zip(*_rows(cache, "ml-100k.inter"), strict=True)
    return Ratings(
        users=np.array(users, dtype=np.int64),
        items=np.array(items, dtype=np.int64),
        values=np.array(values, dtype=np.float64),
        times_s=np.array(times, dtype=np.int64),
    )


def _film(item_id: str, title: str, year: str, genres: str) -> Film:
    """Read a row; one film has no name ("unkonwn"), one has its year left in the title."""
    known = tuple(genre for genre in genres.split(" ") if genre and genre != "unknown")
    if year.isdecimal():
        return Film(item_id, title, int(year), known)
    match = _YEAR_IN_TITLE.match(title)
    if match is not None:
        return Film(item_id, match["title"], int(match["year"]), known)
    return Film(item_id, "", None, known)


def _rows(cache: Path, name: str) -> Iterator[list[str]]:
    """Read the fields of all lines but the header."""
    path = cache / _FOLDER / name
    try:
        lines = path.open(encoding="utf-8", newline="")
    except FileNotFoundError as exc:
        raise CommandError(f"MovieLens-100K is not there: {path} is missing", hint="`make data` fetches it") from exc
    with lines:
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        next(reader)
        yield from reader
