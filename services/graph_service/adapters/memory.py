"""The graph in dictionaries: the port's reference, which reads like the formula."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graph_service.domain.graph import (
    CANDIDATE_PATHS,
    PATH_THROUGH,
    DeletedItem,
    ErasedUser,
    FilterableItem,
    Interaction,
    ItemFacts,
    Keys,
    MetaPath,
    Mutation,
    Node,
    NodeKind,
    PutItem,
)
from graph_service.domain.ports import Applied, GraphCounts, GraphPath, RelatedItems, RelatednessRule
from servicekit.errors import NotFoundError


@dataclass(frozen=True, slots=True)
class _Edge:
    weight: float
    occurred_at_ms: int


class MemoryGraphStore:
    """Keeps everything in this process; for tests and for services that need not remember."""

    def __init__(self, name: str = "0") -> None:
        self._name = name
        self._rebuild: MemoryGraphRebuild | None = None
        self._items: dict[int, PutItem | DeletedItem] = {}
        self._items_of_node: defaultdict[int, set[int]] = defaultdict(set)
        self._users_of: defaultdict[int, dict[int, _Edge]] = defaultdict(dict)
        self._items_of: defaultdict[int, dict[int, _Edge]] = defaultdict(dict)
        self._erased_at_ms: dict[int, int] = {}

    async def apply(self, mutations: Sequence[Mutation]) -> Applied:
        """See GraphStore."""
        if self._rebuild is not None:
            await self._rebuild.fill(mutations)
        facts: dict[int, ItemFacts] = {}
        nodes: set[int] = set()
        new_edges: defaultdict[int, int] = defaultdict(int)
        for mutation in mutations:
            match mutation:
                case PutItem() | DeletedItem():
                    if self._set_item(mutation, nodes):
                        facts[mutation.item_key] = mutation.facts
                case Interaction():
                    new_edges[mutation.item_key] += self._set_edge(mutation)
                case ErasedUser():
                    for item in self._erase(mutation):
                        new_edges[item] += 1
        return Applied(facts, frozenset(nodes), {item: count for item, count in new_edges.items() if count})

    async def related(self, item_keys: Keys, rule: RelatednessRule) -> Sequence[RelatedItems]:
        """See GraphStore."""
        return [self._related(int(key), rule) for key in item_keys]

    async def facts(self, item_keys: Keys) -> Mapping[int, ItemFacts]:
        """See GraphStore."""
        return {key: self._items[key].facts for key in item_keys.tolist() if key in self._items}

    async def look_again(self, described: Keys, taken: Keys) -> Mapping[int, ItemFacts]:  # noqa: ARG002 - nothing is remembered
        """See GraphStore."""
        return await self.facts(described)

    async def filterable(self, item_keys: Keys) -> Mapping[int, FilterableItem]:
        """See GraphStore."""
        items = ((key, self._items.get(key)) for key in item_keys.tolist())
        return {key: item.filterable for key, item in items if isinstance(item, PutItem)}

    async def paths(self, history_keys: Keys, item_keys: Keys, rule: RelatednessRule) -> Sequence[GraphPath]:
        """See GraphStore."""
        pairs = [(h, i) for h in history_keys.tolist() for i in item_keys.tolist() if h != i]
        return [path for history, item in pairs for path in self._paths(history, item, rule)]

    async def busiest_items(self, limit: int) -> Keys:
        """See GraphStore."""
        degrees = sorted((-len(users), item) for item in self._users_of if (users := self._users(item)))
        return np.array([item for _, item in degrees[:limit]], dtype=np.int64)

    async def counts(self) -> GraphCounts:
        """See GraphStore."""
        return GraphCounts(
            items=sum(isinstance(item, PutItem) for item in self._items.values()),
            users=sum(bool(self._items_taken(user)) for user in self._items_of),
            relations=sum(len(self._users(item)) for item in self._users_of),
            links=sum(map(len, self._items_of_node.values())),
        )

    async def serving(self) -> str:
        """See GraphStore."""
        return self._name

    async def begin_rebuild(self) -> "MemoryGraphRebuild":
        """See GraphStore."""
        self._rebuild = MemoryGraphRebuild(self, MemoryGraphStore(f"{int(self._name) + 1}"))
        return self._rebuild

    async def close(self) -> None:
        """See GraphStore."""

    def end_rebuild(self, rebuild: "MemoryGraphRebuild", rebuilt: "MemoryGraphStore | None" = None) -> None:
        """Write no longer to the new graph; take its state over when it shall serve."""
        if self._rebuild is rebuild:
            self._rebuild = None
        if rebuilt is not None:
            self.__dict__.update(rebuilt.__dict__)

    def is_filled_by(self, rebuild: "MemoryGraphRebuild") -> bool:
        """Say whether no other rebuild has taken this one's place."""
        return self._rebuild is rebuild

    # --- changes ---

    def _set_item(self, change: PutItem | DeletedItem, touched: set[int]) -> bool:
        known = self._items.get(change.item_key)
        if known == change or (known is not None and known.occurred_at_ms > change.occurred_at_ms):
            return False
        for node in self._nodes(change.item_key):
            self._items_of_node[node.key].discard(change.item_key)
            touched.add(node.key)
        self._items[change.item_key] = change
        for node in self._nodes(change.item_key):
            self._items_of_node[node.key].add(change.item_key)
            touched.add(node.key)
        return True

    def _set_edge(self, change: Interaction) -> bool:
        if change.occurred_at_ms <= self._erased_at_ms.get(change.user_key, 0):
            return False
        known = self._users_of[change.item_key].get(change.user_key)
        edge = _Edge(change.weight, change.occurred_at_ms)
        if known == edge or (known is not None and known.occurred_at_ms > edge.occurred_at_ms):
            return False
        self._users_of[change.item_key][change.user_key] = edge
        self._items_of[change.user_key][change.item_key] = edge
        return True

    def _erase(self, change: ErasedUser) -> Iterable[int]:
        self._erased_at_ms[change.user_key] = max(change.occurred_at_ms, self._erased_at_ms.get(change.user_key, 0))
        edges = self._items_of[change.user_key]
        gone = [item for item, edge in edges.items() if edge.occurred_at_ms <= change.occurred_at_ms]
        for item in gone:
            del edges[item], self._users_of[item][change.user_key]
        return gone

    # --- the graph's neighbourhoods; only positive weights are edges ---

    def _nodes(self, item: int) -> tuple[Node, ...]:
        known = self._items.get(item)
        return known.nodes if isinstance(known, PutItem) else ()

    def _middles(self, item: int, kind: NodeKind) -> list[int]:
        return [node.key for node in self._nodes(item) if node.kind is kind]

    def _users(self, item: int) -> list[int]:
        """Give an item's users, newest first."""
        return _newest_first(self._users_of.get(item, {}))

    def _items_taken(self, user: int) -> list[int]:
        return _newest_first(self._items_of.get(user, {}))

    # --- the formula ---

    def _related(self, item: int, rule: RelatednessRule) -> RelatedItems:
        by_path = [
            self._through_nodes(item, NodeKind.PERSON, rule),
            self._through_nodes(item, NodeKind.GENRE, rule),
            self._through_users(item, rule),
        ]
        kept: set[int] = set()
        for scores in by_path:
            # Ranked as they are kept, in single precision, so that ties are ties everywhere.
            ranked = sorted(scores, key=lambda other: (-np.float32(scores[other]), other))
            kept.update(ranked[: rule.kept_per_path])
        keys = sorted(kept)
        return RelatedItems(
            np.array(keys, dtype=np.int64),
            np.array([[scores.get(key, 0.0) for scores in by_path] for key in keys], dtype=np.float32).reshape(
                len(keys), len(CANDIDATE_PATHS)
            ),
            tuple(node.key for node in self._nodes(item) if node.kind is not NodeKind.COUNTRY),
            len(self._users(item)),
        )

    def _through_nodes(self, item: int, kind: NodeKind, rule: RelatednessRule) -> dict[int, float]:
        scores: defaultdict[int, float] = defaultdict(float)
        middles = self._middles(item, kind)
        for middle in middles:
            others = self._items_of_node[middle]
            if len(others) > rule.max_degree_of(kind):
                continue
            for other in others - {item}:
                norm = math.sqrt(len(middles) * len(self._middles(other, kind)))
                scores[other] += len(others) ** -rule.damping_of(kind) / norm
        return scores

    def _through_users(self, item: int, rule: RelatednessRule) -> dict[int, float]:
        scores: defaultdict[int, float] = defaultdict(float)
        users = self._users(item)
        counted = users[: rule.users_per_item]
        for user in counted:
            taken = self._items_taken(user)
            for other in taken[: rule.items_per_user]:
                if other != item:
                    norm = math.sqrt(len(users) * len(self._users(other)))
                    scores[other] += len(taken) ** -rule.user_damping / norm * len(users) / len(counted)
        return scores

    def _paths(self, history: int, item: int, rule: RelatednessRule) -> Iterable[GraphPath]:
        for node in self._nodes(history):
            if item in self._items_of_node[node.key]:
                norm = math.sqrt(len(self._middles(history, node.kind)) * len(self._middles(item, node.kind)))
                share = len(self._items_of_node[node.key]) ** -rule.damping_of(node.kind) / norm
                yield GraphPath(history, item, PATH_THROUGH[node.kind], node.name, share)
        left, right = set(self._users(history)), set(self._users(item))
        if common := left & right:
            norm = math.sqrt(len(left) * len(right))
            share = sum(len(self._items_taken(user)) ** -rule.user_damping for user in common) / norm
            yield GraphPath(history, item, MetaPath.ITEM_USER_ITEM, str(len(common)), share)


