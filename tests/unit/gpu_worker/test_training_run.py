"""A whole training run on a small catalogue with a structure that a good model finds."""

from functools import cache

import numpy as np
import pytest
from unit.gpu_worker.small_catalogue import N_ITEMS, small_data

from gpu_worker.domain.training import HoldOut, TrainedModel, TrainingData
from gpu_worker.training import train
from gpu_worker.training.methods import numpy_methods
from servicekit.errors import FailedPreconditionError

METHODS = numpy_methods(threads=1, max_dense_items=1_000)


@cache
def trained(hold_out: HoldOut, seed: int = 1) -> TrainedModel:
    return train(small_data(), hold_out=hold_out, seed=seed, progress=lambda _stage, _part: None, methods=METHODS)


@pytest.mark.parametrize("hold_out", list(HoldOut))
def test_the_blend_beats_popularity_by_far(hold_out: HoldOut) -> None:
    metrics = trained(hold_out).metrics
    assert metrics["blend"]["NDCG@10"] > 3 * metrics["popularity"]["NDCG@10"]
    assert metrics["blend"]["NDCG@10"] > 0.5


def test_order_is_learned_from_the_time_hold_out() -> None:
    metrics = trained(HoldOut.TIME).metrics
    assert metrics["transition"]["NDCG@10"] > metrics["cooccurrence"]["NDCG@10"]


def test_the_same_seed_and_data_give_the_same_model() -> None:
    first = trained(HoldOut.TIME)
    second = train(small_data(), hold_out=HoldOut.TIME, seed=1, progress=lambda _stage, _part: None, methods=METHODS)
    assert first.serving == second.serving
    assert first.metrics == second.metrics
    for name, (table, settings) in first.tables.items():
        again, again_settings = second.tables[name]
        assert settings == again_settings
        np.testing.assert_array_equal(table.weights, again.weights)
        np.testing.assert_array_equal(table.indices, again.indices)


def test_a_model_names_everything_that_serves_it() -> None:
    model = trained(HoldOut.TIME)
    assert list(model.tables) == ["cooccurrence", "session", "transition", "content"]
    assert len(model.serving["features"]) == len(model.serving["weights"])
    assert set(model.item_columns) == {"log_popularity"}
    assert model.factors.items.shape == model.factors.fold_in.shape == (N_ITEMS, 64)
    assert model.serving["fallback"][0].keys() == {"item_type", "item_id"}
    assert set(model.serving["graph"]["meta_path_weights"]) == {"item_person_item", "item_genre_item", "item_user_item"}
    assert model.report["tried"][0]["kept"]


def test_factors_that_shrank_to_nothing_have_no_say() -> None:
    full = small_data()
    first = full.user_keys < 12
    few = TrainingData(
        item_keys=full.item_keys,
        items=full.items,
        user_keys=full.user_keys[first],
        interaction_keys=full.interaction_keys[first],
        weights=full.weights[first],
        times_ms=full.times_ms[first],
        vector_keys=full.vector_keys,
        vectors=full.vectors,
    )
    model = train(few, hold_out=HoldOut.TIME, seed=1, progress=lambda _stage, _part: None, methods=METHODS)
    assert np.abs(model.factors.items).max() < 1e-6  # so it is on so little data
    assert model.factors.settings.scale == 0.0
    assert model.serving["weights"][model.serving["features"].index("sqrt(factors)")] == 0.0


def test_progress_only_grows() -> None:
    parts: list[float] = []
    train(
        small_data(), hold_out=HoldOut.RANDOM, seed=2, progress=lambda _stage, part: parts.append(part), methods=METHODS
    )
    assert parts == sorted(parts)
    assert 0.0 <= parts[0] <= parts[-1] <= 1.0


def test_too_little_data_is_refused_with_what_is_needed() -> None:
    full = small_data()
    one = TrainingData(
        item_keys=full.item_keys,
        items=full.items,
        user_keys=full.user_keys[:1],
        interaction_keys=full.interaction_keys[:1],
        weights=full.weights[:1],
        times_ms=full.times_ms[:1],
        vector_keys=full.vector_keys,
        vectors=full.vectors,
    )
    with pytest.raises(FailedPreconditionError, match="at least one user"):
        train(one, hold_out=HoldOut.TIME, seed=1, progress=lambda _stage, _part: None, methods=METHODS)
