import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recommend_cli.evaluation.metrics import (
    METRICS,
    average_precision,
    coverage,
    hit_rate,
    mean_and_standard_error,
    mean_popularity,
    ndcg,
    recall,
)

_ITEMS = [f"item-{number}" for number in range(30)]
_lists = st.lists(st.sampled_from(_ITEMS), unique=True, max_size=15)
_relevant = st.sets(st.sampled_from(_ITEMS), min_size=1)


def test_hand_computed_list() -> None:
    # Hits at ranks 1, 3 and 4 of five; four relevant items.
    recommended, relevant = ["a", "x", "b", "c", "y"], {"a", "b", "c", "d"}
    assert hit_rate(recommended, relevant) == 1
    assert recall(recommended, relevant) == 3 / 4
    assert average_precision(recommended, relevant) == pytest.approx((1 / 1 + 2 / 3 + 3 / 4) / 4)
    gain = 1 / math.log2(2) + 1 / math.log2(4) + 1 / math.log2(5)
    ideal = 1 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4) + 1 / math.log2(5)
    assert ndcg(recommended, relevant) == pytest.approx(gain / ideal)


def test_more_relevant_items_than_places() -> None:
    # Two places, one hit at the first, four relevant: ideal and MAP divide by two, recall by four.
    recommended, relevant = ["a", "x", "b"], {"a", "b", "c", "d"}
    assert recall(recommended, relevant, k=2) == 1 / 4
    assert average_precision(recommended, relevant, k=2) == 1 / 2
    assert ndcg(recommended, relevant, k=2) == pytest.approx(1 / (1 + 1 / math.log2(3)))


def test_a_hit_behind_the_cutoff_does_not_count() -> None:
    for metric in METRICS.values():
        assert metric([*_ITEMS[:10], "late"], {"late"}) == 0


def test_one_relevant_item_at_rank_three_gives_half_the_gain() -> None:
    assert ndcg(["x", "y", "a"], {"a"}) == pytest.approx(0.5)


@given(_lists, _relevant)
def test_every_metric_lies_between_nought_and_one(recommended: list[str], relevant: set[str]) -> None:
    for metric in METRICS.values():
        assert 0 <= metric(recommended, relevant) <= 1 + 1e-12


@given(_lists, _relevant)
def test_relevant_items_in_front_are_a_perfect_list(recommended: list[str], relevant: set[str]) -> None:
    perfect = [*sorted(relevant), *(item for item in recommended if item not in relevant)]
    assert ndcg(perfect, relevant) == pytest.approx(1)
    assert average_precision(perfect, relevant) == pytest.approx(1)
    assert recall(perfect, relevant) == pytest.approx(min(1, 10 / len(relevant)))


@given(_lists, _relevant, st.integers(0, 13))
def test_moving_a_hit_forward_never_hurts(recommended: list[str], relevant: set[str], at: int) -> None:
    if at + 1 >= len(recommended) or recommended[at + 1] not in relevant or recommended[at] in relevant:
        return
    swapped = [*recommended[:at], recommended[at + 1], recommended[at], *recommended[at + 2 :]]
    for metric in METRICS.values():
        assert metric(swapped, relevant) >= metric(recommended, relevant)


@given(_lists, _relevant)
def test_metrics_agree_on_whether_there_is_a_hit(recommended: list[str], relevant: set[str]) -> None:
    hit = hit_rate(recommended, relevant) == 1
    assert all((metric(recommended, relevant) > 0) == hit for metric in METRICS.values())


def test_coverage_and_popularity_look_at_the_first_ten() -> None:
    lists = [[*_ITEMS[:10], "behind"], _ITEMS[5:15]]
    assert coverage(lists, catalogue_size=30) == 0.5
    assert mean_popularity([["a", "b"], ["a", "new"]], {"a": 6, "b": 4}) == 4
    assert mean_popularity([[]], {}) == 0


def test_standard_error_is_that_of_the_mean() -> None:
    mean, error = mean_and_standard_error([1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5
    assert error == pytest.approx(math.sqrt(5 / 3) / 2)
    assert mean_and_standard_error([0.7]) == (0.7, 0.0)
