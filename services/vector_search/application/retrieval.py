"""Candidates, similar items and explanations: the tables first, the dense index where they say too little."""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from servicekit.arrays import Keys
from servicekit.deadline import deadline_after, remaining_s
from servicekit.errors import NotFoundError, ServiceError, UnavailableError
from servicekit.filters import Filter
from servicekit.logs import get_logger
from servicekit.metrics import DEGRADED, VECTOR_SEARCH_LATENCY
from vector_search.application.content import ContentVectors
from vector_search.application.search import search_open
from vector_search.application.tenants import Serving, Tenants
from vector_search.domain.dense import Neighbours
from vector_search.domain.explanation import Contribution, explain
from vector_search.domain.model import NEAREST
from vector_search.domain.nearest import Taste, add_nearest, wants_nearest
from vector_search.domain.newcomers import with_newcomers
from vector_search.domain.retrieval import Candidates, UserQuery, in_order

_log = get_logger(__name__)

_LEAST_S = 0.015  # with less time left, the dense index is not asked
_NEAREST_PART = 0.5  # of what is left; the rest is for answering without it


@dataclass(frozen=True, slots=True, eq=False)
class SimilarQuery:
    """Which item's neighbours are wanted."""

    key: int
    limit: int
    conditions: Filter = ()
    source_weights: Mapping[str, float] | None = None


class Retrieval:
    """Answers batches of queries; the kernel runs in threads of its own, so that the event loop stays free."""

    def __init__(self, tenants: Tenants, content: ContentVectors, *, threads: int = 1) -> None:
        self._tenants = tenants
        self._content = content
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="kernel")

    async def retrieve(self, tenant: str, queries: Sequence[UserQuery]) -> list[Candidates]:
        """Give the candidates of many users of one tenant."""
        serving = self._tenants.find(tenant).active
        batches = serving.retriever.prepare(queries, threads=self._threads)
        loop = asyncio.get_running_loop()
        with VECTOR_SEARCH_LATENCY.time():
            parts = await asyncio.gather(*(loop.run_in_executor(self._pool, batch.run) for batch in batches))
        answers = in_order(batches, parts)
        poor = [place for place, query in enumerate(queries) if wants_nearest(query, answers[place])]
        if poor and remaining_s() > _LEAST_S:
            try:
                with deadline_after(_NEAREST_PART * remaining_s()):
                    await self._add_nearest(tenant, serving, queries, answers, poor)
            except UnavailableError as error:  # the tables' answers are good without it
                DEGRADED.labels(NEAREST, error.code).inc()
                _log.warning("answered without the dense index", error=error.message)
        return answers

    async def similar(self, tenant: str, queries: Sequence[SimilarQuery]) -> list[Candidates | ServiceError]:
        """Give the items similar to some, by the tables and by the dense index where these do not know the item."""
        serving = self._tenants.find(tenant).active
        unknown: dict[int, ServiceError] = {
            query.key: NotFoundError(f"item {query.key} is not known", field="item_key")
            for query in queries
            if not serving.catalogue.has(query.key)
        }
        try:
            for key in await self._stored(tenant, serving, set(unknown)):
                del unknown[key]
        except UnavailableError as error:  # the other items are known without it
            unknown = dict.fromkeys(unknown, error)
        asked = [
            UserQuery(
                np.array([query.key], np.int64),
                np.ones(1, np.float32),
                np.zeros(1, np.float32),
                query.limit,
                conditions=query.conditions,
                source_weights=query.source_weights,
            )
            for query in queries
            if query.key not in unknown
        ]
        found = await self.retrieve(tenant, asked) if asked else ()
        # Weights are the caller's own say about what counts.
        answers = (
            each if query.source_weights else with_newcomers(each) for query, each in zip(asked, found, strict=True)
        )
        return [unknown[query.key] if query.key in unknown else next(answers) for query in queries]

    def explain(self, tenant: str, query: UserQuery, keys: Keys, *, limit: int) -> list[Contribution]:
        """Give for each of the items which history items gave most to its score, through which source."""
        return explain(self._tenants.find(tenant).active.retriever, query, keys, limit=limit)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    async def _stored(self, tenant: str, serving: Serving, keys: set[int]) -> set[int]:
        """Give those of the keys that have a vector although the catalogue does not know them."""
        async with self._content.reading(tenant, serving.version.encoder) as index:
            if index is None or not keys:
                return set()
            found, _ = await index.vectors(np.array(sorted(keys), np.int64))
            return {key for key in found.tolist() if not serving.catalogue.knows(key)}

    async def _add_nearest(
        self,
        tenant: str,
        serving: Serving,
        queries: Sequence[UserQuery],
        answers: list[Candidates],
        poor: Sequence[int],
    ) -> None:
        async with self._content.reading(tenant, serving.version.encoder) as index:
            if index is None:
                return
            wanted = np.unique(np.concatenate([queries[place].history_keys for place in poor]))
            keys, vectors = await index.vectors(wanted)
            stored = dict(zip(keys.tolist(), vectors, strict=True))
            tastes = {place: taste for place in poor if (taste := Taste.of(queries[place], stored)) is not None}
            batches: dict[tuple[int, Filter], list[int]] = {}
            for place in tastes:
                batches.setdefault((queries[place].limit, queries[place].conditions), []).append(place)
            found: dict[int, Neighbours] = {}
            for (limit, conditions), places in batches.items():
                neighbours = await search_open(
                    index,
                    serving.catalogue,
                    np.stack([tastes[place].mean for place in places]),
                    limit=limit,
                    conditions=conditions,
                    exclude=[_barred(queries[place]) for place in places],
                )
                found |= dict(zip(places, neighbours, strict=True))
            if not found:
                return
            # Read back to name the history items that they are like.
            keys, vectors = await index.vectors(np.unique(np.concatenate([each.keys for each in found.values()])))
        row_of = {key: row for row, key in enumerate(keys.tolist())}
        for place, near in found.items():
            there = [key for key in near.keys.tolist() if key in row_of]
            givers = tastes[place].givers(vectors[[row_of[key] for key in there]])
            reasons = dict(zip(there, givers.tolist(), strict=True))
            answers[place] = add_nearest(serving.retriever, queries[place], answers[place], near, reasons)


def _barred(query: UserQuery) -> Keys:
    """Give what must not come back."""
    if query.include_history:
        return query.exclude_keys
    return np.concatenate([query.exclude_keys, query.history_keys])
