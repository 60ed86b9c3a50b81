"""Attributes as columns: the fields of many items, each ready to be compared at once for all of them.

The rows are item numbers. Texts are kept as 64-bit hashes with the rows that have them, so that a column of a million
different texts costs what it costs in numbers and compares exactly as far as such hashes can.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Protocol

import numpy as np
import numpy.typing as npt

from servicekit.arrays import Ints
from servicekit.filters import AttributeValue, Operator, Predicate
from vector_search.domain.items import Fields

Mask = npt.NDArray[np.uint8]
"""[rows]: 1 where something holds, 0 elsewhere."""


def text_hash(text: str) -> int:
    """Give the hash by which a text is compared; stored columns depend on it."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True, slots=True)
class FieldColumn:
    """One field of all items. An attribute has one of the three types at each item, or is a list of texts."""

    present: Ints
    """Rows that have the field."""
    text_hashes: npt.NDArray[np.uint64]
    """[texts]: hashes of the different texts, sorted."""
    text_starts: npt.NDArray[np.int64]
    """[texts + 1]: where each text's rows begin in text_rows."""
    text_rows: Ints
    """Rows, text by text."""
    number_rows: Ints
    """Rows that hold a number."""
    numbers: npt.NDArray[np.float64]
    """The number of each."""
    flag_rows: Ints
    """Rows that hold a truth value."""
    flags: Mask
    """The truth value of each."""

    def passing(self, predicate: Predicate, rows: int) -> Mask:
        """Give the mask of a predicate on this field."""
        mask = np.zeros(rows, np.uint8)
        if predicate.operator is Operator.EXISTS:
            mask[self.present] = 1
            return mask if predicate.values[0] else 1 - mask
        if predicate.operator in {Operator.GTE, Operator.LTE}:
            bound = float(predicate.values[0])  # type: ignore[arg-type]  # checked: a number
            above = self.numbers >= bound if predicate.operator is Operator.GTE else self.numbers <= bound
            mask[self.number_rows[above]] = 1
            return mask
        for value in predicate.values:
            self._mark(value, mask)
        return 1 - mask if predicate.operator is Operator.NOT_IN else mask

    def _mark(self, value: AttributeValue, mask: Mask) -> None:
        if isinstance(value, bool):
            mask[self.flag_rows[self.flags == value]] = 1
        elif isinstance(value, str):
            wanted = np.uint64(text_hash(value))
            place = int(np.searchsorted(self.text_hashes, wanted))
            if place < len(self.text_hashes) and self.text_hashes[place] == wanted:
                mask[self.text_rows[self.text_starts[place] : self.text_starts[place + 1]]] = 1
        elif not isinstance(value, tuple):
            mask[self.number_rows[self.numbers == value]] = 1


class ColumnStore(Protocol):
    """Where a version's columns are; a column is read when a filter first names its field."""

    @property
    def rows(self) -> int:
        """How many items there are."""
        ...

    def column(self, name: str) -> FieldColumn | None:
        """Give a field's column, None when no item has the field."""
        ...


def passing(columns: ColumnStore, predicate: Predicate) -> Mask:
    """Give the mask of a predicate over all rows; one row for each item."""
    column = columns.column(predicate.field)
    return (_ABSENT if column is None else column).passing(predicate, columns.rows)


@dataclass(slots=True)
class _Growing:
    """A column while its items come by."""

    present: list[int] = field(default_factory=list)
    texts: dict[int, list[int]] = field(default_factory=dict)
    number_rows: list[int] = field(default_factory=list)
    numbers: list[float] = field(default_factory=list)
    flag_rows: list[int] = field(default_factory=list)
    flags: list[bool] = field(default_factory=list)

    def add(self, row: int, value: AttributeValue) -> None:
        self.present.append(row)
        if isinstance(value, bool):
            self.flag_rows.append(row)
            self.flags.append(value)
        elif isinstance(value, str | tuple):
            for text in {value} if isinstance(value, str) else set(value):
                self.texts.setdefault(text_hash(text), []).append(row)
        else:
            self.number_rows.append(row)
            self.numbers.append(float(value))

    def finish(self) -> FieldColumn:
        hashes = np.array(sorted(self.texts), np.uint64)
        lists = [self.texts[int(each)] for each in hashes]
        return FieldColumn(
            present=np.array(self.present, np.int32),
            text_hashes=hashes,
            text_starts=np.concatenate(
                [np.zeros(1, np.int64), np.cumsum([len(rows) for rows in lists], dtype=np.int64)]
            ),
            text_rows=np.array([row for rows in lists for row in rows], np.int32),
            number_rows=np.array(self.number_rows, np.int32),
            numbers=np.array(self.numbers, np.float64),
            flag_rows=np.array(self.flag_rows, np.int32),
            flags=np.array(self.flags, np.uint8),
        )


def build_columns(items: Iterable[Fields]) -> dict[str, FieldColumn]:
    """Turn the fields of items, in the order of their rows, into columns by name."""
    growing: dict[str, _Growing] = {}
    for row, fields in enumerate(items):
        for name, value in fields.items():
            growing.setdefault(name, _Growing()).add(row, value)
    return {name: column.finish() for name, column in growing.items()}


_ABSENT = _Growing().finish()


@dataclass(frozen=True, slots=True)
class MemoryColumns:
    """Columns that are all in memory."""

    columns: Mapping[str, FieldColumn]
    rows: int

    def column(self, name: str) -> FieldColumn | None:
        """Give a field's column, None when no item has the field."""
        return self.columns.get(name)


NO_COLUMNS = MemoryColumns({}, 0)
