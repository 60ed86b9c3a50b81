"""The items of a version as columns: made from `items.bin` once, then read from a file of this machine.

Reading 50,000 messages takes seconds and reading the columns milliseconds, and every start needs them.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import fields as fields_of_class
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recommendation.common.v1 import common_pb2
from servicekit.errors import FailedPreconditionError
from vector_search.convert import item_from_message
from vector_search.domain.catalogue import ALWAYS_MS, NEVER_MS, VersionItems
from vector_search.domain.columns import FieldColumn, MemoryColumns, build_columns
from vector_search.domain.items import Fields

_FORMAT = 1
_KEPT_FILES = 3  # the active version, the previous one and one that is being brought up
_PARTS = tuple(part.name for part in fields_of_class(FieldColumn))
_STATES = ("updated_at_ms", "hidden", "available_from_ms", "available_until_ms")


def read_items(path: Path) -> Iterator[common_pb2.Item]:
    """Read length-delimited items, one by one."""
    content = path.read_bytes()
    place = 0
    while place < len(content):
        length = shift = 0
        while True:
            byte = content[place]
            place += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        yield common_pb2.Item.FromString(content[place : place + length])
        place += length


def version_items(keys: npt.NDArray[np.int64], path: Path) -> VersionItems:
    """Make the columns of a version from its items, which stand in the order of the keys.

    Raises:
        FailedPreconditionError: The items are not those of the keys.
    """
    count = len(keys)
    states = np.zeros((len(_STATES), count), np.int64)
    seen = 0

    def fields() -> Iterator[Fields]:
        nonlocal seen
        for message in read_items(path):
            item = item_from_message(message)
            if seen >= count or item.key != keys[seen]:
                raise FailedPreconditionError(f"items.bin does not follow item_keys at {seen}")
            states[:, seen] = (
                item.updated_at_ms,
                item.hidden,
                ALWAYS_MS if item.available_from_ms is None else item.available_from_ms,
                NEVER_MS if item.available_until_ms is None else item.available_until_ms,
            )
            seen += 1
            yield item.fields

    columns = build_columns(fields())
    if seen != count:
        raise FailedPreconditionError(f"items.bin has {seen} items, item_keys {count}")
    return _items(keys, states, MemoryColumns(columns, count))


class ItemColumnCache:
    """Keeps the columns of the last few versions in a folder; losing it costs time only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, keys: npt.NDArray[np.int64], path: Path, *, checksum: str) -> VersionItems:
        """Give the columns of the items in a file that has this checksum, made now or earlier."""
        kept = self._folder / f"{checksum}.npz"
        items = _read(kept, keys)
        if items is None:
            items = version_items(keys, path)
            self._write(kept, items)
        return items

    def _write(self, kept: Path, items: VersionItems) -> None:
        columns = items.columns
        if not isinstance(columns, MemoryColumns):
            return
        names = list(columns.columns)
        arrays: dict[str, npt.NDArray[Any]] = {
            f"{place}.{part}": getattr(columns.columns[name], part)
            for place, name in enumerate(names)
            for part in _PARTS
        }
        arrays["states"] = np.array([getattr(items, state) for state in _STATES], np.int64)
        arrays["names"] = np.frombuffer(json.dumps({"format": _FORMAT, "names": names}).encode(), np.uint8)
        self._folder.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_name(f".{kept.name}")
        with fresh.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy's stubs mistake them for its own option
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(kept)
        by_age = sorted(self._folder.glob("*.npz"), key=lambda each: each.stat().st_mtime, reverse=True)
        for old in by_age[_KEPT_FILES:]:
            old.unlink(missing_ok=True)


def _read(kept: Path, keys: npt.NDArray[np.int64]) -> VersionItems | None:
    """Read columns; None when they are not there, or not whole."""
    try:
        with np.load(kept, allow_pickle=False) as stored:
            described = json.loads(stored["names"].tobytes())
            if described["format"] != _FORMAT or stored["states"].shape != (len(_STATES), len(keys)):
                return None
            columns = {
                name: FieldColumn(**{part: stored[f"{place}.{part}"] for part in _PARTS})
                for place, name in enumerate(described["names"])
            }
            return _items(keys, stored["states"], MemoryColumns(columns, len(keys)))
    except (OSError, ValueError, KeyError, EOFError):
        return None


def _items(keys: npt.NDArray[np.int64], states: npt.NDArray[np.int64], columns: MemoryColumns) -> VersionItems:
    updated, hidden, opens, closes = states
    return VersionItems(keys, updated, hidden.astype(np.uint8), opens, closes, columns)
