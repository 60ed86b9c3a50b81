"""The candidate sources of the pipeline."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from hot_path_api.application.popularity import PopularityLists
from hot_path_api.domain.candidates import NO_CANDIDATES, TRENDING, Candidates, SourceQuery
from hot_path_api.domain.plan import Plan
from hot_path_api.domain.popularity import Popularity, Window
from hot_path_api.domain.ports import Graph, VectorIndex
from servicekit.errors import ServiceError


class CandidateSource(Protocol):
    """Finds candidates; `name` stands in answers that had to do without it."""

    name: str

    def is_asked(self, plan: Plan, query: SourceQuery) -> bool:
        """Tell whether it has anything to say."""
        ...

    async def retrieve(
        self, asked: Sequence[tuple[Plan, SourceQuery]], *, timeout_s: float
    ) -> Sequence[Candidates | ServiceError]:
        """Find for each user candidates that pass the query's filter and are not excluded.

        Raises:
            ServiceError: It cannot say anything now; the lists are made without it.
        """
        ...


class VectorSource:
    """Tables, overlay and dense vectors: cooccurrence, transition, content, nearest, with the model's columns."""

    name = "vectors"

    def __init__(self, index: VectorIndex) -> None:
        self._index = index

    def is_asked(self, plan: Plan, query: SourceQuery) -> bool:
        """A history is needed."""
        return plan.retrieval and len(query.history_keys) > 0

    async def retrieve(
        self, asked: Sequence[tuple[Plan, SourceQuery]], *, timeout_s: float
    ) -> Sequence[Candidates | ServiceError]:
        """Ask vector_search."""
        queries = [_weighed(query, plan.retrieval_weights) for plan, query in asked]
        return await self._index.retrieve(queries, timeout_s=timeout_s)


class GraphSource:
    """Items related through people, genres and other users to the last few of the history."""

    name = "graph"

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def is_asked(self, plan: Plan, query: SourceQuery) -> bool:
        """A history is needed."""
        return plan.graph and len(query.history_keys) > 0

    async def retrieve(
        self, asked: Sequence[tuple[Plan, SourceQuery]], *, timeout_s: float
    ) -> Sequence[Candidates | ServiceError]:
        """Ask graph_service."""
        queries = [_weighed(query, plan.graph_weights) for plan, query in asked]
        return await self._graph.expand(queries, timeout_s=timeout_s)


class TrendingSource:
    """What is popular: candidates where a caller weighs them against others, and what fills a list that runs short."""

    name = "trending"

    def __init__(self, lists: PopularityLists) -> None:
        self._lists = lists

    async def retrieve(self, query: SourceQuery, window: Window, *, timeout_s: float) -> tuple[Candidates, bool]:
        """Give popular items that pass, and whether the list is a fresh one.

        Raises:
            ServiceError: There is no list, not even an old one.
        """
        popularity = self._lists.peek(query.tenant, window, query.filter)
        fresh = True
        if popularity is None:
            popularity, fresh = await self._lists.get(query.tenant, window, query.filter, timeout_s=timeout_s)
        return popular_candidates(popularity, query), fresh


def _weighed(query: SourceQuery, weights: Mapping[str, float] | None) -> SourceQuery:
    return query if weights is None else replace(query, weights=weights)


def popular_candidates(popularity: Popularity, query: SourceQuery) -> Candidates:
    """Give popular items as candidates, without those that the user has seen."""
    keys, shares = popularity.keys, popularity.shares
    seen = np.concatenate((query.history_keys, query.exclude_keys))
    if len(seen):
        keep = ~np.isin(keys, seen)
        keys, shares = keys[keep], shares[keep]
    if not len(keys):
        return NO_CANDIDATES
    return Candidates(
        keys=keys,
        names=(TRENDING,),
        features=shares[np.newaxis, :],
        because=np.full(len(keys), -1, np.int32),
        shares=frozenset({TRENDING}),
    )
