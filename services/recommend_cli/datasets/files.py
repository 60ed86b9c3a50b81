"""Reads items and interactions from JSON lines and CSV files, line by line, and says which lines are bad.

JSON lines (.jsonl, .ndjson, .json): one object a line, in the words of the REST gateway. CSV: a header row names the
fields, an empty cell is an absent value, and in a file of items a column that is no field of an item becomes an
attribute: numbers, true/false, lists ("Action|Crime") or texts, whichever (nearly) the whole column can be read as.
"""

import codecs
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import orjson

from recommend_cli.datasets.columns import Column, Kind, read_cell, read_flag, read_number
from recommend_cli.datasets.csv_rows import opened, read_rows
from recommend_cli.errors import CommandError

Record = dict[str, Any]

_JSON_SUFFIXES: Final = frozenset({".jsonl", ".ndjson", ".json"})
_BEGINS_AN_ARRAY: Final = re.compile(rb"\s*\[\s*(\{|\]|$)")
_ITEM_COLUMNS: Final = ("item_id",)
_INTERACTION_COLUMNS: Final = ("user_id", "item_id")
_ITEM_FIELDS: Final = frozenset(
    {
        "item_id",
        "item_type",
        "title",
        "description",
        "created_at",
        "available_from",
        "available_until",
        "hidden",
    }
)


@dataclass(frozen=True, slots=True)
class Line:
    """A record and the number of the line where it begins, counted from 1."""

    number: int
    record: Record


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no record, and why."""

    number: int
    reason: str


def read_items(
    path: Path, *, item_type: str, tell: Callable[[str], None] = lambda _: None
) -> Iterator[Line | BadLine]:  # fmt: skip
    """Read items; those that do not name their type get the given one.

    Args:
        path: The file.
        item_type: The type of those that name none.
        tell: Takes a sentence on each column of a CSV file that is read as something else than most of its cells are.

    Raises:
        CommandError: The file cannot be read as a whole.
    """
    if _is_json(path):
        lines = _json_lines(path)
    else:
        columns = _columns(path)
        for note in filter(None, (column.note for column in columns)):
            tell(note)
        kinds = {column.name: column.kind for column in columns}
        lines = _csv_lines(path, lambda cells: _item_from_cells(cells, kinds), _ITEM_COLUMNS)
    return (_completed(line, {"item_type": item_type}) for line in lines)


def read_interactions(path: Path, *, item_type: str, interaction_type: str) -> Iterator[Line | BadLine]:
    """Read interactions; those that do not name their types get the given ones.

    A record without `event_id` gets one made from its content and from how often the same content came before in the
    file, so that loading a file again, or a longer one with the same beginning, changes nothing that is there.

    Raises:
        CommandError: The file cannot be read as a whole.
    """
    lines = _json_lines(path) if _is_json(path) else _csv_lines(path, _interaction_from_cells, _INTERACTION_COLUMNS)
    repetitions: Counter[bytes] = Counter()
    for line in lines:
        completed = _completed(line, {"item_type": item_type, "interaction_type": interaction_type})
        if isinstance(completed, Line) and completed.record.get("event_id") is None:
            completed.record.pop("event_id", None)
            content = orjson.dumps(completed.record, option=orjson.OPT_SORT_KEYS)
            digest = blake2b(content, digest_size=12)
            repetitions[digest.digest()] += 1
            completed.record["event_id"] = f"file-{digest.hexdigest()}-{repetitions[digest.digest()]}"
        yield completed


def _is_json(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix in _JSON_SUFFIXES:
        return True
    if suffix == ".csv":
        return False
    raise CommandError(
        f"{path.name} is neither JSON lines nor CSV by its name", hint="name it .jsonl, .ndjson, .json or .csv"
    )


def _completed(line: Line | BadLine, defaults: Mapping[str, str]) -> Line | BadLine:
    if isinstance(line, BadLine):
        return line
    given = {name: value for name, value in line.record.items() if value is not None or name not in defaults}
    return Line(line.number, {**defaults, **given})


def _json_lines(path: Path) -> Iterator[Line | BadLine]:
    """Read one object after the other.

    Raises:
        CommandError: The file is one array of them.
    """
    begun = False
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            text = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if not text.strip():
                continue
            if not begun and _BEGINS_AN_ARRAY.match(text):
                name = shlex.quote(str(path))
                raise CommandError(
                    f"{path.name} is to hold one object per line, not an array",
                    hint=f"`jq -c '.[]' {name} > {shlex.quote(path.stem)}.jsonl` makes lines of it",
                )
            begun = True
            try:
                record = orjson.loads(text)
                orjson.dumps([[record]])  # as deep as a bulk has it; orjson reads deeper nesting than it writes
            except orjson.JSONDecodeError as exc:
                yield BadLine(number, f"not JSON: {exc.msg} at column {exc.colno}")
            except orjson.JSONEncodeError:
                yield BadLine(number, "nested too deeply")
            else:
                yield Line(number, record) if isinstance(record, dict) else BadLine(number, "not a JSON object")


def _csv_lines(
    path: Path, convert: Callable[[dict[str, str]], Record], required: Sequence[str]
) -> Iterator[Line | BadLine]:
    """Read the rows behind the header; `convert` raises ValueError for cells that make no record."""
    for row in read_rows(path, required=required):
        if isinstance(row.cells, str):
            yield BadLine(row.number, row.cells)
            continue
        try:
            yield Line(row.number, convert(row.cells))
        except ValueError as exc:
            # A quote too many can make one row of several lines: whoever misses the others finds them here.
            end = f" (the row ends on line {row.last})" if row.last > row.number else ""
            yield BadLine(row.number, f"{exc}{end}")


def _columns(path: Path) -> list[Column]:
    """Read the file once to see what its columns hold."""
    columns: dict[str, Column] = {}
    for row in read_rows(path, required=_ITEM_COLUMNS):
        if isinstance(row.cells, str):
            continue
        for name, cell in row.cells.items():
            if name not in _ITEM_FIELDS:
                columns.setdefault(name, Column(name)).add(cell, row.number)
    return list(columns.values())


def _item_from_cells(cells: dict[str, str], kinds: Mapping[str, Kind]) -> Record:
    record: Record = {name: cell for name, cell in cells.items() if name in _ITEM_FIELDS}
    if "hidden" in record:
        record["hidden"] = read_flag("hidden", record["hidden"])
    attributes = {name: read_cell(name, cell, kinds[name]) for name, cell in cells.items() if name not in _ITEM_FIELDS}
    return {**record, "attributes": attributes} if attributes else record


def _interaction_from_cells(cells: dict[str, str]) -> Record:
    if "value" not in cells:
        return dict(cells)
    return {**cells, "value": read_number("value", cells["value"])}
