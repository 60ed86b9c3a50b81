"""What the graph is asked and told: candidates, related items, explanations, changes."""

import asyncio
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graph_service.application.filling import ListFiller
from graph_service.application.queries import Expansion, Explanation, ExplanationQuery, RankedItems, RelatedQuery
from graph_service.domain.composition import Candidates, best
from graph_service.domain.graph import Floats, Keys, MetaPath, Mutation
from graph_service.domain.graph_cache import Contents, GraphCache
from graph_service.domain.item_table import PASSES, UNKNOWN
from graph_service.domain.ports import GraphPath, GraphStore, RelatednessRule
from graph_service.domain.related_lists import PathWeights, RelatedList
from graph_service.domain.relatedness import Indices
from servicekit import metrics
from servicekit.clock import Clock
from servicekit.deadline import remaining_s
from servicekit.errors import DeadlineExceededError, ServiceError
from servicekit.filters import Filter

MARGIN_S = 0.005
"""Kept back from the wait for lists, to compose an answer from those that are there."""

USERS_BETWEEN_TURNS = 16
"""After so many users the event loop gets a turn: they take some 2 ms."""

JUDGED_AT_ONCE = 512
"""How many of the best candidates meet a filter first; the rest only when too few of them pass."""


@dataclass(frozen=True, slots=True)
class ExpansionRule:
    """How candidates are composed.

    Args:
        history_items: How many of the history's items are used.
        half_life_items: After how many positions a history item counts half.
        kept_per_item: How many related items of each are used.
        path_weights: The multipliers of CANDIDATE_PATHS for those who name none.
        fill_timeout_s: How long at most an answer waits for lists that are not in the cache.
    """

    history_items: int = 20
    half_life_items: float = 5.0
    kept_per_item: int = 150
    path_weights: PathWeights = (1.0, 1.0, 1.0)
    fill_timeout_s: float = 0.05

    def decay(self) -> Floats:
        """Give float32[history_items], what a position multiplies."""
        decay: Floats = (0.5 ** (np.arange(self.history_items) / self.half_life_items)).astype(np.float32)
        return decay


