"""The pieces of training against what can be worked out by hand."""

import numpy as np
import pytest
import scipy.sparse as sp

from gpu_worker.domain.training import SourceSettings, TrainingData, TrainingItem
from gpu_worker.training import blend, meta_paths
from gpu_worker.training.content import content_table, near_duplicates
from gpu_worker.training.edlae import cooccurrence_gram, dense_items, edlae, session_gram, table_of_members
from gpu_worker.training.factors import item_factors
from gpu_worker.training.histories import hold_out_at_random, hold_out_last
from gpu_worker.training.methods import NumpyNeighbours
from gpu_worker.training.metrics import ranking_metrics, top_hits
from gpu_worker.training.sequences import Sequences, sequences_of, tied_positions
from gpu_worker.training.tables import sparse_of, table_of_sparse
from gpu_worker.training.transitions import transition_table


def data_of(
    interactions: list[tuple[int, int, float, int]], items: list[TrainingItem] | None = None, n_items: int = 5
) -> TrainingData:
    """Make data of (user, item number, weight, time in seconds); item keys are ten times the number."""
    users, numbers, weights, times = zip(*interactions, strict=True)
    return TrainingData(
        item_keys=np.arange(n_items, dtype=np.int64) * 10,
        items=items or [TrainingItem("film", str(number)) for number in range(n_items)],
        user_keys=np.array(users, np.int64),
        interaction_keys=np.array(numbers, np.int64) * 10,
        weights=np.array(weights, np.float32),
        times_ms=np.array(times, np.int64) * 1000,
        vector_keys=np.empty(0, np.int64),
        vectors=np.empty((0, 8), np.float32),
    )


def sequences_from(*histories: list[int], n_items: int = 5) -> Sequences:
    return sequences_of(
        data_of(
            [(user, item, 1.0, when) for user, history in enumerate(histories) for when, item in enumerate(history)],
            n_items=n_items,
        )
    )


def test_an_item_counts_once_at_its_last_interaction_and_with_its_last_weight() -> None:
    sequences = sequences_of(data_of([(7, 1, 1.0, 10), (7, 2, 1.0, 20), (7, 1, -1.5, 30), (9, 3, 2.0, 5)]))
    assert sequences.starts.tolist() == [0, 2, 3]
    assert sequences.items.tolist() == [2, 1, 3]
    assert sequences.strengths.tolist() == [1.0, -1.5, 2.0]
    assert sequences.positive().items.tolist() == [2, 3]
    assert sequences.positive().n_users == 2


def test_interactions_with_unknown_items_are_left_out() -> None:
    data = data_of([(1, 1, 1.0, 1), (1, 2, 1.0, 2)], n_items=2)
    assert sequences_of(data).items.tolist() == [1]


def test_equal_times_keep_the_order_of_arrival() -> None:
    assert sequences_of(data_of([(1, 3, 1.0, 5), (1, 0, 1.0, 5), (1, 2, 1.0, 5)])).items.tolist() == [3, 0, 2]


def test_positions_of_one_moment_are_averaged_within_a_user() -> None:
    times = np.array([1.0, 2.0, 2.0, 3.0, 3.0, 3.0])
    users = np.array([0, 0, 0, 0, 1, 1])
    assert tied_positions(times, users).tolist() == [0.0, 1.5, 1.5, 3.0, 0.5, 0.5]


def test_edlae_without_dropout_is_ridge_regression_of_each_item_on_the_others() -> None:
    generator = np.random.default_rng(1)
    matrix = (generator.random((60, 6)) < 0.4).astype(float)
    weights = edlae(matrix.T @ matrix, ridge=3.0, dropout=0.0)
    for item in range(6):
        others = [other for other in range(6) if other != item]
        x, y = matrix[:, others], matrix[:, item]
        expected = np.linalg.solve(x.T @ x + 3.0 * np.eye(5), x.T @ y)
        np.testing.assert_allclose(weights[others, item], expected, rtol=1e-4)
        assert weights[item, item] == 0.0


