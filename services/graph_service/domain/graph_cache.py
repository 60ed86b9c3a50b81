"""The cache as a whole: lists, the items in them, and what happens to both when the graph changes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from graph_service.domain.composition import Composer
from graph_service.domain.graph import ItemFacts
from graph_service.domain.item_table import ItemTable
from graph_service.domain.ports import Applied, RelatedItems
from graph_service.domain.related_lists import FreshnessRule, RelatedList, RelatedLists


@dataclass(slots=True)
class Watch:
    """What changed while somebody read the store, so that what was read is not taken for newer than it is."""

    changes: int
    facts: dict[int, ItemFacts] = field(default_factory=dict)
    nodes: set[int] = field(default_factory=set)
    new_edges: dict[int, int] = field(default_factory=dict)
    is_outdated: bool = False


class Contents:
    """Lists, items and work space that belong together, since lists name items by their positions."""

    def __init__(self, capacity: int, rule: FreshnessRule) -> None:
        self.table: Final = ItemTable()
        self.lists: Final = RelatedLists(capacity, rule)
        self.composer: Final = Composer(self.table)


class GraphCache:
    """Belongs to the event loop's thread.

    Args:
        capacity: The most lists.
        max_items: The most items in them; beyond that the cache begins anew.
        rule: When a list has to be computed again.
    """

    def __init__(self, *, capacity: int, max_items: int, rule: FreshnessRule) -> None:
        self._capacity = capacity
        self._max_items = max_items
        self._rule = rule
        self._watches: list[Watch] = []
        self.contents = Contents(capacity, rule)
        self.changes = 0

    def clear(self) -> None:
        """Forget everything, since another graph serves now; what is being read is old when it arrives."""
        self.changes += 1
        self.contents = Contents(self._capacity, self._rule)
        self.contents.lists.changes = self.changes
        for watch in self._watches:
            watch.is_outdated = True

    @contextmanager
    def watch(self) -> Iterator[Watch]:
        """Collect what changes during the block, in which the store is read."""
        watch = Watch(self.changes)
        self._watches.append(watch)
        try:
            yield watch
        finally:
            self._watches.remove(watch)

    def note(self, applied: Applied) -> None:
        """Take over what the store was told: facts at once; lists are dropped, outdated or counted as a bit older."""
        if not (applied.facts or applied.nodes or applied.new_edges):
            return
        self.changes += 1
        table, lists = self.contents.table, self.contents.lists
        lists.changes = self.changes
        for key, facts in applied.facts.items():
            table.change(key, facts)
            lists.drop(key)
        lists.note_changed_nodes(applied.nodes)
        for key, count in applied.new_edges.items():
            lists.note_new_edges(key, count)
        for watch in self._watches:
            watch.facts |= applied.facts
            watch.nodes |= applied.nodes
            for key, count in applied.new_edges.items():
                watch.new_edges[key] = watch.new_edges.get(key, 0) + count

    def nodes_of(self, keys: Iterable[int]) -> frozenset[int]:
        """Give the nodes that items had when their lists were computed."""
        lists = self.contents.lists
        return frozenset(node for key in keys if (found := lists.find(key)) is not None for node in found.nodes)

    def unknown_items(self, found: Sequence[RelatedItems]) -> list[int]:
        """Give the items of these lists whose facts have yet to be read."""
        return self.contents.table.unknown({key for each in found for key in each.keys.tolist()})

    def put(
        self,
        keys: Sequence[int],
        found: Sequence[RelatedItems],
        facts: Mapping[int, ItemFacts],
        watch: Watch,
        now_s: float,
    ) -> None:
        """Keep computed lists, and the facts of the items in them that had been unknown."""
        if len(self.contents.table) > self._max_items:
            self.contents = Contents(self._capacity, self._rule)
            self.contents.lists.changes = self.changes
        table, lists = self.contents.table, self.contents.lists
        newest = {**facts, **watch.facts}
        for key, each in zip(keys, found, strict=True):
            table.place(each.keys.tolist(), newest)
            computed = RelatedList(
                table.positions(each.keys).astype("int32"), each.scores, each.nodes, each.users, now_s, watch.changes
            )
            computed.new_edges = watch.new_edges.get(key, 0)
            computed.outdated = watch.is_outdated or key in watch.facts or not watch.nodes.isdisjoint(each.nodes)
            lists.put(key, computed)

    def missing(self, keys: Iterable[int]) -> list[int]:
        """Give the distinct items that have no list here."""
        lists = self.contents.lists
        return [key for key in dict.fromkeys(keys) if key not in lists]

    def due(self, keys: Iterable[int], now_s: float) -> list[int]:
        """Give the items whose lists are here and should be computed again."""
        lists = self.contents.lists
        return [key for key in keys if (found := lists.find(key)) is not None and lists.is_due(found, now_s)]
