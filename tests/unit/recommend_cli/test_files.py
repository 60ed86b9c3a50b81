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
        "1,1984,1984,Drama|Sci-Fi,true,7,False\n"
        '2,"Two, and\nmore",,Drama,False,A7,\n',
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
        ("items.csv", "item_id;title\n1;a\n", "the header lacks item_id; columns are separated by commas"),
        ("items.json", '[{"item_id": "1"}, {"item_id": "2"}]', "one object per line, not an array"),
        ("items.json", '\ufeff\n[\n  {"item_id": "1"}\n]\n', "one object per line, not an array"),
    ],
)
def test_files_that_cannot_be_read_at_all(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = _file(tmp_path, name, content)
    with pytest.raises(CommandError, match=message):
        list(read_items(path, item_type="film"))


def test_interactions_need_their_columns_too(tmp_path: Path) -> None:
    path = _file(tmp_path, "clicks.csv", "user;item_id\n1;2\n")
    with pytest.raises(CommandError, match="the header lacks user_id, item_id") as refused:
        list(read_interactions(path, item_type="film", interaction_type="view"))
    assert "user;item_id" in refused.value.hint


def test_a_line_that_is_a_list_costs_no_other_not_even_the_first(tmp_path: Path) -> None:
    path = _file(tmp_path, "items.jsonl", '[1, 2]\n{"item_id": "1"}\n[{"item_id": "2"}]\n')
    assert _records(list(read_items(path, item_type="film"))) == {
        1: "not a JSON object",
        2: {"item_type": "film", "item_id": "1"},
        3: "not a JSON object",
    }


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="No such file"):
        list(read_items(tmp_path / "gone.csv", item_type="film"))


def _items(folder: Path, rows: list[str], *, told: list[str] | None = None) -> dict[int, Any]:
    path = _file(folder, "items.csv", "\n".join(rows) + "\n")
    notes = list[str]() if told is None else told
    return _records(list(read_items(path, item_type="film", tell=notes.append)))


def test_a_cell_may_be_long_and_one_that_is_far_too_long_costs_no_other_line(tmp_path: Path) -> None:
    records = _items(tmp_path, ["item_id,title", "1," + "x" * 200_000, "2," + "x" * (17 << 20), "3,a"])
    assert len(records[2]["title"]) == 200_000
    assert records[3].startswith("not CSV: field larger")
    assert records[4]["item_id"] == "3"


@pytest.mark.parametrize(
    "rows",
    [
        ['1,"a,1', "2,b,2", "3,c,3"],  # open to the end
        ['1,"a,1', "2,b,2", '3,"c, d",3'],  # open to the next quote
        ['1,"a,1', "2,b,2", '3,"c",3'],  # and with as many cells as there should be
        ['1,"a,1', "2,b,2", '3,"c\nd",3'],  # before a row that may span lines
        ['1,"a,1', "2,b,2", *(f"{at},{'x' * 1_000},1" for at in range(3, 2_000))],  # so far that nobody means it
    ],
)
def test_an_open_quote_costs_its_own_line_only(tmp_path: Path, rows: list[str]) -> None:
    records = _items(tmp_path, ["item_id,title,year", "0,z,0", *rows])
    assert "quote" in records[3]
    assert [record["item_id"] for number, record in records.items() if number != 3] == ["0", *(
        row.partition(",")[0] for row in rows[1:]
    )]  # fmt: skip


def test_a_bad_row_of_several_lines_says_where_it_ends(tmp_path: Path) -> None:
    records = _items(tmp_path, ["item_id,title,hidden", '1,"a', 'b",perhaps', "2,c,"])
    assert records[2] == "hidden is neither true nor false: 'perhaps' (the row ends on line 3)"
    assert records[4]["item_id"] == "2"


@pytest.mark.parametrize("odd", ["abc", "nan", "9007199254740993"])
def test_an_odd_cell_among_numbers_is_a_bad_line(tmp_path: Path, odd: str) -> None:
    told = list[str]()
    records = _items(
        tmp_path, ["item_id,year", *(f"{at},{odd if at == 5 else 1990 + at}" for at in range(12))], told=told
    )
    assert records.pop(7) == (
        "year: whole numbers are kept exactly only up to 2^53, and this is 9007199254740993"
        if odd.startswith("9")
        else f"year is no number: {odd!r}"
    )
    assert {type(record["attributes"]["year"]) for record in records.values()} == {float}
    assert not told


def test_an_odd_cell_among_flags_is_a_bad_line(tmp_path: Path) -> None:
    records = _items(tmp_path, ["item_id,new", *(f"{at},{'maybe' if at == 5 else 'True'}" for at in range(12))])
    assert records.pop(7) == "new is neither true nor false: 'maybe'"
    assert all(record["attributes"]["new"] is True for record in records.values())


@pytest.mark.parametrize(
    ("cells", "note"),
    [
        (["A7" if at % 5 == 0 else str(at) for at in range(20)], "most of its cells are numbers, 'A7' on line 2 is"),
        (["1990", "abc", "1999"], "most of its cells are numbers, 'abc' on line 3 is not"),
        (["9007199254740993", "9007199254740995"], "beyond 2^53"),
        ([*["7"] * 20, "7|8"], "most of its cells are numbers, '7|8' on line 22 is not"),
        (["A7", "B8", "9"], ""),
    ],
)
def test_a_column_of_mixed_cells_is_kept_as_it_is_written_and_told(
    tmp_path: Path, cells: list[str], note: str
) -> None:  # fmt: skip
    told = list[str]()
    rows = [f"{at},{cell}" for at, cell in enumerate(cells)]
    records = _items(tmp_path, ["item_id,ref", *rows], told=told)
    kept = [record["attributes"]["ref"] for record in records.values()]
    assert kept == ([cell.split("|") for cell in cells] if "7|8" in cells else cells)
    assert len(told) == bool(note)
    assert note in "".join(told)


def test_whole_numbers_are_read_up_to_2_to_53(tmp_path: Path) -> None:
    records = _items(tmp_path, ["item_id,n", "1,9007199254740992", "2,-9007199254740993", "3,1e300", "4,1"])
    assert records[2]["attributes"]["n"] == 2.0**53
    assert "2^53" in records[3]
    assert records[4]["attributes"]["n"] == 1e300


def test_json_as_other_programs_write_it(tmp_path: Path) -> None:
    deep = b'{"item_id": "3", "attributes": {"a": ' + b"[" * 300 + b"]" * 300 + b"}}"
    path = _file(tmp_path, "UP.JSONL", b'\xef\xbb\xbf{"item_id": "1", "item_type": null}\n' + deep + b"\n")
    records = _records(list(read_items(path, item_type="film")))
    assert records == {1: {"item_id": "1", "item_type": "film"}, 2: "nested too deeply"}


def test_an_event_id_of_null_is_none(tmp_path: Path) -> None:
    def read(name: str, content: str) -> dict[int, Any]:
        path = _file(tmp_path, name, content)
        return _records(list(read_interactions(path, item_type="film", interaction_type="view")))

    absent = read("a.jsonl", '{"user_id": "anna", "item_id": "1"}\n')
    assert read("b.jsonl", '{"user_id": "anna", "item_id": "1", "event_id": null, "item_type": null}\n') == absent
    assert absent[1]["event_id"]