class GraphUseCases:
    """One for each service; the ways in call it from the event loop."""

    def __init__(
        self,
        store: GraphStore,
        cache: GraphCache,
        filler: ListFiller,
        *,
        relatedness: RelatednessRule,
        expansion: ExpansionRule,
        clock: Clock,
    ) -> None:
        self._store = store
        self._cache = cache
        self._filler = filler
        self._relatedness = relatedness
        self._rule = expansion
        self._decay = expansion.decay()
        self._clock = clock
        self._hits = metrics.CACHE_HITS.labels("related_items", "memory")
        self._misses = metrics.CACHE_MISSES.labels("related_items", "memory")

    async def expand_users(self, queries: Sequence[Expansion]) -> list[Candidates | ServiceError]:
        """Give each user's candidates, or why there are none."""
        histories = [query.history_keys[: self._rule.history_items].tolist() for query in queries]
        late = await self._have_lists({key for history in histories for key in history})
        contents, now_ms = self._cache.contents, self._clock.now_ms()
        answers: list[Candidates | ServiceError] = []
        for number, (query, history) in enumerate(zip(queries, histories, strict=True), start=1):
            try:
                answers.append(await self._expand(query, history, late, contents, now_ms))
            except ServiceError as error:
                answers.append(error)
            if number % USERS_BETWEEN_TURNS == 0:
                await asyncio.sleep(0)
        return answers

    async def related_items(self, queries: Sequence[RelatedQuery]) -> list[RankedItems | ServiceError]:
        """Give the items related to each, or why they are not known."""
        late = await self._have_lists({query.item_key for query in queries})
        contents, now_ms = self._cache.contents, self._clock.now_ms()
        return [
            late.get(query.item_key) or self._rank(query, contents.lists.get(query.item_key), contents, now_ms)
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
        found = await self._store.paths(_key_array(order), _key_array(by_item), self._relatedness)
        paths = sorted(
            map(self._weighted, found),
            key=lambda path: (-path.share, order[path.history_key], path.meta_path, path.through),
        )
        for path in paths:
            if len(by_item[path.item_key]) < query.limit:
                by_item[path.item_key].append(path)
        return [path for several in by_item.values() for path in several]

    async def apply(self, mutations: Sequence[Mutation]) -> None:
        """Change the graph; the cache knows when this returns.

        Raises:
            UnavailableError: The store cannot be reached; nothing was changed.
        """
        self._cache.note(await self._store.apply(mutations))

    async def _have_lists(self, keys: set[int]) -> Mapping[int, ServiceError]:
        """See to it that items have lists; give the reason for those that have none in time."""
        missing = self._cache.missing(keys)
        self._hits.inc(len(keys) - len(missing))
        late: Mapping[int, ServiceError] = {}
        if missing:
            self._misses.inc(len(missing))
            late = await self._filler.ensure(missing, min(self._rule.fill_timeout_s, remaining_s() - MARGIN_S))
        self._filler.renew_if_due(keys)
        return late

    async def _expand(
        self, query: Expansion, history: list[int], late: Mapping[int, ServiceError], contents: Contents, now_ms: int
    ) -> Candidates:
        weights = self._rule.path_weights if query.path_weights is None else query.path_weights
        found = [
            (place, each.packed(weights, self._rule.kept_per_item))
            for place, key in enumerate(history)
            if (each := contents.lists.get(key)) is not None
        ]
        if not found:
            if error := next((late[key] for key in history if key in late), None):
                raise error
            return _nothing()
        places = np.array([place for place, _ in found])
        sums = contents.composer.add_up(
            [packed for _, packed in found],
            query.history_weights[places] * self._decay[places],
            shown=contents.table.shown(query.tenant, now_ms),
            exclude=np.concatenate([query.history_keys, query.exclude_keys]),
        )
        if query.conditions:
            chosen = await self._passing(
                query.conditions, sums.keys, sums.positions, sums.scores, query.limit, contents
            )
        else:
            chosen = best(sums.keys, sums.scores, query.limit)
        candidates = contents.composer.choose(sums, chosen)
        return Candidates(candidates.keys, candidates.scores, places[candidates.because].astype(np.int32))

    async def _passing(
        self, conditions: Filter, keys: Keys, positions: Indices, scores: Floats, limit: int, contents: Contents
    ) -> Indices:
        """Give the indices of the best items that pass, best first; attributes are read of those not judged before."""
        order = best(keys, scores, len(keys))
        passing: list[int] = []
        for part in np.split(order, [JUDGED_AT_ONCE]):
            verdicts = contents.table.verdicts(conditions)[positions[part]]
            unknown = keys[part[verdicts == UNKNOWN]]
            if len(unknown):
                await self._judge(conditions, unknown, contents)
                verdicts = contents.table.verdicts(conditions)[positions[part]]
            passing += part[verdicts == PASSES].tolist()
            if len(passing) >= limit:
                break
        return np.array(passing[:limit], dtype=np.intp)

    async def _judge(self, conditions: Filter, keys: Keys, contents: Contents) -> None:
        left_s = remaining_s() - MARGIN_S
        with self._cache.watch() as watch:
            try:
                async with asyncio.timeout(None if math.isinf(left_s) else left_s):
                    items = await self._store.filterable(keys)
            except TimeoutError as error:
                raise DeadlineExceededError("the attributes for the filter could not be read in time") from error
            contents.table.judge(conditions, keys, items, changed=watch.facts)

    def _rank(self, query: RelatedQuery, found: RelatedList | None, contents: Contents, now_ms: int) -> RankedItems:
        if found is None:
            return RankedItems(_NO_KEYS, _NO_SCORES)
        scores = found.combined(self._rule.path_weights if query.path_weights is None else query.path_weights)
        kept = np.flatnonzero((scores > 0) & contents.table.shown(query.tenant, now_ms)[found.positions])
        keys, scores = contents.table.keys[found.positions[kept]], scores[kept]
        order = best(keys, scores, query.limit)
        return RankedItems(keys[order], scores[order])

    def _weighted(self, path: GraphPath) -> GraphPath:
        person, genre, user = self._rule.path_weights
        weight = {
            MetaPath.ITEM_PERSON_ITEM: person,
            MetaPath.ITEM_GENRE_ITEM: genre,
            MetaPath.ITEM_USER_ITEM: user,
            MetaPath.ITEM_COUNTRY_ITEM: 1.0,
        }[path.meta_path]
        return GraphPath(path.history_key, path.item_key, path.meta_path, path.through, path.share * weight)


def _key_array(keys: Iterable[int]) -> Keys:
    return np.fromiter(keys, dtype=np.int64)


_NO_KEYS: Keys = np.zeros(0, dtype=np.int64)
_NO_SCORES: Floats = np.zeros(0, dtype=np.float32)


def _nothing() -> Candidates:
    return Candidates(_NO_KEYS, _NO_SCORES, np.zeros(0, dtype=np.int32))
