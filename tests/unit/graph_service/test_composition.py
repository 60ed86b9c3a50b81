"""Composition agrees with the plain sum it stands for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_service.domain.composition import Candidates, Composer, Wish, pack
from graph_service.domain.graph import NEVER_MS, ItemFacts, Keys
from graph_service.domain.item_table import ItemTable

FACTS = ItemFacts("t", 0, NEVER_MS)


def keys(*values: int) -> Keys:
    return np.array(values, dtype=np.int64)


def table_of(*values: int) -> ItemTable:
    table = ItemTable()
    table.place(values, dict.fromkeys(values, FACTS))
    return table


def compose(
    table: ItemTable,
    lists: list[dict[int, float]],
    weights: list[float],
    *,
    exclude: Keys | None = None,
    limit: int = 100,
    composer: Composer | None = None,
) -> Candidates:
    composer = composer or Composer(table)
    packed = [
        pack(table.positions(keys(*each)).astype(np.int32), np.array(list(each.values()), dtype=np.float32))
        for each in lists
    ]
    wish = Wish(
        packed,
        np.array(weights),
        np.arange(len(packed), dtype=np.int32),
        keys() if exclude is None else exclude,
        limit,
    )
    (found,) = composer.compose([wish], shown=table.shown("t", 5))
    return found


def test_scores_add_up_and_the_largest_share_is_named() -> None:
    found = compose(table_of(10, 20, 30), [{10: 0.5, 20: 0.25}, {20: 0.5, 30: 0.125}], [1.0, 2.0])
    assert found.keys.tolist() == [20, 10, 30]
    assert found.scores.tolist() == [1.25, 0.5, 0.25]
    assert found.because.tolist() == [1, 0, 1]
    assert [each.dtype.name for each in (found.keys, found.scores, found.because)] == ["int64", "float32", "int32"]


def test_negative_weights_push_down_and_out() -> None:
    found = compose(table_of(10, 20), [{10: 0.5, 20: 0.5}, {10: 0.25, 20: 0.75}], [1.0, -1.0])
    assert found.keys.tolist() == [10]
    assert found.scores.tolist() == [0.25]
    assert found.because.tolist() == [0]


def test_ties_go_by_key_also_at_the_limit() -> None:
    found = compose(table_of(40, 30, 20, 10), [{40: 0.5, 30: 0.5, 20: 0.5, 10: 0.25}], [1.0], limit=2)
    assert found.keys.tolist() == [20, 30]


def test_excluded_items_do_not_come_back_even_when_their_hashes_collide() -> None:
    same_slot = [7 + (slot << 16) for slot in range(20)]
    found = compose(
        table_of(*same_slot), [dict.fromkeys(same_slot, 0.5)], [1.0], exclude=keys(*same_slot[:19], same_slot[0])
    )
    assert found.keys.tolist() == same_slot[19:]
    few = compose(table_of(*same_slot), [dict.fromkeys(same_slot, 0.5)], [1.0], exclude=keys(*same_slot[:3]))
    assert found.keys.tolist() != few.keys.tolist() == same_slot[3:]


def test_what_may_not_be_shown_is_left_out() -> None:
    table = table_of(10)
    table.place([20, 30], {20: ItemFacts("other", 0, NEVER_MS)})
    assert compose(table, [{10: 0.5, 20: 0.5, 30: 0.5}], [1.0]).keys.tolist() == [10]


def test_nothing_may_be_left() -> None:
    found = compose(table_of(10), [{10: 0.5}], [-1.0])
    assert found.keys.tolist() == found.scores.tolist() == found.because.tolist() == []


def test_the_work_space_grows_with_lists_and_table() -> None:
    table = table_of(1)
    composer = Composer(table)
    compose(table, [{1: 0.5}], [1.0], composer=composer)
    many = range(2, 6_000)
    table.place(many, dict.fromkeys(many, FACTS))
    found = compose(table, [dict.fromkeys(many, 0.5)], [1.0], composer=composer, limit=10_000)
    assert len(found.keys) == len(many)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.dictionaries(st.integers(1, 40), st.integers(1, 64).map(lambda n: n / 64), min_size=1),
            st.sampled_from([1.0, 0.5, 2.0, -1.0, 0.0]),
        ),
        min_size=1,
        max_size=8,
    ),
    st.sets(st.integers(1, 40)),
    st.integers(1, 45),
)
def test_it_equals_the_plain_sum(lists: list[tuple[dict[int, float], float]], excluded: set[int], limit: int) -> None:
    found = compose(
        table_of(*range(40, 0, -1)),
        [each for each, _ in lists],
        [weight for _, weight in lists],
        exclude=keys(*excluded),
        limit=limit,
    )
    sums: dict[int, float] = {}
    for each, weight in lists:
        for key, score in each.items():
            sums[key] = sums.get(key, 0.0) + weight * score
    wanted = sorted((-score, key) for key, score in sums.items() if score > 0 and key not in excluded)[:limit]
    assert found.keys.tolist() == [key for _, key in wanted]
    assert found.scores.tolist() == pytest.approx([-score for score, _ in wanted])
    for key, place in zip(found.keys.tolist(), found.because.tolist(), strict=True):
        shares = [weight * each.get(key, 0.0) for each, weight in lists]
        assert shares[place] == max(shares)
