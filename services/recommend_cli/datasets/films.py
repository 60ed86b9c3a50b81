"""Directors, actors and countries of films, from the CC0 film database of the package bokeh-sampledata."""

import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from recommend_cli.datasets.titles import folded, names, parts
from recommend_cli.errors import CommandError

_DATABASE: Final = Path("bokeh_sampledata", "_data", "movies.db")
_SEPARATOR: Final = re.compile(r",(?!\s*(?:Jr|Sr)\.)")
_YEARS_APART: Final = (0, 1)  # a festival's year and a release's differ by one


@dataclass(frozen=True, slots=True)
class Credits:
    """Who made a film and where."""

    title: str
    year: int
    directors: tuple[str, ...]
    actors: tuple[str, ...]
    countries: tuple[str, ...]


class FilmDatabase:
    """Finds the credits of a film by its title and year."""

    def __init__(self, films: Iterable[Credits]) -> None:
        self._by_title: dict[str, list[Credits]] = defaultdict(list)
        self._by_part: dict[str, list[Credits]] = defaultdict(list)
        for film in films:
            self._by_title[folded(film.title)].append(film)
            for part in parts(film.title):
                self._by_part[folded(part)].append(film)

    def find(self, title: str, year: int) -> Credits | None:
        """Give the one film of that name and year, or nothing when there is none or several.

        A name matches as a whole, in the same year or the next one; failing that as one part of a longer title in the
        same year ("Star Wars" finds "Star Wars: Episode IV: A New Hope").
        """
        searched = [folded(name) for name in names(title)]
        for years_apart in _YEARS_APART:
            for name in searched:
                found = [film for film in self._by_title.get(name, ()) if abs(film.year - year) <= years_apart]
                if len(found) == 1:
                    return found[0]
        found = [film for name in searched for film in self._by_part.get(name, ()) if film.year == year]
        return found[0] if len(found) == 1 else None


def read_film_database(cache: Path) -> FilmDatabase:
    """Read the database in the cache.

    Raises:
        CommandError: The data is not in the cache.
    """
    path = cache / _DATABASE
    if not path.exists():
        raise CommandError(f"The film database is not there: {path} is missing", hint="`make data` fetches it")
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as connection:
        rows = connection.execute('SELECT "Title", "Year", "Director", "Cast", "Country" FROM omdb')
        return FilmDatabase(
            Credits(title, year, _listed(directors), _listed(actors), _listed(countries))
            for title, year, directors, actors, countries in rows
        )


def _listed(text: str | None) -> tuple[str, ...]:
    """Split at commas, but not before the "Jr." of a name."""
    return tuple(dict.fromkeys(name.strip() for name in _SEPARATOR.split(text or "") if name.strip()))
