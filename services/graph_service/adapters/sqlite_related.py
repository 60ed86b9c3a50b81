"""Reads the edges around items from SQLite and hands them to the relatedness formula."""

import sqlite3
from dataclasses import dataclass

import numpy as np

from graph_service.adapters.sqlite_arrays import as_json, fetch_lists, fetch_rows, look_up
from graph_service.domain.graph import Floats, Keys, NodeKind
from graph_service.domain.ports import RelatedItems, RelatednessRule
from graph_service.domain.relatedness import Indices, Surroundings, relate

# The most edges between users and items that are held at once: some 100 MB while they are multiplied.
MAX_EDGES = 1_000_000

# CROSS JOIN fixes SQLite's order: it begins with the keys asked for, then looks them up.
_LINKS = """
SELECT l.item_key, l.node_key, l.siblings, n.degree
FROM json_each(?) k CROSS JOIN link l ON l.item_key = k.value AND l.kind = ? JOIN node n ON n.node_key = l.node_key
"""
_FAN = """
SELECT (SELECT group_concat(item_key || ',' || siblings) FROM link WHERE node_key = k.value) FROM json_each(?) k
"""
_NODES = """
SELECT l.item_key, l.node_key FROM json_each(?) k CROSS JOIN link l ON l.item_key = k.value AND l.kind IN (?, ?)
"""
_USERS = """
SELECT (
    SELECT group_concat(user_key) FROM (
        SELECT user_key FROM took WHERE item_key = k.value AND weight > 0
        ORDER BY occurred_at_ms DESC, user_key DESC LIMIT ?2
    )
) FROM json_each(?1) k
"""
_ITEMS = """
SELECT (
    SELECT group_concat(item_key) FROM (
        SELECT item_key FROM took WHERE user_key = k.value AND weight > 0
        ORDER BY occurred_at_ms DESC, item_key DESC LIMIT ?2
    )
) FROM json_each(?1) k
"""
ITEM_DEGREES = """
SELECT group_concat(coalesce(d.users, 0)) FROM json_each(?) k LEFT JOIN item_degree d ON d.item_key = k.value
"""
USER_DEGREES = """
SELECT group_concat(coalesce(d.items, 0)) FROM json_each(?) k LEFT JOIN user_degree d ON d.user_key = k.value
"""


@dataclass(frozen=True, slots=True)
class _Users:
    """The newest users of some items.

    Args:
        start_item: intp[E], the item of each edge.
        start_user: intp[E], its user, a place in `distinct`.
        distinct: int64[M], the users.
        degrees: int64[M], how many items each has taken to.
    """

    start_item: Indices
    start_user: Indices
    distinct: Keys
    degrees: Keys


def read_related(connection: sqlite3.Connection, item_keys: Keys, rule: RelatednessRule) -> list[RelatedItems]:
    """Compute the related items of each item; keys may repeat. Works in parts that hold MAX_EDGES at most."""
    distinct, places = np.unique(item_keys, return_inverse=True)
    found = _read_distinct(connection, distinct, rule)
    return [found[place] for place in places]


def _read_distinct(connection: sqlite3.Connection, keys: Keys, rule: RelatednessRule) -> list[RelatedItems]:
    if not len(keys):
        return []
    users = _read_users(connection, keys, rule)
    if len(keys) > 1 and np.minimum(users.degrees, rule.items_per_user).sum() > MAX_EDGES:
        half = len(keys) // 2
        return _read_distinct(connection, keys[:half], rule) + _read_distinct(connection, keys[half:], rule)
    degrees = look_up(connection, ITEM_DEGREES, keys)
    surroundings = (
        _around_nodes(connection, keys, NodeKind.PERSON, rule),
        _around_nodes(connection, keys, NodeKind.GENRE, rule),
        _around_users(connection, users, degrees, rule),
    )
    lists: list[tuple[Keys, Floats]] = relate(keys, surroundings, kept_per_path=rule.kept_per_path)
    nodes: dict[int, list[int]] = {}
    for item, node in connection.execute(_NODES, (as_json(keys), NodeKind.PERSON, NodeKind.GENRE)):
        nodes.setdefault(item, []).append(node)
    return [
        RelatedItems(related, scores, tuple(nodes.get(key, ())), int(count))
        for key, (related, scores), count in zip(keys.tolist(), lists, degrees, strict=True)
    ]


def _around_nodes(connection: sqlite3.Connection, keys: Keys, kind: NodeKind, rule: RelatednessRule) -> Surroundings:
    item, node, siblings, degree = fetch_rows(connection.execute(_LINKS, (as_json(keys), kind)), 4)
    degrees = np.zeros(len(keys))
    degrees[np.searchsorted(keys, item)] = siblings
    # The left-out nodes still count as the item's own, so its sum must not grow by their number.
    nodes, first, middle = np.unique(node, return_index=True, return_inverse=True)
    damping = np.where(
        degree[first] <= rule.max_degree_of(kind), degree[first].astype(np.float64) ** -rule.damping_of(kind), 0.0
    )
    used = nodes[(damping > 0) & (degree[first] > 1)]
    counts, fan = fetch_lists(connection, _FAN, used)
    fan_item, fan_siblings = fan.reshape(-1, 2).T
    return Surroundings(
        start_item=np.searchsorted(keys, item),
        start_middle=middle,
        degrees=degrees,
        damping=damping,
        fan_middle=np.repeat(np.searchsorted(nodes, used), counts // 2),
        fan_item=fan_item,
        fan_degree=fan_siblings.astype(np.float64),
    )


def _read_users(connection: sqlite3.Connection, keys: Keys, rule: RelatednessRule) -> _Users:
    counts, users_of = fetch_lists(connection, _USERS, keys, rule.users_per_item)
    distinct, places = np.unique(users_of, return_inverse=True)
    degrees = np.maximum(look_up(connection, USER_DEGREES, distinct), 1)
    return _Users(np.repeat(np.arange(len(keys)), counts), places, distinct, degrees)


def _around_users(connection: sqlite3.Connection, users: _Users, degrees: Keys, rule: RelatednessRule) -> Surroundings:
    used = np.flatnonzero(users.degrees > 1)  # a user of one item relates nothing
    counts, fan_item = fetch_lists(connection, _ITEMS, users.distinct[used], rule.items_per_user)
    reached, place = np.unique(fan_item, return_inverse=True)
    reached_degrees = np.maximum(look_up(connection, ITEM_DEGREES, reached), 1)
    return Surroundings(
        start_item=users.start_item,
        start_middle=users.start_user,
        degrees=degrees.astype(np.float64),
        damping=users.degrees.astype(np.float64) ** -rule.user_damping,
        fan_middle=np.repeat(used, counts),
        fan_item=fan_item,
        fan_degree=reached_degrees[place].astype(np.float64),
    )
