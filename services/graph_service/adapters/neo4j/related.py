"""Reads what surrounds items from Neo4j and hands it to the relatedness formula."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from graph_service.adapters.neo4j.client import Neo4jClient, Transaction
from graph_service.adapters.neo4j.degrees import UNKNOWN, KnownDegrees
from graph_service.adapters.neo4j.packed import Lists, pack_list, unpack_keys, unpack_members, unpack_nodes
from graph_service.domain.graph import Keys, NodeKind
from graph_service.domain.ports import RelatedItems, RelatednessRule
from graph_service.domain.relatedness import Indices, Surroundings, relate

MAX_EDGES: Final = 1_000_000
"""The most edges between users and items that are held at once: some 100 MB while they are multiplied."""


@dataclass(frozen=True, slots=True)
class _Item:
    """An item with its newest users and its nodes by kind."""

    degree: int
    users: Keys
    nodes: Mapping[NodeKind, Sequence[int]]


@dataclass(frozen=True, slots=True)
class _Node:
    """A person or a genre with its items, if they count."""

    degree: int
    items: Keys
    siblings: Indices


@dataclass(frozen=True, slots=True)
class _Surrounded:
    """What was read around some items; `users` is None when it would be too much at once."""

    slot: int
    items: Mapping[int, _Item]
    users: Lists | None
    nodes: Mapping[int, _Node]


_UNKNOWN: Final = _Item(0, np.zeros(0, dtype=np.int64), {})


class RelatedReader:
    """Computes related items; what changes only slowly is remembered."""

    def __init__(self, client: Neo4jClient, degrees: KnownDegrees) -> None:
        self._client = client
        self._degrees = degrees

    def anew(self) -> "RelatedReader":
        """Give a reader that remembers nothing of what this one does."""
        return RelatedReader(self._client, self._degrees.anew())

    async def related(self, item_keys: Keys, rule: RelatednessRule, *, slot: int | None = None) -> list[RelatedItems]:
        """Compute the related items of each item in the graph of a slot, or in the one that serves; keys may repeat.

        Works in parts that hold MAX_EDGES at most.
        """
        distinct, places = np.unique(item_keys, return_inverse=True)
        found = await self._related(distinct, rule, slot)
        return [found[place] for place in places]

    async def _related(self, keys: Keys, rule: RelatednessRule, slot: int | None) -> list[RelatedItems]:
        if not len(keys):
            return []
        around = await self._client.read(lambda transaction: _read(transaction, keys, rule, slot))
        if around.users is None:
            half = len(keys) // 2
            return await self._related(keys[:half], rule, slot) + await self._related(keys[half:], rule, slot)
        reached, place = np.unique(around.users.values, return_inverse=True)
        degrees = await self._degrees_of(reached, around.slot)
        items = [around.items.get(key, _UNKNOWN) for key in keys.tolist()]
        surroundings = (
            _around_nodes(items, NodeKind.PERSON, around.nodes, rule),
            _around_nodes(items, NodeKind.GENRE, around.nodes, rule),
            _around_users(items, around.users, np.maximum(degrees, 1)[place], rule),
        )
        lists = relate(keys, surroundings, kept_per_path=rule.kept_per_path)
        return [
            RelatedItems(
                related,
                scores,
                (*item.nodes.get(NodeKind.PERSON, ()), *item.nodes.get(NodeKind.GENRE, ())),
                item.degree,
            )
            for (related, scores), item in zip(lists, items, strict=True)
        ]

    async def _degrees_of(self, keys: Keys, slot: int) -> Keys:
        degrees = self._degrees.known(keys)
        unknown = np.flatnonzero(degrees == UNKNOWN)
        if len(unknown):
            with self._degrees.reading() as changed:
                row = await self._client.read(
                    lambda transaction: transaction.one("related_degrees", keys=in_slot(keys[unknown], slot), slot=slot)
                )
                read = {key: users or 0 for key, users in zip(*row, strict=True)} if row else {}
                self._degrees.keep(read, changed)
            degrees[unknown] = [read.get(key, 0) for key in keys[unknown].tolist()]
        return degrees


def in_slot(keys: Keys, slot: int) -> list[int]:
    """Give keys as the graph in a slot has them."""
    slotted: list[int] = (keys ^ np.int64(slot)).tolist()
    return slotted


async def _read(transaction: Transaction, keys: Keys, rule: RelatednessRule, asked: int | None) -> _Surrounded:
    row = await transaction.one("related_items", keys=keys.tolist(), slot=asked)
    if row is None:
        return _Surrounded(0, {}, Lists.unpack((), 0), {})
    slot, rows = row
    items = {key: _item(degree, users, nodes, rule) for key, degree, users, nodes in rows}
    short = {key: item.degree for key, item in items.items() if len(item.users) < min(item.degree, rule.users_per_item)}
    if short:
        longer = await _longer(transaction, "newest_users_of_items", short, slot, rule.users_per_item)
        for key, newest in longer.items():
            items[key] = _Item(items[key].degree, np.array(newest, dtype=np.int64), items[key].nodes)
    users = np.unique(np.concatenate([item.users for item in items.values()]))
    if len(keys) > 1 and len(users) * rule.items_per_user > MAX_EDGES:
        return _Surrounded(slot, items, None, {})
    return await _read_around(transaction, slot, items, users, rule)


async def _read_around(
    transaction: Transaction, slot: int, items: Mapping[int, _Item], users: Keys, rule: RelatednessRule
) -> _Surrounded:
    kind_of = {node: kind for item in items.values() for kind, nodes in item.nodes.items() for node in nodes}
    nodes = np.fromiter(kind_of, dtype=np.int64)
    (packed_users,), (packed_nodes,) = await transaction.run(
        "related_surroundings", users=in_slot(users, slot), nodes=in_slot(nodes, slot)
    )
    taken = Lists.unpack(packed_users, rule.items_per_user)
    short = taken.short(rule.items_per_user)
    if len(short):
        degree_of = dict(zip(taken.owners.tolist(), taken.degrees.tolist(), strict=True))
        longer = await _longer(
            transaction,
            "newest_items_of_users",
            {key: degree_of[key] for key in short.tolist()},
            slot,
            rule.items_per_user,
        )
        replaced = set(longer)
        kept = [each for each in packed_users if int.from_bytes(each[:8], "little") not in replaced]
        kept += [pack_list(user, degree_of[user], items) for user, items in longer.items()]
        taken = Lists.unpack(kept, rule.items_per_user)
    return _Surrounded(slot, items, taken, await _read_nodes(transaction, slot, packed_nodes, kind_of, rule))


async def _read_nodes(
    transaction: Transaction, slot: int, packed: Iterable[bytes], kind_of: Mapping[int, NodeKind], rule: RelatednessRule
) -> dict[int, _Node]:
    nodes: dict[int, _Node] = {}
    for each in packed:
        key, degree = np.frombuffer(each, dtype="<i8", count=2).tolist()
        nodes[key] = _Node(degree, *unpack_members(each))
    unlisted = {
        key: node.degree
        for key, node in nodes.items()
        if len(node.items) < node.degree <= rule.max_degree_of(kind_of[key])
    }
    if unlisted:
        rows = await transaction.run(
            "members_of_nodes",
            keys=[key + slot for key in unlisted],
            slot=slot,
            limit=max(unlisted.values()),
        )
        for key, items, siblings in rows:
            nodes[key] = _Node(unlisted[key], np.array(items, dtype=np.int64), np.array(siblings, dtype=np.intp))
    return nodes


async def _longer(
    transaction: Transaction, query: str, short: Mapping[int, int], slot: int, most: int
) -> dict[int, list[int]]:
    rows = await transaction.run(query, keys=[key + slot for key in short], slot=slot, limit=most)
    return {key: neighbours for key, neighbours in rows}  # noqa: C416 - the rows are lists of two


def _item(degree: int | None, users: bytes | None, nodes: bytes | None, rule: RelatednessRule) -> _Item:
    by_kind: dict[NodeKind, list[int]] = {}
    for node, kind in unpack_nodes(nodes):
        if kind is not NodeKind.COUNTRY:
            by_kind.setdefault(kind, []).append(node)
    return _Item(degree or 0, unpack_keys(users)[: rule.users_per_item], by_kind)


def _around_nodes(
    items: Sequence[_Item], kind: NodeKind, nodes: Mapping[int, _Node], rule: RelatednessRule
) -> Surroundings:
    middle_of: dict[int, int] = {}
    start_item: list[int] = []
    start_middle: list[int] = []
    for number, item in enumerate(items):
        for key in item.nodes.get(kind, ()):
            if key in nodes:  # it may have gone in between
                start_item.append(number)
                start_middle.append(middle_of.setdefault(key, len(middle_of)))
    middles = [nodes[key] for key in middle_of]
    degrees = np.array([node.degree for node in middles], dtype=np.float64)
    # The left-out nodes still count as the item's own, so its sum must not grow by their number.
    damping = np.where(degrees <= rule.max_degree_of(kind), np.maximum(degrees, 1.0) ** -rule.damping_of(kind), 0.0)
    used = [number for number, node in enumerate(middles) if damping[number] > 0 and node.degree > 1]
    return Surroundings(
        start_item=np.array(start_item, dtype=np.intp),
        start_middle=np.array(start_middle, dtype=np.intp),
        degrees=np.array([len(item.nodes.get(kind, ())) for item in items], dtype=np.float64),
        damping=damping,
        fan_middle=np.repeat(np.array(used, dtype=np.intp), [len(middles[number].items) for number in used]),
        fan_item=_joined([middles[number].items for number in used]),
        fan_degree=_joined([middles[number].siblings for number in used]).astype(np.float64),
    )


def _around_users(items: Sequence[_Item], users: Lists, reached_degrees: Keys, rule: RelatednessRule) -> Surroundings:
    users_of = _joined([item.users for item in items])
    start_item = np.repeat(np.arange(len(items)), [len(item.users) for item in items])
    place = np.minimum(np.searchsorted(users.owners, users_of), max(len(users.owners) - 1, 0))
    # A user may have gone between two reads.
    there = users.owners[place] == users_of if len(users.owners) else np.zeros(len(users_of), dtype=bool)
    return Surroundings(
        start_item=start_item[there],
        start_middle=place[there],
        degrees=np.array([item.degree for item in items], dtype=np.float64),
        damping=np.maximum(users.degrees, 1).astype(np.float64) ** -rule.user_damping,
        fan_middle=np.repeat(np.arange(len(users.owners)), users.counts),
        fan_item=users.values,
        fan_degree=reached_degrees.astype(np.float64),
    )


def _joined(parts: Sequence[Any]) -> Any:
    return np.concatenate([*parts, np.zeros(0, dtype=np.int64)])
