"""Masks of filters mean what filters mean, at every moment."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servicekit.clock import ManualClock
from servicekit.filters import AttributeValue, Filter, Operator, Predicate, matches
from vector_search.domain.catalogue import ALWAYS_MS, NEVER_MS, NO_ITEMS, Catalogue, VersionItems
from vector_search.domain.columns import MemoryColumns, build_columns
from vector_search.domain.items import Fields, ItemState
from vector_search.domain.numbering import Numbering

TEXTS = st.sampled_from(["a", "b", "", "ü", "a longer text", "True", "1.0"])
VALUES = st.one_of(TEXTS, st.sampled_from([0.0, 1.0, -2.5, 1e9]), st.booleans(), st.lists(TEXTS, max_size=3).map(tuple))
FIELDS = st.dictionaries(st.sampled_from(["x", "y", "z w"]), VALUES, max_size=3)
OPERANDS = st.one_of(TEXTS, st.sampled_from([0.0, 1.0, -2.5, 7.0]), st.booleans())


@st.composite
def predicates(draw: st.DrawFn) -> Predicate:
    operator = draw(st.sampled_from(list(Operator)))
    if operator in {Operator.GTE, Operator.LTE}:
        values: tuple[AttributeValue, ...] = (draw(st.sampled_from([-3.0, 0.0, 1.0, 2.0])),)
    elif operator is Operator.EXISTS:
        values = (draw(st.booleans()),)
    elif operator is Operator.EQ:
        values = (draw(OPERANDS),)
    else:
        values = tuple(draw(st.lists(OPERANDS, min_size=1, max_size=3)))
    return Predicate(draw(st.sampled_from(["x", "y", "z w", "absent"])), operator, values)


def catalogue_of(items: list[Fields], clock: ManualClock | None = None) -> Catalogue:
    count = len(items)
    version = VersionItems(
        np.arange(count, dtype=np.int64) * 10,
        np.full(count, 100, np.int64),
        np.zeros(count, np.uint8),
        np.full(count, ALWAYS_MS, np.int64),
        np.full(count, NEVER_MS, np.int64),
        MemoryColumns(build_columns(items), count),
    )
    return Catalogue(version, clock=clock or ManualClock())


@settings(max_examples=150, deadline=None)
@given(
    st.lists(FIELDS, max_size=8),
    st.lists(st.tuples(st.integers(0, 9), FIELDS), max_size=6),
    st.lists(predicates(), min_size=1, max_size=3).map(tuple),
)
def test_a_mask_is_the_filter_of_each_item(
    items: list[Fields], changes: list[tuple[int, Fields]], conditions: Filter
) -> None:
    catalogue = catalogue_of(items)
    truth = {number * 10: fields for number, fields in enumerate(items)}
    before = catalogue.passing(conditions)
    for key, fields in truth.items():
        assert bool(before[catalogue.number(key)]) is matches(conditions, fields.get)
    for moment, (place, fields) in enumerate(changes):
        catalogue.put(ItemState(place * 10, fields, 200 + moment))
        truth[place * 10] = fields
    after = catalogue.passing(conditions)
    for key, fields in truth.items():
        assert bool(after[catalogue.number(key)]) is matches(conditions, fields.get)


def test_later_states_win_and_earlier_ones_do_not() -> None:
    catalogue = catalogue_of([{"x": "old"}])
    assert not catalogue.put(ItemState(0, {"x": "older"}, 50))
    assert not catalogue.put(ItemState(0, {"x": "the version's own"}, 100))
    assert catalogue.put(ItemState(0, {"x": "new"}, 101))
    assert catalogue.put(ItemState(0, {"x": "newer at the same moment"}, 101))
    assert not catalogue.remove(0, 99)
    assert catalogue.remove(0, 102)
    assert not catalogue.has(0)
    assert catalogue.knows(0)
    assert not catalogue.put(ItemState(0, {}, 101))
    assert catalogue.put(ItemState(0, {}, 103))
    assert catalogue.has(0)


def test_a_number_without_an_item_is_not_available() -> None:
    catalogue = catalogue_of([{}])
    number = catalogue.number(777)
    assert not catalogue.has(777)
    assert not catalogue.knows(777)
    assert not catalogue.available()[number]
    assert catalogue.newcomers == 0
    catalogue.put(ItemState(777, {}, 0))
    assert catalogue.available()[number]
    assert catalogue.newcomers == 1


def test_forgetting_lasts_until_something_newer_is_heard() -> None:
    catalogue = catalogue_of([{}])
    catalogue.forget(0)
    catalogue.forget(12_345)
    assert not catalogue.has(0)
    assert not catalogue.knows(12_345)
    catalogue.put(ItemState(0, {}, 100))
    assert not catalogue.has(0)
    catalogue.put(ItemState(0, {}, 102))
    assert catalogue.has(0)


def test_windows_open_and_close_with_the_clock() -> None:
    clock = ManualClock(1_000)
    catalogue = catalogue_of([{}, {}], clock)
    catalogue.put(ItemState(0, {}, 200, available_from_ms=1_100, available_until_ms=1_300))
    catalogue.put(ItemState(10, {}, 200, hidden=True, available_from_ms=1_100))
    seen = []
    for _ in range(5):
        seen.append(catalogue.available()[:2].tolist())
        clock.advance(100)
    assert seen == [[0, 0], [1, 0], [1, 0], [0, 0], [0, 0]]


def test_many_changes_rebuild_the_masks_and_many_filters_stay_bounded() -> None:
    catalogue = Catalogue(NO_ITEMS, clock=ManualClock(), mask_bytes=20_000)
    odd = (Predicate("odd", Operator.EQ, (True,)),)
    catalogue.passing(odd)
    for key in range(5_000):
        catalogue.put(ItemState(key, {"odd": key % 2 == 1}, key))
    for bound in range(50):
        catalogue.passing((Predicate("n", Operator.GTE, (float(bound),)),))
    assert len(catalogue._masks) <= 2
    mask = catalogue.passing(odd)
    assert [bool(mask[catalogue.number(key)]) for key in range(20)] == [key % 2 == 1 for key in range(20)]


def test_admitted_judges_only_what_it_has_heard_of() -> None:
    catalogue = catalogue_of([{"x": "a"}, {"x": "b"}])
    catalogue.remove(10, 500)
    keys = np.array([0, 10, 4_711], np.int64)
    assert catalogue.admitted(keys, ()).tolist() == [True, False, True]
    assert catalogue.admitted(keys, (Predicate("x", Operator.EQ, ("b",)),)).tolist() == [False, False, True]
    assert catalogue.admitted(np.empty(0, np.int64), ()).tolist() == []


@pytest.mark.parametrize("count", [0, 1, 5_000])
def test_numbers_are_dense_and_kept(count: int) -> None:
    keys = np.sort(np.random.default_rng(count).choice(2**62, count, replace=False)).astype(np.int64)
    numbering = Numbering(keys)
    assert numbering.find(keys).tolist() == list(range(count))
    colliding = [int(key) for key in (np.arange(3_000) << 40)]
    given_numbers = [numbering.number(key) for key in colliding]
    assert sorted(set(given_numbers) - set(range(count))) == list(range(count, numbering.count))
    assert numbering.find(np.array(colliding)).tolist() == given_numbers
    assert numbering.find(keys).tolist() == list(range(count))
    assert numbering.find(np.array([-1, -5, 2**62 + 1])).tolist() == [-1, -1, -1]
    assert numbering.keys[: numbering.count].tolist()[count:] == [k for k in colliding if k not in set(keys.tolist())]
