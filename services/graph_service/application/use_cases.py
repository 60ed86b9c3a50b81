"""What the graph is asked and told: candidates, related items, explanations, changes."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from graph_service.application.expansion import Expander, ExpansionRule
from graph_service.application.filling import ListFiller
from graph_service.application.queries import Expansion, Explanation, ExplanationQuery, RankedItems, RelatedQuery
from graph_service.domain.composition import Candidates, best
from graph_service.domain.graph import DeletedItem, Floats, Interaction, Keys, Mutation, PutItem
from graph_service.domain.graph_cache import Contents, GraphCache
from graph_service.domain.ports import Applied, GraphCounts, GraphPath, GraphStore, RelatednessRule
from graph_service.domain.related_lists import RelatedList
from servicekit.clock import Clock
from servicekit.errors import ServiceError


class GraphUseCases:
    """One for each service; the ways in call it from the event loop.

    Args:
        store, cache, filler: What the graph is kept in and answered from.
        relatedness, expansion: The formula's constants.
        clock: Decides what may be shown.
        counts_edges: Whether `apply` makes lists older by the edges that it writes; where `learn` hears of all edges it
            does not.
    """

    def __init__(
        self,
        store: GraphStore,
        cache: GraphCache,
        filler: ListFiller,
        *,
        relatedness: RelatednessRule,
        expansion: ExpansionRule,
        clock: Clock,
        counts_edges: bool = True,
    ) -> None:
        self._store = store
        self._counts_edges = counts_edges
        self._cache = cache
        self._filler = filler
        self._relatedness = relatedness
        self._rule = expansion
        self._clock = clock
        self._expander = Expander(store, cache, filler, rule=expansion, clock=clock)

    async def expand_users(self, queries: Sequence[Expansion]) -> list[Candidates | ServiceError]:
        """Give each user's candidates, or why there are none."""
        return await self._expander.expand(queries)

    async def related_items(self, queries: Sequence[RelatedQuery]) -> list[RankedItems | ServiceError]:
        """Give the items related to each, or why they are not known."""
        keys = {query.item_key for query in queries}
        late = await self._filler.provide(keys)
        contents, now_ms = self._cache.contents, self._clock.now_ms()
        lists = contents.lists.use(keys)
        return [
            late.get(query.item_key) or self._rank(query, lists.get(query.item_key), contents, now_ms)
            for query in queries
        ]

    async def explain(self, query: ExplanationQuery) -> Explanation:
        """Give the paths from the history to the items.

        Raises:
            UnavailableError: The store cannot be reached.
        """
        history = query.history_keys[: self._rule.history_items].tolist()
        items = query.item_keys.tolist()
        facts = await self._store.facts(np.unique(np.array(history + items, dtype=np.int64)))
        order = {key: place for place, key in enumerate(history) if key in facts and facts[key].tenant == query.tenant}
        by_item: dict[int, list[GraphPath]] = {
            key: [] for key in items if key in facts and facts[key].tenant == query.tenant
        }
        paths = sorted(
            await self._store.paths(_key_array(order), _key_array(by_item), self._relatedness),
            key=lambda path: (-path.share, order[path.history_key], path.meta_path, path.through),
        )
        for path in paths:
            if len(by_item[path.item_key]) < query.limit:
                by_item[path.item_key].append(path)
        return [path for several in by_item.values() for path in several]

    async def describe(self) -> tuple[GraphCounts, str]:
        """Count what the graph holds, and name the one that serves.

        Raises:
            UnavailableError: The store cannot be reached.
        """
        return await self._store.counts(), await self._store.serving()

    async def apply(self, mutations: Sequence[Mutation]) -> None:
        """Change the graph; the cache knows when this returns.

        Raises:
            UnavailableError: The store cannot be reached; nothing was changed.
        """
        applied = await self._store.apply(mutations)
        self._cache.note(applied if self._counts_edges else replace(applied, new_edges={}))

    async def learn(self, changes: Sequence[Mutation]) -> None:
        """Take over into the cache what somebody else may have written to the store.

        Raises:
            UnavailableError: The store cannot be reached; the cache knows nothing new.
        """
        nodes: dict[int, frozenset[int]] = {}
        new_edges: Counter[int] = Counter()
        for change in changes:
            match change:
                case PutItem():
                    nodes[change.item_key] = frozenset(node.key for node in change.nodes)
                case DeletedItem():
                    nodes[change.item_key] = frozenset()
                case Interaction():
                    new_edges[change.item_key] += 1
        facts = await self._store.look_again(_key_array(nodes), _key_array(new_edges))
        had = self._cache.nodes_of(nodes)
        self._cache.note(Applied(facts, had.union(*nodes.values()), new_edges))

    def _rank(self, query: RelatedQuery, found: RelatedList | None, contents: Contents, now_ms: int) -> RankedItems:
        if found is None:
            return RankedItems(_NO_KEYS, _NO_SCORES)
        scores = found.combined(self._rule.path_weights if query.path_weights is None else query.path_weights)
        kept = np.flatnonzero((scores > 0) & contents.table.shown(query.tenant, now_ms)[found.positions])
        keys, scores = contents.table.keys[found.positions[kept]], scores[kept]
        order = best(keys, scores, query.limit)
        return RankedItems(keys[order], scores[order])


def _key_array(keys: Iterable[int]) -> Keys:
    return np.fromiter(keys, dtype=np.int64)


_NO_KEYS: Keys = np.zeros(0, dtype=np.int64)
_NO_SCORES: Floats = np.zeros(0, dtype=np.float32)
