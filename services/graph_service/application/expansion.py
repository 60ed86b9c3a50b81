"""Candidates for users: the related lists of their history, added up, filtered and ranked."""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graph_service.application.filling import MARGIN_S, ListFiller
from graph_service.application.queries import Expansion
from graph_service.domain.composition import Candidates, Packed, Sums, best
from graph_service.domain.graph import Keys
from graph_service.domain.graph_cache import Contents, GraphCache
from graph_service.domain.item_table import PASSES, UNKNOWN
from graph_service.domain.ports import GraphStore
from graph_service.domain.related_lists import PathWeights, RelatedList
from graph_service.domain.relatedness import Doubles, Indices
from servicekit.clock import Clock
from servicekit.deadline import remaining_s
from servicekit.errors import DeadlineExceededError, ServiceError
from servicekit.filters import Filter

USERS_BETWEEN_TURNS = 16
"""After so many users the event loop gets a turn: they take some 2 ms."""

JUDGED_AT_ONCE = 512
"""How many of the best candidates meet a new filter first; the rest only when too few of them pass."""


@dataclass(frozen=True, slots=True)
class ExpansionRule:
    """How candidates are composed.

    Args:
        history_items: How many of the history's items are used.
        half_life_items: After how many positions a history item counts half.
        kept_per_item: How many related items of each are used, the best under the weights asked for. A short history
            or a filter needs more: then all that are kept are used.
        path_weights: The multipliers of CANDIDATE_PATHS for those who name none.
    """

    history_items: int = 10
    half_life_items: float = 2.0
    kept_per_item: int = 100
    path_weights: PathWeights = (0.05, 0.1, 1.0)

    def decay(self) -> Doubles:
        """Give float64[history_items], what a position multiplies."""
        decay: Doubles = 0.5 ** (np.arange(self.history_items) / self.half_life_items)
        return decay


@dataclass(slots=True)
class _Batch:
    """What the users of one batch share.

    Args:
        contents: The cache as it was when the batch began.
        lists: The related lists of all their history items.
        late: Why an item has none.
        packed: The lists under the weights met so far.
        now_ms: One moment for all.
    """

    contents: Contents
    lists: Mapping[int, RelatedList]
    late: Mapping[int, ServiceError]
    packed: dict[tuple[PathWeights, int | None], dict[int, Packed]]
    now_ms: int


class Expander:
    """Composes candidates; everything that the arithmetic needs is in the cache, or is waited for first."""

    def __init__(
        self, store: GraphStore, cache: GraphCache, filler: ListFiller, *, rule: ExpansionRule, clock: Clock
    ) -> None:
        self._store = store
        self._cache = cache
        self._filler = filler
        self._rule = rule
        self._decay = rule.decay()
        self._clock = clock

    async def expand(self, queries: Sequence[Expansion]) -> list[Candidates | ServiceError]:
        """Give each user's candidates, or why there are none."""
        histories = [query.history_keys[: self._rule.history_items].tolist() for query in queries]
        keys = {key for history in histories for key in history}
        late = await self._filler.provide(keys)
        contents = self._cache.contents
        batch = _Batch(contents, contents.lists.use(keys), late, {}, self._clock.now_ms())
        answers: list[Candidates | ServiceError] = []
        for number, (query, history) in enumerate(zip(queries, histories, strict=True), start=1):
            try:
                answers.append(await self._expand(query, history, batch))
            except ServiceError as error:
                answers.append(error)
            if number % USERS_BETWEEN_TURNS == 0:
                await asyncio.sleep(0)
        return answers

    async def _expand(self, query: Expansion, history: list[int], batch: _Batch) -> Candidates:
        packed = self._packed(query, len(history), batch)
        found = [(place, packed[key]) for place, key in enumerate(history) if key in packed]
        if not found:
            if error := next((batch.late[key] for key in history if key in batch.late), None):
                raise error
            return Candidates(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.int32))
        places = np.array([place for place, _ in found])
        sums = batch.contents.composer.add_up(
            [each for _, each in found],
            query.history_weights[places] * self._decay[places],
            shown=batch.contents.table.shown(query.tenant, batch.now_ms),
            exclude=np.concatenate([query.history_keys, query.exclude_keys]),
        )
        if query.conditions:
            chosen = await self._best_passing(query.conditions, sums, query.limit, batch.contents)
        else:
            chosen = best(sums.keys, sums.scores, query.limit)
        candidates = batch.contents.composer.choose(sums, chosen)
        return Candidates(candidates.keys, candidates.scores, places[candidates.because].astype(np.int32))

    def _packed(self, query: Expansion, history_items: int, batch: _Batch) -> dict[int, Packed]:
        weights = self._rule.path_weights if query.path_weights is None else query.path_weights
        is_easy = history_items == self._rule.history_items and not query.conditions
        kept = self._rule.kept_per_item if is_easy else None
        packed = batch.packed.get((weights, kept))
        if packed is None:
            packed = {key: each.packed(weights, kept) for key, each in batch.lists.items()}
            batch.packed[weights, kept] = packed
        return packed

    async def _best_passing(self, conditions: Filter, sums: Sums, limit: int, contents: Contents) -> Indices:
        """Give the indices of the best items that pass, best first; of those not judged before the best are judged."""
        verdicts = contents.table.verdicts(conditions)[sums.positions]
        if (verdicts == UNKNOWN).any():
            order = best(sums.keys, sums.scores, len(sums.keys))
            passing = 0
            for part in np.split(order, [JUDGED_AT_ONCE]):
                await self._judge(conditions, sums.keys[part[verdicts[part] == UNKNOWN]], contents)
                verdicts = contents.table.verdicts(conditions)[sums.positions]
                passing += int(np.count_nonzero(verdicts[part] == PASSES))
                if passing >= limit:
                    break
        passed = np.flatnonzero(verdicts == PASSES)
        chosen: Indices = passed[best(sums.keys[passed], sums.scores[passed], limit)]
        return chosen

    async def _judge(self, conditions: Filter, keys: Keys, contents: Contents) -> None:
        if not len(keys):
            return
        left_s = remaining_s() - MARGIN_S
        with self._cache.watch() as watch:
            try:
                async with asyncio.timeout(None if math.isinf(left_s) else left_s):
                    items = await self._store.filterable(keys)
            except TimeoutError as error:
                raise DeadlineExceededError("the attributes for the filter could not be read in time") from error
            contents.table.judge(conditions, keys, items, changed=watch.facts)
