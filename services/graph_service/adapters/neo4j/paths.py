"""Reads from Neo4j what lies between the items of a history and others."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from graph_service.adapters.neo4j.client import Transaction
from graph_service.adapters.neo4j.packed import unpack_nodes
from graph_service.adapters.neo4j.related import in_slot
from graph_service.domain.graph import Keys
from graph_service.domain.paths import Between, Link, Sample
from graph_service.domain.ports import GraphPath, RelatednessRule


async def read_paths(
    transaction: Transaction, history_keys: Keys, item_keys: Keys, rule: RelatednessRule
) -> list[GraphPath]:
    """Give every path from any of the history's items to any of the others."""
    keys = np.unique(np.concatenate([history_keys, item_keys]))
    row = await transaction.one("path_items", keys=keys.tolist())
    if row is None:
        return []
    slot, items = row
    links = await _read_links(transaction, items, slot)
    samples = await _read_samples(transaction, items, slot, rule.explained_users)
    users = np.unique(np.concatenate([sample.users for sample in samples.values()]))
    taken = await transaction.one("path_users", keys=in_slot(users, slot), slot=slot)
    degree_of = dict(zip(*taken, strict=True)) if taken else {}
    degrees = np.array([max(degree_of.get(user) or 0, 1) for user in users.tolist()], dtype=np.float64)
    return Between(links, samples, users, degrees**-rule.user_damping).paths(history_keys, item_keys, rule)


async def _read_links(
    transaction: Transaction, items: Sequence[Sequence[Any]], slot: int
) -> dict[int, dict[int, Link]]:
    nodes_of = {key: unpack_nodes(nodes) for key, _, nodes in items}
    distinct = {node for nodes in nodes_of.values() for node, _ in nodes}
    row = await transaction.one("path_nodes", keys=[node + slot for node in distinct], slot=slot)
    known = {key: (name, degree) for key, name, degree in (row[0] if row else ())}
    links: dict[int, dict[int, Link]] = {}
    for item, nodes in nodes_of.items():
        siblings = Counter(kind for _, kind in nodes)
        links[item] = {node: Link(kind, siblings[kind], *known[node]) for node, kind in nodes if node in known}
    return links


async def _read_samples(
    transaction: Transaction, items: Sequence[Sequence[Any]], slot: int, limit: int
) -> dict[int, Sample]:
    degree_of = {key: degree or 0 for key, degree, _ in items}
    row = await transaction.one("path_samples", keys=[key + slot for key in degree_of], slot=slot, limit=limit)
    return {key: Sample.of(np.array(users, dtype=np.int64), degree_of[key]) for key, users in (row[0] if row else ())}
