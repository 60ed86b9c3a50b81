"""Reads from SQLite what lies between the items of a history and others."""

import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from graph_service.adapters.sqlite_arrays import as_json, fetch_lists, look_up
from graph_service.adapters.sqlite_related import ITEM_DEGREES, USER_DEGREES
from graph_service.domain.graph import PATH_THROUGH, Keys, MetaPath, NodeKind
from graph_service.domain.ports import GraphPath, RelatednessRule
from graph_service.domain.relatedness import Doubles

_KEY_RANGE = float(1 << 63)

_LINKS = """
SELECT l.item_key, l.node_key, l.kind, l.siblings, n.name, n.degree
FROM json_each(?) k CROSS JOIN link l ON l.item_key = k.value JOIN node n ON n.node_key = l.node_key
"""
# Users in the order of their keys, which are hashes: the first so many are a random sample, the same for every item.
_SAMPLES = """
SELECT (
    SELECT group_concat(user_key) FROM (
        SELECT user_key FROM took WHERE item_key = k.value AND weight > 0 ORDER BY user_key LIMIT ?2
    )
) FROM json_each(?1) k
"""


@dataclass(frozen=True, slots=True)
class _Link:
    kind: NodeKind
    siblings: int
    name: str
    degree: int


@dataclass(frozen=True, slots=True)
class _Sample:
    """The users of an item whose keys are not above `bound`; all of them when it is the largest key."""

    users: Keys
    bound: int
    degree: int


def read_paths(
    connection: sqlite3.Connection, history_keys: Keys, item_keys: Keys, rule: RelatednessRule
) -> list[GraphPath]:
    """Give every path from any of the history's items to any of the others."""
    keys = np.unique(np.concatenate([history_keys, item_keys]))
    links: defaultdict[int, dict[int, _Link]] = defaultdict(dict)
    for item, node, kind, siblings, name, degree in connection.execute(_LINKS, (as_json(keys),)):
        links[item][node] = _Link(NodeKind(kind), siblings, name, degree)
    samples = _read_samples(connection, keys, rule.explained_users)
    users = np.unique(np.concatenate([sample.users for sample in samples.values()])) if samples else keys[:0]
    damping = np.maximum(look_up(connection, USER_DEGREES, users), 1).astype(np.float64) ** -rule.user_damping
    paths: list[GraphPath] = []
    for history in history_keys.tolist():
        for item in item_keys.tolist():
            if history != item:
                paths += _over_nodes(history, item, links, rule)
                paths += _over_users(history, item, samples, users, damping)
    return paths


def _read_samples(connection: sqlite3.Connection, keys: Keys, limit: int) -> dict[int, _Sample]:
    if not len(keys):
        return {}
    degrees = look_up(connection, ITEM_DEGREES, keys)
    counts, users = fetch_lists(connection, _SAMPLES, keys, limit)
    samples: dict[int, _Sample] = {}
    for key, degree, sample in zip(keys.tolist(), degrees.tolist(), np.split(users, counts.cumsum()[:-1]), strict=True):
        samples[key] = _Sample(sample, int(sample[-1]) if degree > len(sample) else int(_KEY_RANGE), degree)
    return samples


def _over_nodes(
    history: int, item: int, links: Mapping[int, Mapping[int, _Link]], rule: RelatednessRule
) -> Iterator[GraphPath]:
    here, there = links.get(history, {}), links.get(item, {})
    for node, link in here.items():
        other = there.get(node)
        if other is not None:
            share = link.degree ** -rule.damping_of(link.kind) / math.sqrt(link.siblings * other.siblings)
            yield GraphPath(history, item, PATH_THROUGH[link.kind], link.name, share)


def _over_users(
    history: int,
    item: int,
    samples: Mapping[int, _Sample],
    users: Keys,
    damping: Doubles,
) -> Iterator[GraphPath]:
    here, there = samples[history], samples[item]
    bound = min(here.bound, there.bound)
    common = np.intersect1d(here.users, there.users, assume_unique=True)
    common = common[common <= bound]
    if len(common):
        scale = _KEY_RANGE / bound
        share = damping[np.searchsorted(users, common)].sum() * scale / math.sqrt(here.degree * there.degree)
        yield GraphPath(history, item, MetaPath.ITEM_USER_ITEM, str(round(len(common) * scale)), float(share))
