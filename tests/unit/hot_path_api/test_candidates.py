import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hot_path_api.domain.blend import (
    NOTHING_RANKED,
    Blend,
    Ranked,
    Term,
    Transform,
    best_first,
    in_order,
    rank,
    rank_all,
)
from hot_path_api.domain.candidates import NO_CANDIDATES, Candidates
from hot_path_api.domain.pools import join_all, merge, pools_of
from hot_path_api.domain.ranking import top_up


def candidates(
    keys: list[int], rows: dict[str, list[float]], *, because: int = -1, shares: set[str] | None = None
) -> Candidates:
    return Candidates(
        keys=np.array(keys, np.int64),
        names=tuple(rows),
        features=np.array(list(rows.values()), np.float32),
        because=np.full(len(keys), because, np.int32),
        shares=frozenset(rows if shares is None else shares),
    )


def ranked_by(pool: Candidates, scores: list[float]) -> Ranked:
    (ranked,) = in_order([pool], np.array([scores], np.float32), [0])
    return ranked


def test_merging_lays_rows_side_by_side_and_keeps_the_first_reason() -> None:
    tables = candidates([30, 10], {"a": [0.3, 0.1], "size": [4.0, 2.0]}, because=0, shares={"a"})
    graph = candidates([20, 10], {"graph": [0.5, 0.7]}, because=1)
    merged = merge([tables, NO_CANDIDATES, graph])
    assert merged.keys.tolist() == [10, 20, 30]
    assert merged.names == ("a", "size", "graph")
    np.testing.assert_allclose(merged.features, [[0.1, 0.0, 0.3], [2.0, 3.0, 4.0], [0.7, 0.5, 0.0]])
    assert merged.because.tolist() == [0, 1, 0]
    assert merged.shares == {"a", "graph"}
    np.testing.assert_allclose(merged.evidence(), [0.8, 0.5, 0.3])


def test_merging_nothing_or_one() -> None:
    one = candidates([2, 1], {"a": [1.0, 2.0]})
    assert merge([]) is NO_CANDIDATES
    assert merge([NO_CANDIDATES, one]) is one


def test_merging_agrees_with_a_plain_way(subtests: pytest.Subtests) -> None:
    for seed in range(20):
        with subtests.test(seed=seed):
            draw = np.random.default_rng(seed)
            parts = [
                candidates(
                    draw.choice(50, size, replace=False).tolist(), {name: draw.random(size).tolist()}, because=place
                )
                for place, (name, size) in enumerate((("a", 20), ("b", 10), ("c", 30)))
            ]
            merged = merge(parts)
            for column, key in enumerate(merged.keys.tolist()):
                for row, part in enumerate(parts):
                    at = np.flatnonzero(part.keys == key)
                    assert merged.features[row, column] == (part.features[0, at[0]] if len(at) else 0.0)
                assert merged.because[column] == min(
                    place for place, part in enumerate(parts) if key in part.keys.tolist()
                )


def test_joining_adds_features_and_no_candidates() -> None:
    pool = candidates([30, 10, 99], {"a": [0.3, 0.1, 0.2]}, because=0)
    (joined,) = join_all([pool], [candidates([20, 10, 30], {"graph": [0.5, 0.7, 0.2]}, because=1)])
    assert joined.keys.tolist() == [30, 10, 99]
    assert joined.names == ("a", "graph")
    np.testing.assert_allclose(joined.features, [[0.3, 0.1, 0.2], [0.2, 0.7, 0.0]])
    assert joined.because.tolist() == [0, 0, 0]
    assert joined.shares == {"a", "graph"}
    assert join_all([pool], [NO_CANDIDATES]) == [pool]


@given(st.data())
def test_many_pools_are_joined_each_as_a_plain_way_joins_it(data: st.DataObject) -> None:
    keys = st.lists(st.integers(0, 12), unique=True, max_size=6)
    pools = [candidates(own, {"a": [float(key) for key in own]}) for own in data.draw(st.lists(keys, max_size=5))]
    others = [
        candidates(own, {"b": [key + 0.5 for key in own], "c": [-float(key) for key in own]})
        for own in data.draw(st.lists(keys, min_size=len(pools), max_size=len(pools)))
    ]
    for pool, other, joined in zip(pools, others, join_all(pools, others), strict=True):
        given = dict(zip(other.keys.tolist(), other.features.T.tolist(), strict=True))
        expected = [[float(key), *given.get(key, [0.0, 0.0])] for key in pool.keys.tolist()]
        assert joined.keys is pool.keys
        assert joined.features.T.tolist() == (expected if given else pool.features.T.tolist())


def test_a_pool_is_joined_where_the_first_source_found_enough_and_merged_where_not() -> None:
    tables, graph = candidates([30, 10], {"a": [0.3, 0.1]}), candidates([20, 10], {"graph": [0.5, 0.7]})
    third = candidates([30], {"b": [0.9]})
    joined, merged, alone, none = pools_of([[tables, graph, third], [tables, graph], [tables], []], enough=[2, 3, 2, 1])
    assert joined.keys.tolist() == [30, 10]
    np.testing.assert_allclose(joined.features, [[0.3, 0.1], [0.0, 0.7], [0.9, 0.0]])
    assert merged.keys.tolist() == [10, 20, 30]
    assert alone is tables
    assert none is NO_CANDIDATES


