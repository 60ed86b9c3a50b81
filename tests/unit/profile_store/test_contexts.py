import numpy as np
import pytest

from profile_store.domain import contexts
from profile_store.domain.contexts import build_history
from profile_store.domain.interactions import InteractionType, weigh_columns

VIEW, SKIP, STARS = 1, 2, 3
KINDS = {
    VIEW: InteractionType("view", 1.0),
    SKIP: InteractionType("skip", -0.5, counts_as_seen=False),
    STARS: InteractionType("rating", 2.0, centre=3.0),
}


def test_the_newest_of_each_type_counts_and_types_add_up() -> None:
    rows = [(7, STARS, 5.0, 9), (7, SKIP, None, 8), (8, SKIP, None, 7), (7, STARS, 1.0, 6), (7, VIEW, 4.0, 5)]
    history = build_history(rows, KINDS, interaction_count=12)
    assert history.keys.tolist() == [7, 8]
    assert history.weights.tolist() == [4.0 - 0.5 + 1.0, -0.5]
    assert history.times_ms.tolist() == [9, 7]
    assert history.seen.tolist() == [True, False]
    assert history.interaction_count == 12


def test_an_empty_history_has_typed_arrays() -> None:
    context = build_history((), KINDS, interaction_count=0).context(10)
    assert [array.dtype for array in (context.history_keys, context.history_weights)] == [np.int64, np.float32]
    assert len(context.history_times_ms) == len(context.seen_keys) == 0


def test_beyond_the_longest_history_only_seen_items_are_kept_up_to_that_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts, "MAX_HISTORY", 4)
    kinds = [VIEW, SKIP, SKIP, VIEW, SKIP, VIEW, VIEW, SKIP, VIEW]
    rows = [(key, kind, None, 100 - key) for key, kind in enumerate(kinds)]
    history = build_history(rows, KINDS, interaction_count=9)
    assert history.keys.tolist() == [0, 1, 2, 3, 5, 6]
    context = history.context(4)
    assert context.history_keys.tolist() == [0, 1, 2, 3]
    assert context.seen_keys.tolist() == [5, 6]
    assert history.context(2).seen_keys.tolist() == [3, 5, 6]


def test_columns_are_weighed_as_single_interactions_are() -> None:
    numbers = [VIEW, SKIP, STARS, STARS, STARS, VIEW]
    values = [None, 7.0, 5.0, None, 0.0, 3.0]
    wanted = [KINDS[number].weigh(value) for number, value in zip(numbers, values, strict=True)]
    got = weigh_columns(KINDS, np.array(numbers), np.array(values, dtype=np.float64))
    assert got.tolist() == wanted == [1.0, -0.5, 4.0, 0.0, -6.0, 1.0]
    assert weigh_columns({}, np.array([], dtype=np.int64), np.array([])).tolist() == []
