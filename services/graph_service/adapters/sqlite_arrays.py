"""Brings many integers from SQLite into arrays.

A row costs Python half a microsecond and a turn at the interpreter's lock, during which requests wait. So SQLite
writes the integers of many rows into one text, on its own and without the lock, and numpy reads that.
"""

import json
import sqlite3
from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np

from graph_service.domain.graph import Keys


def fetch_lists(connection: sqlite3.Connection, sql: str, keys: Keys, *parameters: Any) -> tuple[Keys, Keys]:
    """Give how many integers a query finds for each key, and all of them behind each other.

    The query's first parameter is the keys, as JSON; for each, in their order, it gives a row of one text, the
    integers with commas between them, or NULL.
    """
    texts = [text for (text,) in connection.execute(sql, (as_json(keys), *parameters))]
    counts = np.array([text.count(",") + 1 if text else 0 for text in texts], dtype=np.int64)
    return counts, _numbers(filter(None, texts))


def look_up(connection: sqlite3.Connection, sql: str, keys: Keys) -> Keys:
    """Give the integer that a query finds for each key; it gives one row, a text of them all in the keys' order."""
    ((text,),) = connection.execute(sql, (as_json(keys),))
    return _numbers([text] if text else [])


def fetch_rows(rows: Iterable[tuple[int, ...]], columns: int) -> Keys:
    """Give a few rows of integers as an array of one row a column."""
    return np.fromiter(chain.from_iterable(rows), dtype=np.int64).reshape(-1, columns).T


def as_json(keys: Keys) -> str:
    """Write keys as SQLite's json_each reads them."""
    return json.dumps(keys.tolist())


def _numbers(texts: Iterable[str]) -> Keys:
    return np.fromstring(",".join(texts), dtype=np.int64, sep=",")