def test_the_blend_weighs_transformed_features() -> None:
    blend = Blend([Term("a", 2.0, Transform.SQRT), Term("b", 0.5), Term("absent", 9.0), Term("zero", 0.0)])
    pool = candidates([1, 2], {"a": [0.25, -0.25], "c": [7.0, 7.0], "b": [2.0, 4.0]})
    ranked = rank(blend, pool)
    np.testing.assert_allclose(ranked.scores, [2.0, 1.0])
    assert ranked.keys.tolist() == [1, 2]
    assert blend.features == {"a", "b", "absent"}
    without = rank(blend.without(frozenset("a")), candidates([1], {"a": [1.0], "b": [2.0]})).scores
    np.testing.assert_allclose(without, [1.0])


def test_many_pools_are_scored_as_one() -> None:
    blend, other = Blend([Term("a", 2.0, Transform.SQRT), Term("b", 0.5)]), Blend([Term("b", 1.0)])
    pools = [
        (blend, candidates([1, 2], {"a": [0.25, -0.25], "b": [2.0, 4.0]})),
        (other, candidates([3], {"b": [7.0]})),
        (blend, candidates([], {"a": [], "b": []})),
        (blend, candidates([4], {"b": [1.0]})),
        (blend, candidates([6, 5], {"a": [1.0, 4.0], "b": [1.0, 1.0]})),
    ]
    together = rank_all(pools)
    assert [each.scores.tolist() for each in together] == [[2.0, 1.0], [7.0], [], [0.5], [4.5, 2.5]]
    assert [each.places.tolist() for each in together] == [[0, 1], [0], [], [0], [1, 0]]
    assert [each.keys.tolist() for each in together] == [[1, 2], [3], [], [4], [5, 6]]
    assert [each.speaking for each in together] == [2, 1, 0, 1, 2]
    assert [each.scores.tolist() for each in together] == [rank(*each).scores.tolist() for each in pools]


def test_items_newer_than_a_model_are_seated_by_what_they_resemble_unless_the_caller_weighs() -> None:
    rows = {
        "a": [9.0, 8.0, 7.0, 6.0, 5.0, 0.0],
        "content": [0.1, 0.2, 0.3, 0.4, 0.5, 0.9],
        "in_model": [1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
    }
    pool = candidates([1, 2, 3, 4, 5, 6], rows, shares={"a", "content"})
    learned = rank(Blend([Term("a", 1.0)]), pool)
    assert learned.keys.tolist() == [1, 2, 3, 4, 6, 5]
    assert learned.scores.tolist() == [9.0, 8.0, 7.0, 6.0, 6.0, 5.0]
    assert rank(Blend.of_weights({"a": 1.0}), pool).keys.tolist() == [1, 2, 3, 4, 5, 6]


def test_the_first_of_a_pool_may_stand_before_the_others() -> None:
    ranked = rank(Blend([Term("a", 1.0)]), candidates([1, 2, 3, 4], {"a": [0.1, 0.5, 0.9, 0.3]}))
    assert ranked.with_first(2).keys.tolist() == [2, 1, 3, 4]
    assert ranked.with_first(2).scores.tolist() == ranked.scores[[1, 3, 0, 2]].tolist()
    assert ranked.with_first(4) is ranked


@given(st.lists(st.sampled_from([-2.5, -1.0, -0.0, 0.0, 1e-30, 0.5, 0.5000001, 3.0, 1e30]), min_size=1, max_size=40))
def test_the_best_come_first_and_ties_stay_as_they_were(scores: list[float]) -> None:
    row = np.array([scores], np.float32)
    assert best_first(row)[0].tolist() == np.argsort(-row[0], kind="stable").tolist()


def test_topping_up_puts_popular_items_behind_and_what_is_spoken_against_last() -> None:
    pool = candidates([1, 2, 3], {"a": [0.5, -0.4, -0.1], "size": [1.0, 1.0, 1.0]}, shares={"a"})
    popular = candidates([4, 2, 5], {"trending": [1.0, 0.8, 0.5]})
    topped, ranked = top_up(pool, ranked_by(pool, [-7.0, 8.0, 9.0]), popular)
    assert ranked.keys.tolist() == topped.keys[ranked.places].tolist() == [1, 4, 5, 3, 2]
    assert ranked.scores[0] == -7.0


def test_what_dislikes_alone_speak_for_is_noise() -> None:
    pool = candidates([1, 2], {"a": [3e-4, -0.4]}, shares={"a"})
    popular = candidates([4, 2], {"trending": [1.0, 0.8]})
    _, ranked = top_up(pool, ranked_by(pool, [9.0, 8.0]), popular, likes=False)
    assert ranked.keys.tolist() == [4, 1, 2]


def test_topping_up_with_one_side_only() -> None:
    pool = candidates([1], {"a": [0.5]})
    popular = candidates([4, 5], {"trending": [1.0, 0.5]})
    ranked = ranked_by(pool, [3.0])
    assert top_up(pool, ranked, NO_CANDIDATES) == (pool, ranked)
    topped, ranked = top_up(NO_CANDIDATES, NOTHING_RANKED, popular)
    assert topped is popular
    assert ranked.scores.tolist() == [1.0, 0.5]
