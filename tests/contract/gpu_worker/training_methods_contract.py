"""What everything that a training computes with keeps its word on; an adapter joins with a subclass of four lines."""

from dataclasses import replace
from functools import cache
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pytest
from unit.gpu_worker.small_catalogue import small_data

from gpu_worker.domain.training import HoldOut, TrainingData, TrainingItem
from gpu_worker.training.edlae import cooccurrence_gram, dense_items, edlae, session_gram
from gpu_worker.training.histories import hold_out_at_random
from gpu_worker.training.methods import EdlaeSolver, FactorModel, NeighbourSearch, Rows
from gpu_worker.training.recipe import starting_point
from gpu_worker.training.scoring import Components, rank_alone
from gpu_worker.training.sequences import Sequences, sequences_of
from servicekit.arrays import Floats

N_ITEMS = 600
RIDGE, DROPOUT, HALF_LIFE_ITEMS = 20.0, 0.3, 2.0


@cache
def skewed_sequences() -> Sequences:
    """Give 300 histories over 600 items, a few of them very popular, some without users, one history very long."""
    generator = np.random.default_rng(11)
    chance = 1.0 / np.arange(1, N_ITEMS + 1)
    chance[-20:] = 0.0
    chance /= chance.sum()
    histories = [generator.choice(N_ITEMS, generator.integers(2, 60), replace=False, p=chance) for _ in range(299)]
    histories.append(generator.permutation(N_ITEMS - 20))  # longer than what the session kernel reads
    users = np.repeat(np.arange(300), [len(history) for history in histories])
    # Several of one moment, so that positions are shared.
    times = np.concatenate([np.arange(len(history)) // 3 for history in histories])
    return sequences_of(
        TrainingData(
            item_keys=np.arange(N_ITEMS),
            items=[TrainingItem("film", str(number)) for number in range(N_ITEMS)],
            user_keys=users,
            interaction_keys=np.concatenate(histories),
            weights=np.ones(len(users), np.float32),
            times_ms=times * 1000,
            vector_keys=np.empty(0, np.int64),
            vectors=np.empty((0, 8), np.float32),
        )
    )


def matrix_of(rows: Rows, size: int) -> npt.NDArray[np.float64]:
    """Write rows into a matrix; what is not among them is 0."""
    matrix = np.zeros((len(rows.columns), size))
    np.put_along_axis(matrix, rows.columns, rows.values, axis=1)
    return matrix


class EdlaeSolverContract:
    """The closed form is numpy's, of gpu_worker.training.edlae, which its own tests hold against ridge regression."""

    port: ClassVar = "EdlaeSolver"
    tolerance: ClassVar = 1e-6

    @pytest.fixture
    def solver(self) -> EdlaeSolver:
        """Give a solver."""
        raise NotImplementedError

    def test_cooccurrence_is_the_closed_form(self, solver: EdlaeSolver) -> None:
        sequences = skewed_sequences()
        members = dense_items(sequences, 500)
        expected = edlae(cooccurrence_gram(sequences, members), ridge=RIDGE, dropout=DROPOUT)
        rows = solver.cooccurrence(sequences, members, ridge=RIDGE, dropout=DROPOUT, neighbours=len(members))
        assert rows.values.dtype == np.float32
        np.testing.assert_allclose(matrix_of(rows, len(members)), expected, atol=self.tolerance)

    def test_sessions_are_the_closed_form(self, solver: EdlaeSolver) -> None:
        sequences = skewed_sequences()
        members = dense_items(sequences, N_ITEMS)
        gram = session_gram(sequences, members, half_life_items=HALF_LIFE_ITEMS)
        rows = solver.session(
            sequences,
            members,
            half_life_items=HALF_LIFE_ITEMS,
            ridge=RIDGE,
            dropout=DROPOUT,
            neighbours=len(members),
        )
        expected = edlae(gram, ridge=RIDGE, dropout=DROPOUT)
        np.testing.assert_allclose(matrix_of(rows, len(members)), expected, atol=self.tolerance)

    def test_the_largest_of_each_row_are_kept(self, solver: EdlaeSolver) -> None:
        sequences = skewed_sequences()
        members = dense_items(sequences, 100)
        whole = edlae(cooccurrence_gram(sequences, members), ridge=RIDGE, dropout=DROPOUT)
        rows = solver.cooccurrence(sequences, members, ridge=RIDGE, dropout=DROPOUT, neighbours=10)
        assert rows.columns.shape == (100, 10)
        np.testing.assert_allclose(np.sort(rows.values, axis=1), np.sort(whole, axis=1)[:, -10:], atol=self.tolerance)

    def test_the_same_data_give_the_same_rows(self, solver: EdlaeSolver) -> None:
        sequences = skewed_sequences()
        members = dense_items(sequences, 200)
        first, second = (
            solver.session(
                sequences, members, half_life_items=HALF_LIFE_ITEMS, ridge=RIDGE, dropout=DROPOUT, neighbours=50
            )
            for _ in range(2)
        )
        np.testing.assert_array_equal(first.columns, second.columns)
        np.testing.assert_array_equal(first.values, second.values)


class NeighbourSearchContract:
    port: ClassVar = "NeighbourSearch"

    @pytest.fixture
    def search(self) -> NeighbourSearch:
        """Give a search."""
        raise NotImplementedError

    @pytest.mark.parametrize(("queries", "vectors", "count"), [(3, 5_000, 10), (2_500, 400, 51), (10, 7, 7)])
    def test_neighbours_are_the_exact_ones(
        self, search: NeighbourSearch, queries: int, vectors: int, count: int
    ) -> None:
        asked, among = unit_vectors(queries, seed=1), unit_vectors(vectors, seed=2)
        found = search.nearest(asked, among, count)
        similarities = asked.astype(np.float64) @ among.T.astype(np.float64)
        assert found.columns.dtype == np.int64
        assert found.values.dtype == np.float32
        np.testing.assert_allclose(np.sort(found.values, axis=1), np.sort(similarities, axis=1)[:, -count:], atol=1e-5)
        np.testing.assert_allclose(found.values, np.take_along_axis(similarities, found.columns, axis=1), atol=1e-5)

    def test_no_vectors_have_no_neighbours(self, search: NeighbourSearch) -> None:
        none = np.empty((0, 8), np.float32)
        assert search.nearest(none, none, 0).columns.shape == (0, 0)


class FactorModelContract:
    port: ClassVar = "FactorModel"

    @pytest.fixture
    def model(self) -> FactorModel:
        """Give a model."""
        raise NotImplementedError

    def test_what_goes_together_is_learned(self, model: FactorModel) -> None:
        sequences = sequences_of(small_data())
        kept, queries = hold_out_at_random(sequences, np.random.default_rng(0))
        recipe = replace(starting_point(HoldOut.RANDOM), factors_regularization=0.1)  # made for more data
        log_popularity = np.log1p(kept.popularity()).astype(np.float32)
        components = Components({}, model.factors(kept.positive(), recipe, seed=1), log_popularity)
        mine, popularity = (
            rank_alone(source, components, queries, recipe)["NDCG@10"] for source in ("factors", "popularity")
        )
        assert mine > 3 * popularity
        assert mine > 0.5

    def test_the_same_seed_gives_the_same_factors_and_another_one_others(self, model: FactorModel) -> None:
        recipe = starting_point(HoldOut.RANDOM)
        first, again, other = (model.factors(skewed_sequences(), recipe, seed=seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first[0], again[0])
        np.testing.assert_array_equal(first[1], again[1])
        assert not np.array_equal(first[0], other[0])

    def test_untouched_items_have_no_factors(self, model: FactorModel) -> None:
        items, fold_in = model.factors(skewed_sequences(), starting_point(HoldOut.TIME), seed=1)
        assert items.shape == fold_in.shape
        assert items.dtype == fold_in.dtype == np.float32
        assert not items[-20:][skewed_sequences().popularity()[-20:] == 0.0].any()
        assert not fold_in[skewed_sequences().popularity() == 0.0].any()
        assert np.isfinite(items).all()


def unit_vectors(count: int, *, seed: int) -> Floats:
    vectors = np.random.default_rng(seed).normal(size=(count, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors
