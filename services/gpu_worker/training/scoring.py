"""Scores of held-out queries, computed as the serving side does: tables, factors and graph over a weighted history."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from gpu_worker.training import meta_paths
from gpu_worker.training.blend import LOG_POPULARITY, Choices, signed_root
from gpu_worker.training.histories import Queries
from gpu_worker.training.metrics import K, ranking_metrics, top_hits
from gpu_worker.training.recipe import SHARES, TABLES, Recipe
from servicekit.arrays import Floats

CANDIDATES = 200
GRAPH_CANDIDATES = 100
"""The gateway asks vector_search and graph_service for so many candidates."""
_CHUNK = 512  # queries scored at once; bounds the dense scores to 512 * N floats
_SCALE_QUERIES = 200
_DENSE_FROM = 0.02
_SILENT = 1e-12
"""A mean square share below this is rounding: so small are iALS factors that the ridge has shrunk away."""


@dataclass(frozen=True, slots=True)
class Components:
    """What scores: the tables and the graph as float32 [N, N], the factors as (items, fold-in), log-popularity [N]."""

    matrices: Mapping[str, sp.csr_array | Floats]
    factors: tuple[Floats, Floats]
    log_popularity: Floats

    def score(self, source: str, history: sp.csr_array) -> Floats:
        """Give the raw shares float32[Q, N] of weighted histories float32 [Q, N]."""
        if source == "factors":
            items, fold_in = self.factors
            scores: Floats = (history @ fold_in) @ items.T
            return scores
        product = history @ self.matrices[source]
        scores = product if isinstance(product, np.ndarray) else product.toarray()
        return _answered(scores) if source == "graph" else scores


def _answered(scores: Floats) -> Floats:
    """Keep what graph_service answers of its shares: the best few that are positive."""
    if scores.shape[1] > GRAPH_CANDIDATES:
        least = np.partition(scores, -GRAPH_CANDIDATES, axis=1)[:, -GRAPH_CANDIDATES, np.newaxis]
        scores = np.where(scores >= least, scores, 0.0)
    return np.maximum(scores, 0.0)


def as_factor(matrix: sp.csr_array) -> sp.csr_array | Floats:
    """Make a matrix dense where that multiplies faster: a row of a small catalogue's table is a quarter full."""
    return matrix.toarray() if matrix.nnz > _DENSE_FROM * matrix.shape[0] * matrix.shape[1] else matrix


def weigh(source: str, queries: Queries, recipe: Recipe) -> sp.csr_array:
    """Give the weighted histories that a source is asked with."""
    return queries.weigh(recipe.sources[source], max_history=meta_paths.HISTORY_ITEMS if source == "graph" else None)


def measure_scale(source: str, components: Components, queries: Queries, recipe: Recipe) -> float:
    """Give 1 / root mean square of the raw shares on some queries, 0 for a source that says nothing.

    The graph's shares come unscaled from its service.
    """
    if source == "graph":
        return 1.0
    scores = components.score(source, weigh(source, queries, recipe)[:_SCALE_QUERIES])
    mean_square = float((scores.astype(np.float64) ** 2).mean())
    return mean_square**-0.5 if mean_square > _SILENT else 0.0


@dataclass(frozen=True, slots=True)
class Pool:
    """The candidates of each query: int32[Q, C] item numbers, and bool[Q, C] where there is one."""

    items: npt.NDArray[np.int32]
    valid: npt.NDArray[np.bool_]


def retrieve(components: Components, queries: Queries, recipe: Recipe) -> Pool:
    """Choose candidates by the weighted sum of the tables' shares, as vector_search does."""
    count = min(CANDIDATES, queries.targets.shape[1])
    items, valid = np.empty((queries.count, count), np.int32), np.empty((queries.count, count), np.bool_)
    histories = {source: weigh(source, queries, recipe) for source in TABLES}
    seen = queries.seen()
    for rows in _chunks(queries.count):
        total = np.zeros((rows.stop - rows.start, queries.targets.shape[1]), np.float32)
        for source in TABLES:
            settings = recipe.sources[source]
            total += settings.retrieval_weight * settings.scale * components.score(source, histories[source][rows])
        total[seen[rows].nonzero()] = -np.inf
        items[rows] = np.argpartition(-total, count - 1, axis=1)[:, :count]
        valid[rows] = np.take_along_axis(total, items[rows].astype(np.int64), axis=1) > 0.0
    return Pool(items, valid)


def share_at(source: str, components: Components, queries: Queries, recipe: Recipe, pool: Pool) -> Floats:
    """Give the feature of a source, float32[Q, C]: the signed root of its scaled share at each candidate."""
    history, scale = weigh(source, queries, recipe), recipe.sources[source].scale
    shares = np.empty(pool.items.shape, np.float32)
    for rows in _chunks(queries.count):
        scores = components.score(source, history[rows])
        shares[rows] = np.take_along_axis(scores, pool.items[rows].astype(np.int64), axis=1) * scale
    shares[~pool.valid] = 0.0
    return signed_root(shares)


def choices_of(
    features: Mapping[str, Floats], components: Components, queries: Queries, pool: Pool, fold: npt.NDArray[np.int64]
) -> Choices:
    """Put the features side by side, with what was chosen."""
    names = (*SHARES, LOG_POPULARITY)
    columns = [*(features[name] for name in SHARES), components.log_popularity[pool.items]]
    rows = np.repeat(np.arange(queries.count), pool.items.shape[1])
    chosen = np.asarray(queries.targets[rows, pool.items.ravel()]).reshape(pool.items.shape)
    return Choices(
        names=names,
        features=np.stack(columns, axis=2),
        valid=pool.valid,
        chosen=chosen & pool.valid,
        relevant=np.diff(queries.targets.indptr).astype(np.int64),
        fold=fold,
    )


def rank_alone(source: str, components: Components, queries: Queries, recipe: Recipe) -> dict[str, float]:
    """Give the metrics of one source, or of popularity, as the only ranker of all unseen items."""
    history = None if source == "popularity" else weigh(source, queries, recipe)
    seen, hits = queries.seen(), np.zeros((queries.count, K), np.bool_)
    for rows in _chunks(queries.count):
        if history is None:
            scores = np.tile(components.log_popularity, (rows.stop - rows.start, 1))
        else:
            scores = components.score(source, history[rows])
        scores[seen[rows].nonzero()] = -np.inf
        hits[rows] = top_hits(scores, queries.targets[rows].toarray() & (scores > 0.0))
    metrics = ranking_metrics(hits, np.diff(queries.targets.indptr).astype(np.int64))
    return {name: float(values.mean()) for name, values in metrics.items()}


def _chunks(count: int) -> Iterator[slice]:
    for begin in range(0, count, _CHUNK):
        yield slice(begin, min(begin + _CHUNK, count))
