"""Reads items and interactions from JSON lines and CSV files, line by line, and says which lines are bad.

JSON lines (.jsonl, .ndjson, .json): one object a line, in the words of the REST gateway. CSV: a header row names the
fields, an empty cell is an absent value, and in a file of items a column that is no field of an item becomes an
attribute: numbers, true/false, lists ("Action|Crime") or texts, whichever the whole column can be read as.
"""

import csv
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import orjson

from recommend_cli.errors import CommandError

Record = dict[str, Any]

LIST_SEPARATOR: Final = "|"
_JSON_SUFFIXES: Final = frozenset({".jsonl", ".ndjson", ".json"})
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
    """A record and the number of the line where it ends, counted from 1."""

    number: int
    record: Record


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no record, and why."""

    number: int
    reason: str


def read_items(path: Path, *, item_type: str) -> Iterator[Line | BadLine]:
    """Read items; those that do not name their type get the given one.

    Raises:
        CommandError: The file cannot be read as a whole.
    """
    if _is_json(path):
        lines = _json_lines(path)
    else:
        kinds = _column_kinds(path)
        lines = _csv_lines(path, lambda cells: _item_from_cells(cells, kinds))
    return (_completed(line, {"item_type": item_type}) for line in lines)


def read_interactions(path: Path, *, item_type: str, interaction_type: str) -> Iterator[Line | BadLine]:
    """Read interactions; those that do not name their types get the given ones.

    A record without `event_id` gets one made from its content and from how often the same content came before in the
    file, so that loading a file again, or a longer one with the same beginning, changes nothing that is there.

    Raises:
        CommandError: The file cannot be read as a whole.
    """
    lines = _json_lines(path) if _is_json(path) else _csv_lines(path, _interaction_from_cells)
    repetitions: Counter[bytes] = Counter()
    for line in lines:
        completed = _completed(line, {"item_type": item_type, "interaction_type": interaction_type})
        if isinstance(completed, Line) and "event_id" not in completed.record:
            content = orjson.dumps(completed.record, option=orjson.OPT_SORT_KEYS)
            digest = blake2b(content, digest_size=12)
            repetitions[digest.digest()] += 1
            completed.record["event_id"] = f"file-{digest.hexdigest()}-{repetitions[digest.digest()]}"
        yield completed


def _is_json(path: Path) -> bool:
    if path.suffix in _JSON_SUFFIXES:
        return True
    if path.suffix == ".csv":
        return False
    raise CommandError(
        f"{path.name} is neither JSON lines nor CSV by its name", hint="name it .jsonl, .ndjson, .json or .csv"
    )


def _completed(line: Line | BadLine, defaults: Mapping[str, str]) -> Line | BadLine:
    return line if isinstance(line, BadLine) else Line(line.number, {**defaults, **line.record})


def _json_lines(path: Path) -> Iterator[Line | BadLine]:
    with _opened(path) as file:
        for number, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                record = orjson.loads(text)
            except orjson.JSONDecodeError as exc:
                yield BadLine(number, f"not JSON: {exc.msg} at column {exc.colno}")
                continue
            yield Line(number, record) if isinstance(record, dict) else BadLine(number, "not a JSON object")


def _csv_lines(path: Path, convert: Callable[[dict[str, str]], Record]) -> Iterator[Line | BadLine]:
    """Read the rows behind the header; `convert` raises ValueError for cells that make no record."""
    for number, cells in _csv_rows(path):
        if isinstance(cells, str):
            yield BadLine(number, cells)
            continue
        try:
            yield Line(number, convert(cells))
        except ValueError as exc:
            yield BadLine(number, str(exc))


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, str] | str]]:
    """Read each row as its cells that are not empty, or as the reason why it cannot be read."""
    with _opened(path) as file:
        # Bytes that are not UTF-8 become lone surrogates, so that one bad line does not end the file.
        texts = (text.decode("utf-8-sig" if at == 0 else "utf-8", "surrogateescape") for at, text in enumerate(file))
        reader = csv.reader(texts)
        header = next(reader, [])
        if len(set(header)) != len(header) or not all(header):
            raise CommandError(f"{path.name}: the first line must name each column once, and it is {header}")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                yield reader.line_num, f"{len(cells)} cells where the header has {len(header)}"
            elif any("\udc80" <= character <= "\udcff" for cell in cells for character in cell):
                yield reader.line_num, "not UTF-8"
            else:
                yield reader.line_num, {name: cell for name, cell in zip(header, cells, strict=True) if cell}


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as exc:
        raise CommandError(f"{path} cannot be read: {exc.strerror}") from exc


class _Kind(Enum):
    """What all cells of a column can be read as."""

    NUMBER = "number"
    FLAG = "flag"
    LIST = "list"
    TEXT = "text"


def _column_kinds(path: Path) -> dict[str, _Kind]:
    """Read the file once to see what its columns hold."""
    candidates: dict[str, set[_Kind]] = {}
    for _, cells in _csv_rows(path):
        if isinstance(cells, str):
            continue
        for name, cell in cells.items():
            kinds = candidates.setdefault(name, {_Kind.NUMBER, _Kind.FLAG})
            if LIST_SEPARATOR in cell:
                kinds.add(_Kind.LIST)
            if _Kind.NUMBER in kinds and not _is_number(cell):
                kinds.discard(_Kind.NUMBER)
            if _Kind.FLAG in kinds and cell not in {"true", "false"}:
                kinds.discard(_Kind.FLAG)
    return {
        name: next((kind for kind in (_Kind.NUMBER, _Kind.FLAG, _Kind.LIST) if kind in kinds), _Kind.TEXT)
        for name, kinds in candidates.items()
    }


def _item_from_cells(cells: dict[str, str], kinds: Mapping[str, _Kind]) -> Record:
    record: Record = {name: cell for name, cell in cells.items() if name in _ITEM_FIELDS}
    if "hidden" in record:
        record["hidden"] = _flag(record["hidden"], "hidden")
    attributes = {name: _attribute(cell, kinds[name]) for name, cell in cells.items() if name not in _ITEM_FIELDS}
    return {**record, "attributes": attributes} if attributes else record


def _attribute(cell: str, kind: _Kind) -> float | bool | str | list[str]:
    match kind:
        case _Kind.NUMBER:
            return float(cell)
        case _Kind.FLAG:
            return cell == "true"
        case _Kind.LIST:
            return [part for part in (text.strip() for text in cell.split(LIST_SEPARATOR)) if part]
        case _Kind.TEXT:
            return cell


def _interaction_from_cells(cells: dict[str, str]) -> Record:
    if "value" not in cells:
        return dict(cells)
    if not _is_number(cells["value"]):
        raise ValueError(f"value is no number: {cells['value']!r}")
    return {**cells, "value": float(cells["value"])}


def _flag(cell: str, name: str) -> bool:
    if cell not in {"true", "false"}:
        raise ValueError(f"{name} is neither true nor false: {cell!r}")
    return cell == "true"


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False
