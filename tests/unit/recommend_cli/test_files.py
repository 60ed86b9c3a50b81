from pathlib import Path
from typing import Any

import pytest

from recommend_cli.datasets.files import BadLine, Line, read_interactions, read_items
from recommend_cli.errors import CommandError


def _file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _records(lines: list[Line | BadLine]) -> dict[int, Any]:
    return {line.number: line.record if isinstance(line, Line) else line.reason for line in lines}


def test_good_json_lines_are_read_and_bad_ones_named(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        "items.jsonl",
        b'{"item_id": "1", "title": "One"}\n'
        b"\n"
        b'{"item_id": "2", "item_type": "book", "attributes": {"year": 1995}}\n'
        b'{"item_id": \n'
        b"[1, 2]\n"
        b'{"item_id": "3", "score": NaN}\n'
        b'{"item_id": "\xff"}\n'
        b'{"item_id": "4"}',
    )
    records = _records(list(read_items(path, item_type="film")))
    assert records[1] == {"item_type": "film", "item_id": "1", "title": "One"}
    assert records[3]["item_type"] == "book"
    assert records[4].startswith("not JSON")
    assert records[5] == "not a JSON object"
    assert records[6].startswith("not JSON")
    assert records[7].startswith("not JSON")
    assert records[8] == {"item_type": "film", "item_id": "4"}


def test_csv_columns_become_attributes_of_their_kind(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        "items.csv",
        "\ufeffitem_id,title,year,genres,classic,code,hidden\n"
        "1,1984,1984,Drama|Sci-Fi,true,7,false\n"
        '2,"Two, and\nmore",,Drama,false,A7,\n',
    )
    first, second = (line.record for line in read_items(path, item_type="film") if isinstance(line, Line))
    assert first == {
        "item_type": "film",
        "item_id": "1",
        "title": "1984",
        "hidden": False,
        "attributes": {"year": 1984.0, "genres": ["Drama", "Sci-Fi"], "classic": True, "code": "7"},
    }
    assert second["title"] == "Two, and\nmore"
    assert second["attributes"] == {"genres": ["Drama"], "classic": False, "code": "A7"}


def test_bad_csv_lines_are_named_and_the_others_read(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        "interactions.csv",
        b"user_id,item_id,value\nanna,1,4.5\nanna,2\nbert,3,many\nbert,4,nan\nb\xffrt,5,1\nbert,6,\n",
    )
    records = _records(list(read_interactions(path, item_type="film", interaction_type="rating")))
    assert records[2]["value"] == 4.5
    assert records[3] == "2 cells where the header has 3"
    assert "no number" in records[4]
    assert "no number" in records[5]
    assert records[6] == "not UTF-8"
    assert "value" not in records[7]


def test_event_ids_depend_on_content_and_repetition_only(tmp_path: Path) -> None:
    lines = ["anna,1,view", "bert,1,view", "anna,1,view"]
    header = "user_id,item_id,interaction_type\n"

    def ids(name: str, rows: list[str]) -> list[str]:
        path = _file(tmp_path, name, header + "\n".join(rows) + "\n")
        read = read_interactions(path, item_type="film", interaction_type="view")
        return [line.record["event_id"] for line in read if isinstance(line, Line)]

    first = ids("a.csv", lines)
    assert len(set(first)) == 3
    assert ids("b.csv", lines) == first
    assert sorted(ids("c.csv", [lines[1], lines[0], lines[2]])) == sorted(first)
    assert ids("d.csv", [*lines, "carl,1,view"])[:3] == first


def test_a_given_event_id_stays(tmp_path: Path) -> None:
    path = _file(tmp_path, "x.jsonl", '{"event_id": "mine", "user_id": "anna", "item_id": "1"}\n')
    (line,) = read_interactions(path, item_type="film", interaction_type="view")
    assert isinstance(line, Line)
    assert line.record["event_id"] == "mine"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("items.txt", "x", "neither JSON lines nor CSV"),
        ("items.csv", "a,a\n1,2\n", "name each column once"),
        ("items.csv", "a,\n1,2\n", "name each column once"),
    ],
)
def test_files_that_cannot_be_read_at_all(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = _file(tmp_path, name, content)
    with pytest.raises(CommandError, match=message):
        list(read_items(path, item_type="film"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="No such file"):
        list(read_items(tmp_path / "gone.csv", item_type="film"))
