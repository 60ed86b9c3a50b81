"""Reads the edges around items from SQLite and hands them to the relatedness formula."""

import json
import sqlite3
from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from graph_service.domain.graph import Floats, Keys, NodeKind
from graph_service.domain.ports import RelatedItems, RelatednessRule
from graph_service.domain.relatedness import Surroundings, relate

# The most edges between users and items that are held at once: some 100 MB while they are multiplied.
MAX_EDGES = 1_000_000

# CROSS JOIN fixes SQLite's order: it begins with the keys asked for, then looks them up.
_LINKS = """
SELECT l.item_key, l.node_key, l.siblings, n.degree
FROM json_each(?) k CROSS JOIN link l ON l.item_key = k.value AND l.kind = ? JOIN node n ON n.node_key = l.node_key
"""
_FAN = "SELECT l.node_key, l.item_key, l.siblings FROM json_each(?) k CROSS JOIN link l ON l.node_key = k.value"
_NODES = """
SELECT l.item_key, l.node_key FROM json_each(?) k CROSS JOIN link l ON l.item_key = k.value AND l.kind IN (?, ?)
"""
_USERS = (
    "SELECT user_key FROM took WHERE item_key = ? AND weight > 0 ORDER BY occurred_at_ms DESC, user_key DESC LIMIT ?"
)
_ITEMS = (
    "SELECT item_key FROM took WHERE user_key = ? AND weight > 0 ORDER BY occurred_at_ms DESC, item_key DESC LIMIT ?"
)
_ALL_ITEMS = """
SELECT t.user_key, t.item_key FROM json_each(?) k CROSS JOIN took t ON t.user_key = k.value AND t.weight > 0
"""
ITEM_DEGREES = "SELECT d.item_key, d.users FROM json_each(?) k CROSS JOIN item_degree d ON d.item_key = k.value"
USER_DEGREES = "SELECT d.user_key, d.items FROM json_each(?) k CROSS JOIN user_degree d ON d.user_key = k.value"


def read_related(connection: sqlite3.Connection, item_keys: Keys, rule: RelatednessRule) -> list[RelatedItems]:
    """Compute the related items of each item; keys may repeat. Works in parts that hold MAX_EDGES at most."""
    distinct, places = np.unique(item_keys, return_inverse=True)
    found = _read_distinct(connection, distinct, rule)
    return [found[place] for place in places]


def _read_distinct(connection: sqlite3.Connection, keys: Keys, rule: RelatednessRule) -> list[RelatedItems]:
    if not len(keys):
        return []
    users_of = [fetch_column(connection.execute(_USERS, (key, rule.users_per_item))) for key in keys.tolist()]
    users = np.unique(np.concatenate(users_of))
    taken = look_up(connection, USER_DEGREES, users)
    if len(keys) > 1 and np.minimum(taken, rule.items_per_user).sum() > MAX_EDGES:
        half = len(keys) // 2
        return _read_distinct(connection, keys[:half], rule) + _read_distinct(connection, keys[half:], rule)
    degrees = look_up(connection, ITEM_DEGREES, keys)
    surroundings = (
        _around_nodes(connection, keys, NodeKind.PERSON, rule),
        _around_nodes(connection, keys, NodeKind.GENRE, rule),
        _around_users(connection, users_of, users, taken, degrees, rule),
    )
    lists: list[tuple[Keys, Floats]] = relate(keys, surroundings, kept_per_path=rule.kept_per_path)
    nodes: dict[int, list[int]] = {}
    for item, node in connection.execute(_NODES, (_json(keys), NodeKind.PERSON, NodeKind.GENRE)):
        nodes.setdefault(item, []).append(node)
    return [
        RelatedItems(related, scores, tuple(nodes.get(key, ())), int(count))
        for key, (related, scores), count in zip(keys.tolist(), lists, degrees, strict=True)
    ]


def _around_nodes(connection: sqlite3.Connection, keys: Keys, kind: NodeKind, rule: RelatednessRule) -> Surroundings:
    item, node, siblings, degree = _columns(connection.execute(_LINKS, (_json(keys), kind)), 4)
    degrees = np.zeros(len(keys))
    degrees[np.searchsorted(keys, item)] = siblings
    # The left-out nodes still count as the item's own, so its sum must not grow by their number.
    nodes, first, middle = np.unique(node, return_index=True, return_inverse=True)
    damping = np.where(
        degree[first] <= rule.max_degree_of(kind), degree[first].astype(np.float64) ** -rule.damping_of(kind), 0.0
    )
    used = nodes[(damping > 0) & (degree[first] > 1)]
    fan_node, fan_item, fan_siblings = _columns(connection.execute(_FAN, (_json(used),)), 3)
    return Surroundings(
        start_item=np.searchsorted(keys, item),
        start_middle=middle,
        degrees=degrees,
        damping=damping,
        fan_middle=np.searchsorted(nodes, fan_node),
        fan_item=fan_item,
        fan_degree=fan_siblings.astype(np.float64),
    )


def _around_users(
    connection: sqlite3.Connection,
    users_of: Sequence[Keys],
    users: Keys,
    taken: Keys,
    degrees: Keys,
    rule: RelatednessRule,
) -> Surroundings:
    fan_user, fan_item = _read_fan(connection, users, taken, rule.items_per_user)
    reached, place = np.unique(fan_item, return_inverse=True)
    reached_degrees = look_up(connection, ITEM_DEGREES, reached)
    return Surroundings(
        start_item=np.repeat(np.arange(len(users_of)), [len(each) for each in users_of]),
        start_middle=np.searchsorted(users, np.concatenate(users_of)),
        degrees=degrees.astype(np.float64),
        damping=np.maximum(taken, 1).astype(np.float64) ** -rule.user_damping,
        fan_middle=np.searchsorted(users, fan_user),
        fan_item=fan_item,
        fan_degree=np.maximum(reached_degrees[place], 1).astype(np.float64),
    )


def _read_fan(connection: sqlite3.Connection, users: Keys, taken: Keys, limit: int) -> tuple[Keys, Keys]:
    """Read the newest items of each user; those of few come by one query, which is several times faster."""
    many = users[taken > limit]
    newest = [fetch_column(connection.execute(_ITEMS, (user, limit))) for user in many.tolist()]
    # A user of one item relates nothing.
    few = users[(taken > 1) & (taken <= limit)]
    user, item = _columns(connection.execute(_ALL_ITEMS, (_json(few),)), 2)
    return np.concatenate([user, np.repeat(many, [len(each) for each in newest])]), np.concatenate([item, *newest])


def look_up(connection: sqlite3.Connection, sql: str, keys: Keys) -> Keys:
    """Give the number that a query finds for each of the ascending keys, 0 where it finds none."""
    key, number = _columns(connection.execute(sql, (_json(keys),)), 2)
    numbers = np.zeros(len(keys), dtype=np.int64)
    numbers[np.searchsorted(keys, key)] = number
    return numbers


def _json(keys: npt.NDArray[np.int64]) -> str:
    return json.dumps(keys.tolist())


def fetch_column(rows: sqlite3.Cursor) -> Keys:
    """Give the integers of rows of one column."""
    return np.fromiter(chain.from_iterable(rows), dtype=np.int64)


def _columns(rows: sqlite3.Cursor, count: int) -> npt.NDArray[np.int64]:
    """Give the rows' integers as an array of one row a column."""
    return np.fromiter(chain.from_iterable(rows), dtype=np.int64).reshape(-1, count).T
