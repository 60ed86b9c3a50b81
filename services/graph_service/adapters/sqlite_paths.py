"""Reads from SQLite what lies between the items of a history and others."""

import sqlite3
from collections import defaultdict

import numpy as np

from graph_service.adapters.sqlite_arrays import as_json, fetch_lists, look_up
from graph_service.adapters.sqlite_related import ITEM_DEGREES, USER_DEGREES
from graph_service.domain.graph import Keys, NodeKind
from graph_service.domain.paths import Between, Link, Sample
from graph_service.domain.ports import GraphPath, RelatednessRule

_LINKS = """
SELECT l.item_key, l.node_key, l.kind, l.siblings, n.name, n.degree
FROM json_each(?) k CROSS JOIN link l ON l.item_key = k.value JOIN node n ON n.node_key = l.node_key
"""
# Users in the order of their keys.
_SAMPLES = """
SELECT (
    SELECT group_concat(user_key) FROM (
        SELECT user_key FROM took WHERE item_key = k.value AND weight > 0 ORDER BY user_key LIMIT ?2
    )
) FROM json_each(?1) k
"""


def read_paths(
    connection: sqlite3.Connection, history_keys: Keys, item_keys: Keys, rule: RelatednessRule
) -> list[GraphPath]:
    """Give every path from any of the history's items to any of the others."""
    keys = np.unique(np.concatenate([history_keys, item_keys]))
    links: defaultdict[int, dict[int, Link]] = defaultdict(dict)
    for item, node, kind, siblings, name, degree in connection.execute(_LINKS, (as_json(keys),)):
        links[item][node] = Link(NodeKind(kind), siblings, name, degree)
    samples = _read_samples(connection, keys, rule.explained_users)
    users = np.unique(np.concatenate([sample.users for sample in samples.values()])) if samples else keys[:0]
    damping = np.maximum(look_up(connection, USER_DEGREES, users), 1).astype(np.float64) ** -rule.user_damping
    return Between(links, samples, users, damping).paths(history_keys, item_keys, rule)


def _read_samples(connection: sqlite3.Connection, keys: Keys, limit: int) -> dict[int, Sample]:
    if not len(keys):
        return {}
    degrees = look_up(connection, ITEM_DEGREES, keys)
    counts, users = fetch_lists(connection, _SAMPLES, keys, limit)
    several = zip(keys.tolist(), degrees.tolist(), np.split(users, counts.cumsum()[:-1]), strict=True)
    return {key: Sample.of(sample, degree) for key, degree, sample in several}
