"""One training run: learn on what is not held out, fit and judge the blend on the rest, learn again on everything."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
import scipy.sparse as sp

from gpu_worker.domain.training import Factors, HoldOut, ItemTable, Progress, TrainedModel, TrainingData
from gpu_worker.training import meta_paths
from gpu_worker.training.blend import LOG_POPULARITY, Weights, cross_validate, fit
from gpu_worker.training.content import NEAR_DUPLICATE, content_table, near_duplicates
from gpu_worker.training.edlae import dense_items
from gpu_worker.training.histories import Queries, hold_out_at_random, hold_out_last
from gpu_worker.training.methods import Methods
from gpu_worker.training.metrics import K
from gpu_worker.training.recipe import NEIGHBOURS, SHARES, TABLES, Recipe, alternatives, changed, starting_point
from gpu_worker.training.scoring import (
    Components,
    as_factor,
    choices_of,
    measure_scale,
    rank_alone,
    retrieve,
    share_at,
)
from gpu_worker.training.sequences import Sequences, sequences_of
from gpu_worker.training.tables import sparse_of, table_of_rows
from gpu_worker.training.transitions import transition_table
from servicekit.errors import FailedPreconditionError

_LEAST_GAIN = 2e-4  # of NDCG@10; less is noise, and the simpler recipe stays
_FALLBACK_ITEMS = 100
_NAMED_DUPLICATES = 20
_JUDGE = f"NDCG@{K}"


class _Workshop:
    """Builds components from one set of histories; what a recipe does not change is built once."""

    def __init__(self, data: TrainingData, sequences: Sequences, *, seed: int, methods: Methods) -> None:
        self._data = data
        self._sequences = sequences.positive()
        self._seed = seed
        self._methods = methods
        self.members = dense_items(self._sequences, methods.max_dense_items)
        self._tables: dict[str, ItemTable] = {}

    def table(self, source: str, recipe: Recipe) -> ItemTable:
        """Learn one table."""
        if source in {"transition", "content"}:
            if source not in self._tables:
                self._tables[source] = (
                    transition_table(self._sequences, NEIGHBOURS[source])
                    if source == "transition"
                    else content_table(
                        self._data.item_keys,
                        self._data.vector_keys,
                        self._data.vectors,
                        NEIGHBOURS[source],
                        self._methods.neighbours,
                    )
                )
            return self._tables[source]
        solver, kept = self._methods.edlae, NEIGHBOURS[source]
        if source == "session":
            columns, values = solver.session(
                self._sequences,
                self.members,
                half_life_items=recipe.session_half_life_items,
                ridge=recipe.session_ridge,
                dropout=recipe.session_dropout,
                neighbours=kept,
            )
        else:
            columns, values = solver.cooccurrence(
                self._sequences,
                self.members,
                ridge=recipe.cooccurrence_ridge,
                dropout=recipe.cooccurrence_dropout,
                neighbours=kept,
            )
        return table_of_rows(
            self.members, self.members[columns], values, n_items=self._sequences.n_items, neighbours=kept
        )

    def factors(self, recipe: Recipe) -> tuple[Any, Any]:
        """Learn the factors."""
        return self._methods.factors.factors(self._sequences, recipe, seed=self._seed)

    def graph(self) -> sp.csr_array:
        """Relate items by meta-paths."""
        return meta_paths.graph_matrix(meta_paths.related_items(self._data.items, self._sequences))

    def components(self, recipe: Recipe) -> Components:
        """Build everything that scores."""
        matrices = {source: as_factor(sparse_of(self.table(source, recipe))) for source in TABLES}
        return Components({**matrices, "graph": as_factor(self.graph())}, self.factors(recipe), self.log_popularity())

    def rebuilt(self, components: Components, source: str, recipe: Recipe) -> Components:
        """Build one source anew and keep the others."""
        if source == "factors":
            return Components(components.matrices, self.factors(recipe), components.log_popularity)
        matrices = {**components.matrices, source: as_factor(sparse_of(self.table(source, recipe)))}
        return Components(matrices, components.factors, components.log_popularity)

    def log_popularity(self) -> Any:
        """float32[N]: log(1 + how many users took to the item)."""
        return np.log1p(self._sequences.popularity()).astype(np.float32)


def train(data: TrainingData, *, hold_out: HoldOut, seed: int, progress: Progress, methods: Methods) -> TrainedModel:
    """Train a model; the same data and seed give the same one.

    Args:
        data: The catalogue and its history.
        hold_out: Which interactions the blend is fitted and the model judged on; the final model learns from all.
        seed: Seeds every random choice.
        progress: Told what is being done.
        methods: What computes.

    Raises:
        FailedPreconditionError: There is too little to learn from.
    """
    clock = _Clock(progress)
    sequences = sequences_of(data)
    generator = np.random.default_rng(seed)
    with clock.stage("hold-out", 0.0):
        draw = hold_out_last if hold_out is HoldOut.TIME else hold_out_at_random
        kept, queries = draw(sequences, generator)
        if not queries.count:
            raise FailedPreconditionError(
                "there is too little to learn from: at least one user must have taken to "
                + ("two items" if hold_out is HoldOut.TIME else "four items")
            )
    with clock.stage("tables, factors and graph of the hold-out", 0.02):
        workshop = _Workshop(data, kept, seed=seed, methods=methods)
        recipe = starting_point(hold_out)
        components = workshop.components(recipe)
        recipe = recipe.with_scales({name: measure_scale(name, components, queries, recipe) for name in SHARES})
    fold = generator.integers(0, 2, sequences.n_users)[queries.users]
    with clock.stage("settings", 0.3):
        recipe, components, tried = _search(
            workshop, components, queries, recipe, fold, alternatives(hold_out, methods.factors.name), clock
        )
    with clock.stage("blend", 0.7):
        pool = retrieve(components, queries, recipe)
        features = {name: share_at(name, components, queries, recipe, pool) for name in SHARES}
        choices = choices_of(features, components, queries, pool, fold)
        judged = cross_validate(choices)
        weights = fit(choices)
        metrics = {"blend": {name: float(values.mean()) for name, values in judged.items()}}
        errors = {name: _standard_error(values) for name, values in judged.items()}
    with clock.stage("comparison with each source alone", 0.75):
        for source in ("popularity", *SHARES):
            metrics[source] = rank_alone(source, components, queries, recipe)
    with clock.stage("final model", 0.8):
        final = _Workshop(data, sequences, seed=seed, methods=methods)
        tables = {source: (final.table(source, recipe), recipe.sources[source]) for source in TABLES}
        items, fold_in = final.factors(recipe)
        log_popularity = final.log_popularity()
    names = choices.names
    spread = choices.features[choices.valid].std(axis=0, dtype=np.float64)
    return TrainedModel(
        tables=tables,
        factors=Factors(items, fold_in, recipe.sources["factors"]),
        item_columns={LOG_POPULARITY: log_popularity},
        serving={
            "features": [name if name == LOG_POPULARITY else f"sqrt({name})" for name in names],
            "weights": [float(weight) for weight in weights],
            "sources": {name: {"weight": recipe.sources[name].retrieval_weight} for name in TABLES},
            "graph": {"meta_path_weights": meta_paths.WEIGHTS},
            "fallback": _most_popular(data, log_popularity),
        },
        metrics=metrics,
        report={
            "hold_out": hold_out.value,
            "seed": seed,
            "queries": queries.count,
            "held_out": int(queries.targets.nnz),
            "standard_errors": errors,
            "found_among_candidates": float(choices.chosen.sum() / max(queries.targets.nnz, 1)),
            "methods": {
                "edlae": methods.edlae.name,
                "neighbours": methods.neighbours.name,
                "factors": methods.factors.name,
            },
            "dense_items": len(final.members),
            # The rest of these has no row in the tables of co-occurrence and session.
            "items_with_users": int((final.log_popularity() > 0.0).sum()),
            "near_duplicates": _describe_duplicates(data, tables["content"][0]),
            "recipe": asdict(recipe),
            "tried": tried,
            "importance": _importance(names, weights, spread),
            "seconds": clock.seconds,
        },
    )


def _search(
    workshop: _Workshop,
    components: Components,
    queries: Queries,
    recipe: Recipe,
    fold: Any,
    options: Sequence[tuple[str, Mapping[str, float]]],
    clock: "_Clock",
) -> tuple[Recipe, Components, list[dict[str, Any]]]:
    """Try one change after the other on the candidates of the starting point, keep those that help."""
    pool = retrieve(components, queries, recipe)
    features = {name: share_at(name, components, queries, recipe, pool) for name in SHARES}

    def judge(candidate_features: Mapping[str, Any]) -> float:
        choices = choices_of(candidate_features, components, queries, pool, fold)
        return float(cross_validate(choices)[_JUDGE].mean())

    best = judge(features)
    tried: list[dict[str, Any]] = [{"source": "", "values": {}, _JUDGE: best, "kept": True}]
    for number, (source, values) in enumerate(options):
        clock.tell(f"settings: {source} {number + 1} of {len(options)}", 0.3 + 0.4 * number / len(options))
        candidate = changed(recipe, source, values)
        rebuilt = components if "half_life_items" in values else workshop.rebuilt(components, source, candidate)
        candidate = candidate.with_scales({source: measure_scale(source, rebuilt, queries, candidate)})
        changed_features = {**features, source: share_at(source, rebuilt, queries, candidate, pool)}
        score = judge(changed_features)
        kept = score > best + _LEAST_GAIN
        tried.append({"source": source, "values": dict(values), _JUDGE: score, "kept": kept})
        if kept:
            best, recipe, components, features = score, candidate, rebuilt, changed_features
    return recipe, components, tried


def _most_popular(data: TrainingData, log_popularity: Any) -> list[dict[str, str]]:
    ranked = np.argsort(-log_popularity, kind="stable")
    shown = [data.items[number] for number in ranked if data.items[number].recommendable][:_FALLBACK_ITEMS]
    return [{"item_type": item.item_type, "item_id": item.item_id} for item in shown]


def _describe_duplicates(data: TrainingData, table: ItemTable) -> dict[str, Any]:
    """Tell people which items of the catalogue look like one item twice."""
    pairs = near_duplicates(table)
    named = [
        {"items": [[data.items[n].item_type, data.items[n].item_id] for n in pair], "similarity": similarity}
        for *pair, similarity in pairs[:_NAMED_DUPLICATES]
    ]
    return {"from_similarity": NEAR_DUPLICATE, "pairs": len(pairs), "nearest": named}


def _importance(names: Any, weights: Weights, spread: Weights) -> dict[str, float]:
    return {name: float(weight * width) for name, weight, width in zip(names, weights, spread, strict=True)}


def _standard_error(values: Weights) -> float:
    return float(values.std() / np.sqrt(len(values)))


class _Clock:
    """Tells what is being done and keeps the seconds of each stage."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.seconds: dict[str, float] = {}

    def tell(self, stage: str, part: float) -> None:
        self._progress(stage, part)

    @contextmanager
    def stage(self, name: str, part: float) -> Iterator[None]:
        self._progress(name, part)
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 3)
