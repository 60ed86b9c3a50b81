"""Reads the rows of a CSV file so that a broken one costs no other, not even one with a quote too many."""

import csv
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Self

from recommend_cli.errors import CommandError

_MAX_CELL_CHARACTERS: Final = 16 << 20  # csv's own limit of 128 Ki is less than an item may have
_MAX_ROW_CHARACTERS: Final = 1 << 20  # of a row of several lines; no item has so much text, so a quote is not closed
_HEADER_SHOWN: Final = 200  # characters
_UNCLOSED: Final = "a quote is not closed, or stands inside a cell"


@dataclass(frozen=True, slots=True)
class Row:
    """A row's filled cells by column, or the reason why it cannot be read; its first and last line, from 1."""

    number: int
    last: int
    cells: dict[str, str] | str


def opened(path: Path) -> IO[bytes]:
    """Open a file.

    Raises:
        CommandError: It cannot be opened.
    """
    try:
        return path.open("rb")
    except OSError as exc:
        raise CommandError(f"{path} cannot be read: {exc.strerror}") from exc


def read_rows(path: Path, *, required: Sequence[str] = ()) -> Iterator[Row]:
    """Read the rows behind the header.

    A row may span lines, inside quotes. One that does and is broken is bad by its first line only: what follows is
    read again from the second, since one quote too many would otherwise swallow all lines up to the next quote.

    Args:
        path: The file.
        required: Columns without which no row is worth reading.

    Raises:
        CommandError: The file cannot be opened, or has no proper header.
    """
    csv.field_size_limit(_MAX_CELL_CHARACTERS)
    with opened(path) as file:
        lines = _Lines(file)
        reader = csv.reader(lines)
        header: list[str] | None = None
        for cells, broken in _parsed(reader, lines):
            if header is None:
                header = cells
                if broken or not header or len(set(header)) != len(header) or not all(header):
                    raise CommandError(
                        f"{path.name}: the first line must name each column once, and it is {broken or header}"
                    )
                if missing := [name for name in required if name not in header]:
                    raise CommandError(
                        f"{path.name}: the header lacks {', '.join(missing)}; columns are separated by commas",
                        hint=f"the first line is {','.join(header)[:_HEADER_SHOWN]}",
                    )
                continue
            if not cells and not broken:
                continue
            reason = broken or _fault(cells, header, lines.taken)
            number, last = lines.taken[0][0], lines.taken[-1][0]
            if reason:
                lines.give_back()
                yield Row(number, number, reason)
            else:
                yield Row(number, last, {name: cell for name, cell in zip(header, cells, strict=True) if cell})


class _Lines:
    """Feeds a csv.reader, remembers which lines its row took, and takes back all but the first."""

    def __init__(self, file: Iterable[bytes]) -> None:
        # Bytes that are not UTF-8 become lone surrogates, so that one bad line does not end the file.
        self._lines = (
            (number, text.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape"))
            for number, text in enumerate(file, start=1)
        )
        self._given_back: deque[tuple[int, str]] = deque()
        self._characters = 0
        self.taken: list[tuple[int, str]] = []
        self.ran_out = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = None
        if self._characters <= _MAX_ROW_CHARACTERS:
            line = self._given_back.popleft() if self._given_back else next(self._lines, None)
        if line is None:
            self.ran_out = True
            raise StopIteration
        self.taken.append(line)
        self._characters += len(line[1])
        return line[1]

    def begin_row(self) -> None:
        """Forget the lines of the row before."""
        self.taken = []
        self._characters = 0
        self.ran_out = False

    def give_back(self) -> None:
        """Have the row's lines but the first read again."""
        self._given_back.extendleft(reversed(self.taken[1:]))


def _parsed(reader: Iterator[list[str]], lines: _Lines) -> Iterator[tuple[list[str], str]]:
    """Give each row's cells, and why they are none."""
    while True:
        lines.begin_row()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as exc:
            yield [], f"not CSV: {exc}"
            continue
        # csv.reader asks for another line only inside quotes.
        yield cells, _UNCLOSED if lines.ran_out or not _is_strict(lines.taken) else ""


def _is_strict(taken: Sequence[tuple[int, str]]) -> bool:
    """Tell whether a row of several lines is closed as it should be; in one line a careless quote does no harm."""
    if len(taken) == 1:
        return True
    try:
        next(csv.reader((text for _, text in taken), strict=True))
    except csv.Error:
        return False
    return True


def _fault(cells: Sequence[str], header: Sequence[str], taken: Iterable[tuple[int, str]]) -> str:
    """Say what is wrong with a row, if anything is."""
    if len(cells) != len(header):
        return f"{len(cells)} cells where the header has {len(header)}"
    try:
        for _, text in taken:
            text.encode()
    except UnicodeEncodeError:
        return "not UTF-8"
    return ""
