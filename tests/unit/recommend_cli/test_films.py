from pathlib import Path

import pytest

from recommend_cli.datasets.films import Credits, FilmDatabase
from recommend_cli.datasets.movielens import read_films, read_ratings
from recommend_cli.datasets.titles import folded, names, readable
from recommend_cli.errors import CommandError


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Usual Suspects, The", "The Usual Suspects"),
        ("Usual Suspects, The (1995)", "The Usual Suspects (1995)"),
        ("Horseman on the Roof, The (Hussard sur le toit, Le)", "The Horseman on the Roof (Hussard sur le toit, Le)"),
        ("Toy Story", "Toy Story"),
        ("Good, The Bad and The Ugly, The", "The Good, The Bad and The Ugly"),
        ("Avventura, L'", "L'Avventura"),
        ("", ""),
    ],
)
def test_readable_titles(title: str, expected: str) -> None:
    assert readable(title) == expected


def test_the_names_in_a_title() -> None:
    assert names("Horseman on the Roof, The (Hussard sur le toit, Le)") == [
        "The Horseman on the Roof",
        "Le Hussard sur le toit",
    ]
    assert names("Shall We Dance? (a.k.a. Shall We Dansu?)") == ["Shall We Dance?", "Shall We Dansu?"]


def test_folding_makes_spellings_equal() -> None:
    assert folded("Amélie & the King's  Men!") == folded("AMELIE and the Kings Men")


def _credits(title: str, year: int) -> Credits:
    return Credits(title, year, (title,), (), ())


def test_finds_by_title_and_year() -> None:
    database = FilmDatabase(
        [
            _credits("The Usual Suspects", 1995),
            _credits("Sabrina", 1954),
            _credits("Sabrina", 1995),
            _credits("Star Wars: Episode IV \N{EN DASH} A New Hope", 1977),
            _credits("Twins", 1988),
            _credits("Twins", 1988),
            _credits("Ridicule", 1997),
        ]
    )

    def found(title: str, year: int) -> tuple[str, int] | None:
        film = database.find(title, year)
        return (film.title, film.year) if film else None

    assert found("Usual Suspects, The", 1995) == ("The Usual Suspects", 1995)
    assert found("Sabrina", 1995) == ("Sabrina", 1995)
    assert found("Sabrina", 1954) == ("Sabrina", 1954)
    assert found("Sabrina", 1970) is None
    assert found("Ridicule", 1996) == ("Ridicule", 1997)
    assert found("Star Wars", 1977) == ("Star Wars: Episode IV \N{EN DASH} A New Hope", 1977)
    assert found("Star Wars", 1978) is None
    assert found("Twins", 1988) is None


def test_reads_the_files_in_their_order(tmp_path: Path) -> None:
    folder = tmp_path / "recbole" / "dataset_example" / "ml-100k"
    folder.mkdir(parents=True)
    (folder / "ml-100k.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n22\t377\t1\t878887116\n"
    )
    (folder / "ml-100k.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "12\tUsual Suspects, The\t1995\tCrime Thriller\n"
        "267\tunkonwn\tunkonwn\tunknown\n"
        '1412\tSay "Aah" (1995)\tV\tAnimation Children\'s\n'
    )
    ratings = read_ratings(tmp_path)
    assert ratings.users.tolist() == [196, 22]
    assert ratings.items.tolist() == [242, 377]
    assert ratings.values.tolist() == [3, 1]
    assert ratings.times_s.tolist() == [881250949, 878887116]
    films = read_films(tmp_path)
    assert [film.title for film in films] == ["Usual Suspects, The", "", 'Say "Aah"']
    assert [film.year for film in films] == [1995, None, 1995]
    assert [film.genres for film in films] == [("Crime", "Thriller"), (), ("Animation", "Children's")]


def test_missing_data_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(CommandError) as caught:
        read_ratings(tmp_path)
    assert "make data" in caught.value.hint
