"""Decides what the columns of a CSV file of items hold, and reads their cells as that."""

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

LIST_SEPARATOR: Final = "|"
_FLAGS: Final = {"true": True, "false": False}
_LARGEST_EXACT: Final = 2**53
_NEARLY_ALL: Final = 0.9
_LEAST_CELLS: Final = 10  # below, one cell is too large a part to be called odd
_CHARACTERS_SHOWN: Final = 100


class Kind(Enum):
    """What the cells of a column are read as."""

    NUMBER = "numbers"
    FLAG = "true or false"
    LIST = "lists"
    TEXT = "texts"


@dataclass(slots=True)
class Column:
    """What was seen of a column; takes its filled cells one by one, then tells its kind.

    One odd cell among numbers is an error in that cell, and no reason to turn the numbers into texts, on which no
    comparison works. Many are: a column of ids may well have digits only in most of its cells.
    """

    name: str
    _filled: int = 0
    _numbers: int = 0
    _inexact: int = 0
    _not_finite: int = 0
    _flags: int = 0
    _lists: int = 0
    _first_other: dict[Kind, str] = field(default_factory=dict)

    def add(self, cell: str, line: int) -> None:
        """Look at a cell."""
        self._filled += 1
        self._lists += LIST_SEPARATOR in cell
        number = _number(cell)
        if number is None:
            self._first_other.setdefault(Kind.NUMBER, f"{cell[:_CHARACTERS_SHOWN]!r} on line {line}")
        elif not math.isfinite(number):
            self._not_finite += 1
        elif _is_exact(cell, number):
            self._numbers += 1
        else:
            self._inexact += 1
        if _flag(cell) is None:
            self._first_other.setdefault(Kind.FLAG, f"{cell[:_CHARACTERS_SHOWN]!r} on line {line}")
        else:
            self._flags += 1

    @property
    def kind(self) -> Kind:
        """What the column is read as."""
        if self._lists:
            return Kind.LIST
        # NaN stands for a number that is not known, so it speaks against no column of numbers; it is still refused.
        # A column whose whole numbers are mostly too large for numbers holds ids.
        if self._inexact <= self._numbers and _are_nearly_all(
            self._numbers + self._inexact, self._filled - self._not_finite
        ):
            return Kind.NUMBER
        return Kind.FLAG if _are_nearly_all(self._flags, self._filled) else Kind.TEXT

    @property
    def note(self) -> str:
        """What to tell a person who meant the column to be something else; empty when nobody would."""
        kind = self.kind
        begin = f"Column {self.name} is read as {kind.value}:"
        if kind is Kind.TEXT and self._inexact > max(self._numbers, self._filled // 2):
            return f"{begin} its whole numbers are beyond 2^53, where numbers lose digits"
        for meant, count in ((Kind.NUMBER, self._numbers), (Kind.FLAG, self._flags)):
            if kind is not meant and count > self._filled // 2 and meant in self._first_other:
                return f"{begin} most of its cells are {meant.value}, {self._first_other[meant]} is not"
        return ""


def read_number(name: str, cell: str) -> float:
    """Read a cell as a number.

    Raises:
        ValueError: It is none, or would be rounded; for people.
    """
    number = _number(cell)
    if number is None or not math.isfinite(number):
        raise ValueError(f"{name} is no number: {cell[:_CHARACTERS_SHOWN]!r}")
    if not _is_exact(cell, number):
        raise ValueError(
            f"{name}: whole numbers are kept exactly only up to 2^53, and this is {cell[:_CHARACTERS_SHOWN]}"
        )
    return number


def read_flag(name: str, cell: str) -> bool:
    """Read a cell as true or false, in any case.

    Raises:
        ValueError: It is neither; for people.
    """
    flag = _flag(cell)
    if flag is None:
        raise ValueError(f"{name} is neither true nor false: {cell[:_CHARACTERS_SHOWN]!r}")
    return flag


def read_cell(column: str, cell: str, kind: Kind) -> float | bool | str | list[str]:
    """Read a cell as what its column holds.

    Raises:
        ValueError: It is something else; for people.
    """
    match kind:
        case Kind.NUMBER:
            return read_number(column, cell)
        case Kind.FLAG:
            return read_flag(column, cell)
        case Kind.LIST:
            return [part for part in (text.strip() for text in cell.split(LIST_SEPARATOR)) if part]
        case Kind.TEXT:
            return cell


def _are_nearly_all(count: int, of: int) -> bool:
    return 0 < count == of or (of >= _LEAST_CELLS and count >= _NEARLY_ALL * of)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _is_exact(cell: str, number: float) -> bool:
    """Tell whether the number is what was written; only whole ones are looked at, as the gateway does in JSON."""
    digits = cell.strip().lstrip("+-")
    # A float beyond 2^53 cannot tell whether 2^53 + 1 was written; so many digits that int() refuses are too large.
    return not digits.isdecimal() or abs(number) < _LARGEST_EXACT or digits.lstrip("0") == str(_LARGEST_EXACT)


def _flag(cell: str) -> bool | None:
    return _FLAGS.get(cell.strip().lower())
