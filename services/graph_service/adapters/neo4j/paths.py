"""Reads from Neo4j what lies between the items of a history and others."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from graph_service.adapters.neo4j.client import Transaction
from graph_service.adapters.neo4j.packed import unpack_keys, unpack_nodes
from graph_service.adapters.neo4j.related import in_slot
from graph_service.domain.graph import Keys, NodeKind
from graph_service.domain.paths import Between, Link, Sample
from graph_service.domain.ports import GraphPath, RelatednessRule


@dataclass(frozen=True, slots=True)
class _Item:
    """An item with its newest users, which may be all of them, and its nodes."""

    degree: int
    users: Keys
    nodes: Sequence[tuple[int, NodeKind]]


async def read_paths(
    transaction: Transaction, history_keys: Keys, item_keys: Keys, rule: RelatednessRule
) -> list[GraphPath]:
    """Give every path from any of the history's items to any of the others."""
    keys = np.unique(np.concatenate([history_keys, item_keys]))
    row = await transaction.one("path_items", keys=keys.tolist())
    if row is None:
        return []
    slot, rows = row
    items = {key: _Item(degree or 0, unpack_keys(users), unpack_nodes(nodes)) for key, degree, users, nodes in rows}
    links = await _read_links(transaction, items, slot)
    samples = await _read_samples(transaction, items, slot, rule.explained_users)
    users = _common(samples, history_keys, item_keys)
    taken = await transaction.one("path_users", keys=in_slot(users, slot), slot=slot) if len(users) else None
    degree_of = dict(zip(*taken, strict=True)) if taken else {}
    degrees = np.array([max(degree_of.get(user) or 0, 1) for user in users.tolist()], dtype=np.float64)
    return Between(links, samples, users, degrees**-rule.user_damping).paths(history_keys, item_keys, rule)


async def _read_links(transaction: Transaction, items: Mapping[int, _Item], slot: int) -> dict[int, dict[int, Link]]:
    distinct = {node for item in items.values() for node, _ in item.nodes}
    row = await transaction.one("path_nodes", keys=[node + slot for node in distinct], slot=slot) if distinct else None
    known = {key: (name, degree) for key, name, degree in (row[0] if row else ())}
    links: dict[int, dict[int, Link]] = {}
    for key, item in items.items():
        siblings = Counter(kind for _, kind in item.nodes)
        links[key] = {node: Link(kind, siblings[kind], *known[node]) for node, kind in item.nodes if node in known}
    return links


async def _read_samples(
    transaction: Transaction, items: Mapping[int, _Item], slot: int, limit: int
) -> dict[int, Sample]:
    """Give each item's users: all that are packed beside it, or a sample of the relationships."""
    whole = {key: item for key, item in items.items() if len(item.users) == item.degree <= limit}
    samples = {key: Sample.of(np.sort(item.users), item.degree) for key, item in whole.items()}
    others = [key for key in items if key not in whole]
    if others:
        keys = [key + slot for key in others]
        row = await transaction.one("path_samples", keys=keys, slot=slot, limit=limit)
        for key, users in row[0] if row else ():
            samples[key] = Sample.of(np.array(users, dtype=np.int64), items[key].degree)
    return samples


def _common(samples: Mapping[int, Sample], history_keys: Keys, item_keys: Keys) -> Keys:
    """Give the users that any item of the history shares with any of the others, ascending."""
    pairs = product(history_keys.tolist(), item_keys.tolist())
    shared = [
        np.intersect1d(samples[history].users, samples[item].users, assume_unique=True)
        for history, item in pairs
        if history != item and history in samples and item in samples
    ]
    return np.unique(np.concatenate([*shared, np.zeros(0, dtype=np.int64)]))