class MemoryGraphRebuild:
    """A new graph for a store in memory."""

    def __init__(self, store: MemoryGraphStore, rebuilt: MemoryGraphStore) -> None:
        self._store = store
        self._rebuilt = rebuilt

    async def fill(self, mutations: Sequence[Mutation]) -> None:
        """See GraphRebuild."""
        self._check()
        await self._rebuilt.apply(mutations)

    async def counts(self) -> GraphCounts:
        """See GraphRebuild."""
        self._check()
        return await self._rebuilt.counts()

    async def related(self, item_keys: Keys, rule: RelatednessRule) -> Sequence[RelatedItems]:
        """See GraphRebuild."""
        self._check()
        return await self._rebuilt.related(item_keys, rule)

    async def finish(self) -> None:
        """See GraphRebuild."""
        self._check()
        self._store.end_rebuild(self, self._rebuilt)

    async def abandon(self) -> None:
        """See GraphRebuild."""
        self._store.end_rebuild(self)

    def _check(self) -> None:
        if not self._store.is_filled_by(self):
            raise NotFoundError("this rebuild has ended, or another one has taken its place")


def _newest_first(edges: Mapping[int, _Edge]) -> list[int]:
    positive = [(-edge.occurred_at_ms, -key) for key, edge in edges.items() if edge.weight > 0]
    return [-key for _, key in sorted(positive)]