def test_dropout_adds_its_share_of_the_counts_to_the_ridge() -> None:
    gram = np.array([[4.0, 2.0], [2.0, 3.0]])
    weights = edlae(gram, ridge=1.0, dropout=0.5)
    assert weights[0, 1] == pytest.approx(2.0 / (4.0 + 4.0 + 1.0))
    assert weights[1, 0] == pytest.approx(2.0 / (3.0 + 3.0 + 1.0))


def test_a_gram_matrix_counts_users() -> None:
    sequences = sequences_from([0, 1], [1, 0, 3], [3])
    members = dense_items(sequences, 100)
    assert members.tolist() == [0, 1, 3]
    assert cooccurrence_gram(sequences, members).tolist() == [[2, 2, 1], [2, 2, 1], [1, 1, 2]]


def test_the_session_kernel_halves_with_distance() -> None:
    sequences = sequences_from([0, 1, 3])
    gram = session_gram(sequences, np.array([0, 1, 3]), half_life_items=1.0)
    np.testing.assert_allclose(gram, [[1, 0.5, 0.25], [0.5, 1, 0.5], [0.25, 0.5, 1]])


def test_tables_keep_the_largest_signed_entries_of_each_row() -> None:
    matrix = np.array([[0, 3, -9, 2], [1, 0, 0, 0], [0, 0, 0, 0], [-1, -2, -3, 0]], np.float32)
    table = table_of_sparse(sp.csr_array(matrix), 2)
    assert table.indptr.tolist() == [0, 2, 3, 3, 5]
    assert table.indices.tolist() == [1, 3, 0, 0, 1]
    assert table.weights.tolist() == [3.0, 2.0, 1.0, -1.0, -2.0]
    assert table.weights.dtype == np.float16


def test_a_sparse_table_has_no_diagonal() -> None:
    table = table_of_sparse(sp.csr_array(np.array([[5.0, 1.0], [2.0, 5.0]])), 2)
    np.testing.assert_allclose(sparse_of(table).toarray(), [[0, 1], [2, 0]])


def test_members_are_numbered_by_the_whole_catalogue() -> None:
    table = table_of_members(np.array([[0, 2], [3, 0]], np.float32), np.array([1, 4]), 6, 5)
    expected = np.zeros((6, 6))
    expected[1, 4], expected[4, 1] = 2, 3
    np.testing.assert_allclose(sparse_of(table).toarray(), expected)


def test_transitions_look_forward_and_fade_with_distance() -> None:
    counts = sparse_of(transition_table(sequences_from([0, 1, 2]), 9)).toarray()
    damping = 6.0**-0.4  # every item has one user
    assert counts[0, 1] == pytest.approx(damping**2, rel=1e-3)
    assert counts[0, 2] == pytest.approx(0.9 * damping**2, rel=1e-3)
    assert counts[1, 0] == 0.0


def test_transitions_do_not_cross_from_one_user_to_the_next() -> None:
    assert sparse_of(transition_table(sequences_from([0], [1]), 9)).nnz == 0


