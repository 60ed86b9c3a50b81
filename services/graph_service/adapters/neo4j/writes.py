"""Changes to the graph in Neo4j, as functions of a transaction.

Whoever changes an item, a user or a node locks it before reading it. Locks are taken in one order, users before items
before nodes and each kind by key, so that two replicas do not wait for each other; when they do all the same, the
server ends one of them and the driver tries it again.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from graph_service.adapters.neo4j.client import Transaction
from graph_service.adapters.neo4j.packed import (
    NEWEST_ITEMS,
    NEWEST_USERS,
    Members,
    Newest,
    pack_keys,
    pack_list,
    pack_nodes,
    unpack_keys,
    unpack_list,
    unpack_nodes,
)
from graph_service.domain.graph import (
    DeletedItem,
    ErasedUser,
    Interaction,
    ItemFacts,
    Mutation,
    Node,
    NodeKind,
    PutItem,
)
from graph_service.domain.ports import Applied


class _Pair(NamedTuple):
    """What is known of an item and a user."""

    item: int
    user: int
    at_ms: int
    weight: float


@dataclass(slots=True)
class _User:
    """A locked user."""

    erased_at_ms: int
    newest: Newest


@dataclass(slots=True)
class _Item:
    """A locked item.

    Args:
        users: Who took it.
        state: Its properties when it was ever described.
        nodes: The kinds of its nodes by key.
        was: Its nodes before the changes.
        named: The nodes that it has been given, with their names.
    """

    users: Newest
    state: Mapping[str, Any]
    nodes: dict[int, NodeKind]
    was: dict[int, NodeKind]
    named: tuple[Node, ...] = ()


@dataclass(slots=True)
class _Changes:
    """What the mutations ask for, by kind; the kinds do not depend on each other's order."""

    items: list[PutItem | DeletedItem] = field(default_factory=list)
    interactions: dict[tuple[int, int], Interaction] = field(default_factory=dict)
    erasures: dict[int, int] = field(default_factory=dict)

    def add(self, mutation: Mutation) -> None:
        """Sort a mutation in; of one pair's interactions the latest counts."""
        match mutation:
            case PutItem() | DeletedItem():
                self.items.append(mutation)
            case Interaction():
                pair = (mutation.item_key, mutation.user_key)
                known = self.interactions.get(pair)
                if known is None or mutation.occurred_at_ms >= known.occurred_at_ms:
                    self.interactions[pair] = mutation
            case ErasedUser():
                known_ms = self.erasures.get(mutation.user_key, 0)
                self.erasures[mutation.user_key] = max(known_ms, mutation.occurred_at_ms)


async def apply(transaction: Transaction, slot: int, mutations: Sequence[Mutation]) -> Applied:
    """Make the changes in the graph of one slot."""
    changes = _Changes()
    for mutation in mutations:
        changes.add(mutation)
    return await _Writer(transaction, slot, changes).write()


