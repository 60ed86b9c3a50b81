"""Candidates for users: the related lists of their history, added up, filtered and ranked."""

import asyncio
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from graph_service.application.filling import MARGIN_S, ListFiller
from graph_service.application.queries import Expansion
from graph_service.domain.composition import Candidates, Packed, Wish
from graph_service.domain.graph import Keys
from graph_service.domain.graph_cache import Contents, GraphCache
from graph_service.domain.item_table import FAILS, PASSES, UNKNOWN
from graph_service.domain.ports import GraphStore
from graph_service.domain.related_lists import PathWeights, RelatedList
from graph_service.domain.relatedness import Doubles
from servicekit.clock import Clock
from servicekit.deadline import remaining_s
from servicekit.errors import DeadlineExceededError, ServiceError
from servicekit.filters import Filter

JUDGED_AT_ONCE = 512
"""How many of a user's best candidates meet a new filter first; the rest only when too few of them pass."""

_NOBODY = Candidates(np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.int32))


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
    """

    contents: Contents
    lists: Mapping[int, RelatedList]
    late: Mapping[int, ServiceError]
    packed: dict[tuple[PathWeights, int | None], dict[int, Packed]]


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
        self._places = np.arange(rule.history_items, dtype=np.int32)
        self._clock = clock

    async def expand(self, queries: Sequence[Expansion]) -> list[Candidates | ServiceError]:
        """Give each user's candidates, or why there are none."""
        histories = [query.history_keys[: self._rule.history_items].tolist() for query in queries]
        keys = {key for history in histories for key in history}
        late = await self._filler.provide(keys)
        contents = self._cache.contents
        batch = _Batch(contents, contents.lists.use(keys), late, {})
        answers: list[Candidates | ServiceError] = [_NOBODY] * len(queries)
        groups: defaultdict[tuple[str, Filter], list[tuple[int, Wish]]] = defaultdict(list)
        for number, (query, history) in enumerate(zip(queries, histories, strict=True)):
            wish = self._wish(query, history, batch)
            if isinstance(wish, Wish):
                groups[query.tenant, query.conditions].append((number, wish))
            elif wish is not None:
                answers[number] = wish
        now_ms = self._clock.now_ms()
        for (tenant, conditions), members in groups.items():
            wishes = [wish for _, wish in members]
            try:
                found: Sequence[Candidates | ServiceError]
                if conditions:
                    found = await self._compose_passing(tenant, conditions, wishes, contents, now_ms)
                else:
                    found = contents.composer.compose(wishes, shown=contents.table.shown(tenant, now_ms))
            except ServiceError as error:
                found = [error] * len(wishes)
            for (number, _), each in zip(members, found, strict=True):
                answers[number] = each
        return answers

    def _wish(self, query: Expansion, history: list[int], batch: _Batch) -> Wish | ServiceError | None:
        """Say what is to be composed for a user; None when nothing of the history is known."""
        packed = self._packed(query, len(history), batch)
        places = [place for place, key in enumerate(history) if key in packed]
        if not places:
            return next((batch.late[key] for key in history if key in batch.late), None)
        known = slice(len(history)) if len(places) == len(history) else places
        return Wish(
            lists=[packed[history[place]] for place in places],
            weights=query.history_weights[known] * self._decay[known],
            places=self._places[known],
            exclude=np.concatenate([query.history_keys, query.exclude_keys]),
            limit=query.limit,
        )

    def _packed(self, query: Expansion, history_items: int, batch: _Batch) -> dict[int, Packed]:
        weights = self._rule.path_weights if query.path_weights is None else query.path_weights
        is_easy = history_items == self._rule.history_items and not query.conditions
        kept = self._rule.kept_per_item if is_easy else None
        packed = batch.packed.get((weights, kept))
        if packed is None:
            packed = {key: each.packed(weights, kept) for key, each in batch.lists.items()}
            batch.packed[weights, kept] = packed
        return packed

    async def _compose_passing(
        self, tenant: str, conditions: Filter, wishes: Sequence[Wish], contents: Contents, now_ms: int
    ) -> Sequence[Candidates]:
        """Compose what passes; of the items not judged before the best are judged, and the rest only if need be."""
        table, composer = contents.table, contents.composer
        everything = sum(len(each) for wish in wishes for each in wish.lists)
        for reach in (JUDGED_AT_ONCE, max(everything, JUDGED_AT_ONCE + 1)):
            shown = table.shown(tenant, now_ms)
            likely = composer.compose(
                [replace(wish, limit=max(reach, wish.limit)) for wish in wishes],
                shown=shown & (table.verdicts(conditions) != FAILS),
            )
            keys = np.unique(np.concatenate([each.keys for each in likely]))
            await self._judge(conditions, keys[table.verdicts(conditions)[table.positions(keys)] == UNKNOWN], contents)
            passing = table.shown(tenant, now_ms) & (table.verdicts(conditions) == PASSES)
            found = composer.compose(wishes, shown=passing)
            if all(
                len(each.keys) == wish.limit or len(may.keys) < max(reach, wish.limit)
                for each, may, wish in zip(found, likely, wishes, strict=True)
            ):
                break
        return found

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