def test_content_neighbours_are_the_exact_ones_without_the_item_itself() -> None:
    generator = np.random.default_rng(2)
    vectors = generator.normal(size=(4, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    table = sparse_of(
        content_table(np.array([5, 10, 15, 20, 25]), np.array([5, 15, 20, 25]), vectors, 9, NumpyNeighbours())
    ).toarray()
    expected = np.zeros((5, 5))
    expected[np.ix_([0, 2, 3, 4], [0, 2, 3, 4])] = vectors @ vectors.T - np.eye(4)
    np.testing.assert_allclose(table, expected, atol=2e-3)


def test_what_looks_like_one_item_twice_is_named_once() -> None:
    vectors = np.eye(4, dtype=np.float32)
    vectors[3] = [0.995, 0.0999, 0.0, 0.0]
    vectors = np.concatenate([vectors, vectors[1:2]])
    table = content_table(np.arange(5), np.arange(5), vectors, 9, NumpyNeighbours())
    assert near_duplicates(table) == [(1, 4, 1.0), (0, 3, pytest.approx(0.995, abs=1e-3))]


def test_a_catalogue_without_vectors_has_an_empty_content_table() -> None:
    no_vectors = np.empty((0, 8), np.float32)
    table = content_table(np.array([1, 2]), np.empty(0, np.int64), no_vectors, 9, NumpyNeighbours())
    assert table.indptr.tolist() == [0, 0, 0]


def test_factors_are_the_same_for_the_same_seed_and_zero_for_untouched_items() -> None:
    sequences = sequences_from([0, 1, 2], [1, 2], [0, 2], n_items=4)
    first = item_factors(sequences, regularization=1.0, alpha=1.0, seed=3, threads=1)
    second = item_factors(sequences, regularization=1.0, alpha=1.0, seed=3, threads=1)
    np.testing.assert_array_equal(first[0], second[0])
    assert not first[0][3].any()
    assert not first[1][3].any()
    # Folding a user in is solving the system that its docstring names.
    items, fold_in = first
    system = items.T @ items + np.eye(items.shape[1])
    np.testing.assert_allclose(fold_in[0] + fold_in[2], np.linalg.solve(system, items[0] + items[2]), rtol=1e-3)


def test_relatedness_follows_the_formula_of_the_graph() -> None:
    items = [
        TrainingItem("film", "0", people=("A", "B"), genres=("g",)),
        TrainingItem("film", "1", people=("A",), genres=("g",)),
        TrainingItem("film", "2", people=("C",), genres=("g", "h")),
    ]
    paths = meta_paths.related_items(items, sequences_from([0, 2], [0, 1, 2], n_items=3))
    person, genre, user = (paths[name].toarray() for name in ("item_person_item", "item_genre_item", "item_user_item"))
    assert person[0, 1] == pytest.approx(2**-0.5 / 2**0.5, rel=1e-3)
    assert person[0, 2] == 0.0
    assert genre[0, 2] == pytest.approx(3**-0.75 / 2**0.5, rel=1e-3)
    assert user[0, 2] == pytest.approx((2**-0.75 + 3**-0.75) / 2, rel=1e-3)
    assert user[0, 1] == pytest.approx(3**-0.75 / 2**0.5, rel=1e-3)


def test_the_last_interactions_are_replayed_one_by_one() -> None:
    sequences = sequences_from([0, 1, 2, 3], n_items=5)
    kept, queries = hold_out_last(sequences, np.random.default_rng(0))
    assert kept.items.tolist() == [0, 1]
    assert queries.count == 2
    assert queries.targets.toarray().nonzero()[1].tolist() == [2, 3]
    assert queries.items.tolist() == [1, 0, 2, 1, 0]
    assert queries.positions.tolist() == [0, 1, 0, 1, 2]
    assert queries.ages_s.tolist() == [0, 1, 0, 1, 2]


def test_what_a_user_disliked_is_history_but_no_target() -> None:
    data = data_of([(1, 0, 1.0, 1), (1, 1, 1.0, 2), (1, 2, -1.0, 3), (1, 3, 1.0, 4)])
    _, queries = hold_out_last(sequences_of(data), np.random.default_rng(0))
    assert queries.targets.toarray().nonzero()[1].tolist() == [3]
    assert queries.strengths.tolist() == [-1.0, 1.0, 1.0]


def test_a_random_quarter_is_held_out_at_once() -> None:
    sequences = sequences_from(list(range(8)), list(range(3)), n_items=8)
    kept, queries = hold_out_at_random(sequences, np.random.default_rng(5))
    assert queries.count == 1  # three items have no quarter
    held = set(queries.targets.toarray().nonzero()[1].tolist())
    assert len(held) == 2
    assert held.isdisjoint(queries.items.tolist())
    assert len(kept.items) == 9


def test_history_weights_fade_by_position_and_by_time() -> None:
    _, queries = hold_out_last(sequences_from([0, 1, 2], n_items=4), np.random.default_rng(0))
    settings = SourceSettings(scale=1, retrieval_weight=1, half_life_items=1.0, half_life_s=1.0, time_floor=0.2)
    weights = queries.weigh(settings).toarray()
    assert weights[0, 1] == pytest.approx(1.0)
    assert weights[0, 0] == pytest.approx(0.5 * (0.2 + 0.8 * 0.5))
    assert queries.weigh(settings, max_history=1).toarray()[0, 0] == 0.0


def test_metrics_by_hand() -> None:
    hits = np.zeros((2, 10), np.bool_)
    hits[0, [0, 2]] = True
    metrics = ranking_metrics(hits, np.array([3, 1]))
    ideal = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    assert metrics["NDCG@10"].tolist() == pytest.approx([(1 + 1 / np.log2(4)) / ideal, 0.0])
    assert metrics["MAP@10"].tolist() == pytest.approx([(1 + 2 / 3) / 3, 0.0])
    assert metrics["Recall@10"].tolist() == pytest.approx([2 / 3, 0.0])
    assert metrics["HR@10"].tolist() == [1.0, 0.0]


def test_top_hits_of_a_short_list_are_padded() -> None:
    hits = top_hits(np.array([[1.0, 3.0, 2.0]], np.float32), np.array([[True, False, True]]))
    assert hits.shape == (1, 10)
    assert hits[0, :4].tolist() == [False, True, True, False]


def choices_with(weights: list[float], *, queries: int, seed: int) -> blend.Choices:
    """Draw choices from a conditional logit whose weights are known."""
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(queries, 30, 3)).astype(np.float32)
    utility = features @ np.array(weights, np.float32) + generator.gumbel(size=(queries, 30))
    chosen = np.zeros((queries, 30), np.bool_)
    chosen[np.arange(queries), utility.argmax(axis=1)] = True
    return blend.Choices(
        names=("cooccurrence", "transition", blend.LOG_POPULARITY),
        features=features,
        valid=np.ones_like(chosen),
        chosen=chosen,
        relevant=np.ones(queries, np.int64),
        fold=generator.integers(0, 2, queries),
    )


def test_the_fit_finds_the_weights_that_made_the_choices() -> None:
    np.testing.assert_allclose(
        blend.fit(choices_with([1.5, 0.7, -0.6], queries=4000, seed=1)), [1.5, 0.7, -0.6], atol=0.08
    )


def test_a_source_never_counts_against_an_item() -> None:
    weights = blend.fit(choices_with([1.5, -0.7, -0.6], queries=2000, seed=2))
    assert weights[1] == 0.0
    assert weights[0] > 1.0
    assert weights[2] < 0.0


def test_with_hardly_any_choices_the_prior_decides() -> None:
    weights = blend.fit(choices_with([0.0, 0.0, 0.0], queries=1, seed=3))
    assert weights[0] == pytest.approx(blend.PRIOR["cooccurrence"], abs=0.5)
    assert weights[0] > weights[1] > 0.0


def test_places_without_a_candidate_do_not_matter() -> None:
    choices = choices_with([1.0, 0.5, 0.0], queries=500, seed=4)
    padded = blend.Choices(
        names=choices.names,
        features=np.concatenate([choices.features, np.full((500, 5, 3), 9.0, np.float32)], axis=1),
        valid=np.pad(choices.valid, ((0, 0), (0, 5))),
        chosen=np.pad(choices.chosen, ((0, 0), (0, 5))),
        relevant=choices.relevant,
        fold=choices.fold,
    )
    np.testing.assert_allclose(blend.fit(padded), blend.fit(choices), rtol=1e-3)
    assert blend.cross_validate(padded)["HR@10"].mean() == pytest.approx(blend.cross_validate(choices)["HR@10"].mean())
