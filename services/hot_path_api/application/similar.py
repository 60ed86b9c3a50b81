"""Items similar to an item, and items whose text resembles words."""

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hot_path_api.application.catalogue import Catalogue
from hot_path_api.application.models import ServingModels
from hot_path_api.application.selector import Chosen, Conditions, Selector
from hot_path_api.domain.candidates import GRAPH
from hot_path_api.domain.plan import require_sources
from hot_path_api.domain.ports import Encoder, Graph, Similar, VectorIndex
from hot_path_api.domain.recommendations import MAX_DEPTH, Reason, ReasonCode, RecommendationList, RecommendedItem
from servicekit import metrics
from servicekit.arrays import Floats, Keys
from servicekit.errors import NotFoundError, ServiceError
from servicekit.filters import Filter

_SEARCH = "search"
_DEPTHS = (50, 200)


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list, and what its items must be."""

    request_id: str
    tenant: str
    limit: int
    offset: int = 0
    filter: Filter = ()

    @property
    def want(self) -> int:
        """How many items must be found to fill the page and to know whether another follows."""
        return self.offset + self.limit + 1

    @property
    def ask(self) -> int:
        """How many to ask for, since some found may be gone or hidden by now: the same for most pages of a list."""
        return next((depth for depth in _DEPTHS if depth >= self.want + 10), MAX_DEPTH)


class SimilarItems:
    """Asks the index, and the graph where the index cannot answer."""

    def __init__(
        self,
        *,
        index: VectorIndex,
        graph: Graph,
        catalogue: Catalogue,
        models: ServingModels,
        selector: Selector,
        timeout_s: float,
    ) -> None:
        self._index = index
        self._graph = graph
        self._catalogue = catalogue
        self._models = models
        self._selector = selector
        self._timeout_s = timeout_s

    async def similar(
        self, page: Page, item_key: int, *, weights: Mapping[str, float] | None = None
    ) -> RecommendationList:
        """Give items similar to one, most similar first.

        Raises:
            NotFoundError: There is no such item.
            InvalidArgumentError: The weights name a source that does not retrieve.
            ServiceError: Neither the index nor the graph answers.
        """
        if weights is not None:
            require_sources(weights, self._models.current(page.tenant).retrieval_sources)
        deadline = time.perf_counter() + self._timeout_s
        degraded: list[str] = []
        try:
            found = await self._index.similar(
                page.tenant,
                item_key,
                conditions=page.filter,
                limit=page.ask,
                weights=weights,
                timeout_s=0.6 * self._timeout_s,
            )
        except ServiceError as error:
            # A new item is in the catalogue, and often in the graph, before the index knows it.
            item = await self._catalogue.one(item_key, timeout_s=max(deadline - time.perf_counter(), 0.005))
            if not isinstance(error, NotFoundError):
                degraded.append("vectors")
                metrics.DEGRADED.labels("vectors", error.code).inc()
            keys, scores = await self._graph.related(
                page.tenant, item.key, limit=page.ask, timeout_s=max(deadline - time.perf_counter(), 0.005)
            )
            found = Similar(keys=keys, scores=scores, names=(GRAPH,), shares=scores[np.newaxis, :])
        order = np.argsort(-found.scores, kind="stable")
        order = order[found.keys[order] != item_key]
        keys, scores, shares = found.keys[order], found.scores[order], found.shares[:, order]
        chosen = await _choose(self._selector, page, keys, scores, deadline)
        origin = self._catalogue.peek(item_key)
        items = _describe(page, chosen, scores, found.names, shares, Reason(ReasonCode.SIMILAR_TO, item=origin))
        return _answer(page, chosen, items, self._models.current(page.tenant).version, "similar", degraded)


class TextSearch:
    """Finds items by meaning; the vectors of recent queries are kept.

    Args:
        capacity: How many query vectors are kept.
    """

    def __init__(
        self,
        *,
        encoder: Encoder,
        index: VectorIndex,
        models: ServingModels,
        selector: Selector,
        timeout_s: float,
        capacity: int = 10_000,
    ) -> None:
        self._encoder = encoder
        self._index = index
        self._models = models
        self._selector = selector
        self._timeout_s = timeout_s
        self._capacity = capacity
        self._vectors: OrderedDict[str, Floats] = OrderedDict()

    async def search(self, page: Page, text: str) -> RecommendationList:
        """Give items whose texts mean what the words mean, nearest first; words without meaning find nothing.

        Raises:
            ServiceError: The encoder or the index does not answer.
        """
        deadline = time.perf_counter() + self._timeout_s
        vector = await self._vector(text)
        keys: Keys = np.empty(0, np.int64)
        scores: Floats = np.empty(0, np.float32)
        if vector.any():
            keys, scores = await self._index.search(
                page.tenant,
                vector,
                conditions=page.filter,
                limit=page.ask,
                timeout_s=deadline - time.perf_counter(),
            )
            order = np.argsort(-scores, kind="stable")
            keys, scores = keys[order], scores[order]
        chosen = await _choose(self._selector, page, keys, scores, deadline)
        reason = Reason(ReasonCode.MATCHES_QUERY)
        items = _describe(page, chosen, scores, ("content",), scores[np.newaxis, :], reason)
        return _answer(page, chosen, items, self._models.current(page.tenant).version, _SEARCH, [])

    async def _vector(self, text: str) -> Floats:
        vector = self._vectors.get(text)
        if vector is None:
            vector = await self._encoder.encode(text, timeout_s=self._timeout_s)
            self._vectors[text] = vector
            if len(self._vectors) > self._capacity:
                self._vectors.popitem(last=False)
        else:
            self._vectors.move_to_end(text)
        return vector


async def _choose(selector: Selector, page: Page, keys: Keys, scores: Floats, deadline: float) -> Chosen:
    return await selector.choose(
        keys,
        scores,
        want=page.want,
        conditions=Conditions(filter=page.filter),
        timeout_s=max(deadline - time.perf_counter(), 0.005),
    )


def _describe(
    page: Page, chosen: Chosen, scores: Floats, names: tuple[str, ...], shares: Floats, reason: Reason
) -> list[RecommendedItem]:
    shown = slice(page.offset, page.offset + page.limit)
    ranks = chosen.ranks[shown]
    told = scores[ranks].astype(np.float64).round(6).tolist()
    rows = shares[:, ranks].T.astype(np.float64).round(6).tolist()
    return [
        RecommendedItem(item, score, {name: share for name, share in zip(names, row, strict=True) if share}, (reason,))
        for item, score, row in zip(chosen.items[shown], told, rows, strict=True)
    ]


def _answer(
    page: Page, chosen: Chosen, items: Sequence[RecommendedItem], version: str, strategy: str, degraded: list[str]
) -> RecommendationList:
    if chosen.items_missing is not None:
        degraded.append("items")
        metrics.DEGRADED.labels("items", chosen.items_missing.code).inc()
        if not items:
            raise chosen.items_missing
    metrics.RECOMMENDATIONS.labels("default", strategy).inc()
    return RecommendationList(
        request_id=page.request_id,
        model_version=version,
        items=items,
        degraded=degraded,
        strategy=strategy,
        has_more=len(chosen.ranks) == page.want and page.offset + page.limit < MAX_DEPTH,
    )