class _Writer:
    """Makes the changes of one transaction in one slot; keys here are the graph's own, without the slot."""

    def __init__(self, transaction: Transaction, slot: int, changes: _Changes) -> None:
        self._transaction = transaction
        self._slot = slot
        self._changes = changes
        self._users: dict[int, _User] = {}
        self._items: dict[int, _Item] = {}
        self._new_edges: Counter[int] = Counter()

    async def write(self) -> Applied:
        """Lock, read, decide and write."""
        changes = self._changes
        await self._lock_users({user for _, user in changes.interactions} | changes.erasures.keys())
        gone = await self._read_gone()
        await self._lock_items(
            {item for item, _ in changes.interactions}
            | {change.item_key for change in changes.items}
            | {pair.item for pair in gone}
        )
        await self._erase(gone)
        await self._set_pairs()
        facts, touched = await self._set_items()
        await self._write_newest()
        return Applied(facts, frozenset(touched), dict(self._new_edges))

    async def _run(self, query: str, rows: Sequence[Any], *, name: str = "rows") -> list[Any]:
        """Run a query on rows, if there are any, and give the only value of its only row."""
        if not rows:
            return []
        row = await self._transaction.one(query, **{name: rows})
        return row[0] if row else []

    # --- who took what ---

    async def _lock_users(self, users: Iterable[int]) -> None:
        rows = await self._run("lock_users", [user + self._slot for user in sorted(users)], name="keys")
        for key, erased_at_ms, degree, newest_items, times in rows:
            newest = Newest(degree or 0, times or b"", unpack_list(newest_items), NEWEST_ITEMS)
            self._users[key - self._slot] = _User(erased_at_ms or 0, newest)

    async def _read_gone(self) -> list[_Pair]:
        erasures = self._changes.erasures
        pairs = await self._run(
            "read_outdated_pairs",
            [{"key": user + self._slot, "until_ms": until_ms} for user, until_ms in sorted(erasures.items())],
        )
        return [self._pair(pair) for pair in pairs]

    async def _erase(self, gone: Sequence[_Pair]) -> None:
        for pair in gone:
            self._new_edges[pair.item] += 1
            if pair.weight > 0:
                self._leave(pair)
        await self._run("delete_pairs", [[pair.item + self._slot, pair.user + self._slot] for pair in gone])
        later = {
            user: until_ms
            for user, until_ms in self._changes.erasures.items()
            if until_ms > self._users[user].erased_at_ms
        }
        for user, until_ms in later.items():
            self._users[user].erased_at_ms = until_ms
        await self._run(
            "write_erasures", [{"key": user + self._slot, "until_ms": until_ms} for user, until_ms in later.items()]
        )

    async def _set_pairs(self) -> None:
        arrived = [
            each
            for each in self._changes.interactions.values()
            if each.occurred_at_ms > self._users[each.user_key].erased_at_ms
        ]
        rows = await self._run(
            "read_pairs", [[each.item_key + self._slot, each.user_key + self._slot] for each in arrived]
        )
        known = {(pair.item, pair.user): pair for pair in map(self._pair, rows)}
        created, updated = [], []
        for each in arrived:
            pair = _Pair(each.item_key, each.user_key, each.occurred_at_ms, each.weight)
            before = known.get(pair[:2])
            if before is not None and (pair.at_ms, pair.weight) != (before.at_ms, before.weight):
                if pair.at_ms < before.at_ms:
                    continue
                updated.append(self._pair_row(pair))
            elif before is None:
                created.append(self._pair_row(pair))
            else:
                continue
            self._new_edges[pair.item] += 1
            if before is not None and before.weight > 0:
                self._leave(before)
            if pair.weight > 0:
                self._join(pair)
        await self._run("update_pairs", updated)
        await self._run("create_pairs", created)

    def _join(self, pair: _Pair) -> None:
        self._users[pair.user].newest.add(pair.item, pair.at_ms)
        self._items[pair.item].users.add(pair.user, pair.at_ms)

    def _leave(self, pair: _Pair) -> None:
        self._users[pair.user].newest.remove(pair.item, pair.at_ms)
        self._items[pair.item].users.remove(pair.user, pair.at_ms)

    def _pair(self, row: Sequence[Any]) -> _Pair:
        item, user, at_ms, weight = row
        return _Pair(item - self._slot, user - self._slot, at_ms, weight)

    def _pair_row(self, pair: _Pair) -> dict[str, Any]:
        return {
            "item": pair.item + self._slot,
            "user": pair.user + self._slot,
            "at_ms": pair.at_ms,
            "weight": pair.weight,
            "taken_at_ms": pair.at_ms if pair.weight > 0 else None,
        }

    async def _write_newest(self) -> None:
        await self._run(
            "write_users",
            [
                {
                    "key": key + self._slot,
                    "items": user.newest.degree,
                    "newest_items": pack_list(key, user.newest.degree, user.newest.keys()),
                    "newest_at_ms": user.newest.times(),
                }
                for key, user in self._users.items()
            ],
        )
        await self._run(
            "write_takers",
            [
                {
                    "key": key + self._slot,
                    "users": self._items[key].users.degree,
                    "newest_users": pack_keys(self._items[key].users.keys()),
                    "newest_at_ms": self._items[key].users.times(),
                }
                for key in self._new_edges
            ],
        )

    # --- items and their nodes ---

    async def _lock_items(self, items: Iterable[int]) -> None:
        rows = await self._run("lock_items", [item + self._slot for item in sorted(items)], name="keys")
        for key, degree, newest_users, times, packed_nodes, *state in rows:
            users = Newest(degree or 0, times or b"", unpack_keys(newest_users).tolist(), NEWEST_USERS)
            nodes = dict(unpack_nodes(packed_nodes))
            self._items[key - self._slot] = _Item(users, dict(zip(_STATE, state, strict=True)), nodes, nodes)

    async def _set_items(self) -> tuple[dict[int, ItemFacts], set[int]]:
        facts: dict[int, ItemFacts] = {}
        touched: set[int] = set()
        for change in self._changes.items:
            item = self._items[change.item_key]
            given = change.nodes if isinstance(change, PutItem) else ()
            state, nodes = _state(change), {node.key: node.kind for node in given}
            known_ms = item.state["occurred_at_ms"]
            is_older = known_ms is not None and known_ms > change.occurred_at_ms
            if is_older or (item.state == state and item.nodes.keys() == nodes.keys()):
                continue
            touched |= item.nodes.keys() | nodes.keys()
            item.state, item.nodes, item.named = state, nodes, given
            facts[change.item_key] = change.facts
        await self._run(
            "write_items",
            [
                {
                    "key": key + self._slot,
                    "state": {**self._items[key].state, "nodes": pack_nodes(self._items[key].nodes)},
                }
                for key in facts
            ],
        )
        await self._relink([key for key in facts if self._items[key].nodes.keys() != self._items[key].was.keys()])
        return facts, touched

    async def _relink(self, items: Sequence[int]) -> None:
        named = {node.key: node for key in items for node in self._items[key].named}
        changed = named.keys() | {node for key in items for node in self._items[key].was}
        rows = await self._run(
            "lock_nodes",
            [
                {
                    "key": key + self._slot,
                    "kind": int(named[key].kind) if key in named else 0,
                    "name": named[key].name if key in named else "",
                }
                for key in sorted(changed)
            ],
        )
        members = {key - self._slot: Members(key - self._slot, degree or 0, packed) for key, degree, packed in rows}
        links = []
        for key in items:
            item = self._items[key]
            siblings = Counter(item.nodes.values())
            for node in item.was.keys() - item.nodes.keys():
                members[node].remove(key)
            for node, kind in item.nodes.items():
                members[node].put(key, siblings[kind], is_new=node not in item.was)
                links.append(
                    {"item": key + self._slot, "node": node + self._slot, "kind": int(kind), "siblings": siblings[kind]}
                )
        await self._run("unlink_items", [key + self._slot for key in items], name="keys")
        await self._run("link_items", links)
        await self._run(
            "write_nodes",
            [
                {"key": key + self._slot, "degree": node.degree, "members": node.packed()}
                for key, node in members.items()
                if node.degree
            ],
        )
        await self._run(
            "delete_nodes", [key + self._slot for key, node in members.items() if not node.degree], name="keys"
        )


_STATE = ("tenant", "occurred_at_ms", "visible_from_ms", "visible_until_ms", "item_type", "created_at_ms", "attributes")


def _state(change: PutItem | DeletedItem) -> dict[str, Any]:
    facts = change.facts
    head = (facts.tenant, change.occurred_at_ms, facts.visible_from_ms, facts.visible_until_ms)
    if isinstance(change, DeletedItem):
        return dict(zip(_STATE, (*head, None, 0, "{}"), strict=True))
    item = change.filterable
    attributes = json.dumps(dict(sorted(item.attributes.items())), ensure_ascii=False, separators=(",", ":"))
    return dict(zip(_STATE, (*head, item.item_type, item.created_at_ms, attributes), strict=True))
