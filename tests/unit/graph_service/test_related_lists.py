"""The cache of lists and the rule when one is due, and what changes do to both."""

import numpy as np

from graph_service.domain.graph import NEVER_MS, ItemFacts, Keys
from graph_service.domain.graph_cache import GraphCache
from graph_service.domain.ports import Applied, RelatedItems
from graph_service.domain.related_lists import FreshnessRule, RelatedList, RelatedLists

RULE = FreshnessRule(max_age_s=300, max_new_edges=20, min_age_s=2)
NOTHING = Applied({}, frozenset(), {})
FACTS = ItemFacts("t", 0, NEVER_MS)
HIDDEN = ItemFacts("t", NEVER_MS, NEVER_MS)


def keys(*values: int) -> Keys:
    return np.array(values, dtype=np.int64)


def a_list(*, nodes: tuple[int, ...] = (), users: int = 1_000) -> RelatedList:
    scores = np.array([[1, 0, 0], [0, 2, 0], [0, 0, 3]], dtype=np.float32)
    return RelatedList(np.array([5, 6, 7], dtype=np.int32), scores, nodes, users, computed_at_s=0, changes=0)


def related(*others: int, nodes: tuple[int, ...] = (), users: int = 0) -> RelatedItems:
    return RelatedItems(keys(*others), np.ones((len(others), 3), dtype=np.float32), nodes, users)


def cache_with(found: dict[int, RelatedItems]) -> GraphCache:
    cache = GraphCache(capacity=100, max_items=100, rule=RULE)
    fill(cache, found, 0)
    return cache


def fill(cache: GraphCache, found: dict[int, RelatedItems], now_s: float) -> None:
    with cache.watch() as watch:
        facts = dict.fromkeys(cache.unknown_items(list(found.values())), FACTS)
        cache.put(list(found), list(found.values()), facts, watch, now_s)


def shown(cache: GraphCache) -> list[int]:
    table = cache.contents.table
    found: list[int] = table.keys[table.shown("t", 5)].tolist()
    return found


# --- lists ---


def test_the_list_used_longest_ago_goes_first() -> None:
    lists = RelatedLists(2, RULE)
    lists.put(1, a_list(nodes=(9,)))
    lists.put(2, a_list(nodes=(9,)))
    assert list(lists.use([1, 5])) == [1]
    lists.put(3, a_list())
    assert [key in lists for key in (1, 2, 3)] == [True, False, True]
    assert len(lists) == 2
    lists.note_changed_nodes([9])
    assert lists.use([1])[1].outdated


def test_packed_entries_are_the_best_under_the_weights() -> None:
    packed = a_list().packed((1.0, 1.0, 0.5), 2).view(np.int32)[::2]
    assert packed.tolist() == [6, 7]
    assert a_list().packed((1.0, 0.0, 1.0), None).view(np.int32)[::2].tolist() == [5, 7]


def test_packed_entries_are_remembered_for_the_last_weights() -> None:
    one = a_list()
    first = one.packed((1.0, 1.0, 1.0), 2)
    assert one.packed((1.0, 1.0, 1.0), 2) is first
    one.packed((1.0, 1.0, 1.0), None)
    assert one.packed((1.0, 1.0, 1.0), 2) is first
    one.packed((2.0, 1.0, 1.0), 2)
    assert one.packed((1.0, 1.0, 1.0), 2) is not first


def test_a_list_is_due_after_its_time_if_anything_changed() -> None:
    lists = RelatedLists(9, RULE)
    one = a_list()
    assert not lists.is_due(one, 1e9)
    lists.changes = 1
    assert not lists.is_due(one, 299)
    assert lists.is_due(one, 300)


def test_a_list_is_due_after_enough_interactions() -> None:
    lists = RelatedLists(9, RULE)
    lists.changes = 1
    lists.put(1, a_list(users=1_000))
    lists.put(2, a_list(users=35))
    lists.put(3, a_list(users=0))
    for key, edges in ((1, 20), (2, 3), (3, 1)):
        (one,) = lists.use([key]).values()
        lists.note_new_edges(key, edges - 1)
        assert not lists.is_due(one, 10)
        lists.note_new_edges(key, 1)
        assert lists.is_due(one, 10)
        assert not lists.is_due(one, 1.9), "never before the least age"


# --- changes ---


def test_a_changed_item_loses_its_list_and_outdates_its_neighbours() -> None:
    cache = cache_with({1: related(2, nodes=(9,)), 2: related(1, nodes=(9,)), 3: related()})
    cache.note(Applied({1: HIDDEN}, frozenset({9}), {}))
    assert cache.missing([1, 2, 3, 1]) == [1]
    assert cache.due([1, 2, 3], 10) == [2]
    assert shown(cache) == [2]


def test_nothing_changed_is_nothing() -> None:
    cache = cache_with({1: related()})
    cache.note(NOTHING)
    assert cache.changes == 0


def test_what_changes_while_the_store_is_read_counts_as_newer() -> None:
    cache = GraphCache(capacity=100, max_items=100, rule=RULE)
    with cache.watch() as watch:
        cache.note(Applied({5: HIDDEN, 2: FACTS}, frozenset({9}), {3: 20}))
        cache.note(Applied({}, frozenset(), {3: 1}))
        found = {1: related(5, nodes=(8, 9)), 2: related(), 3: related(users=10_000), 4: related(nodes=(8,))}
        cache.put(list(found), list(found.values()), {5: FACTS}, watch, 0.0)
    assert shown(cache) == []
    assert cache.due([1, 2, 3, 4], 10) == [1, 2, 3]
    cache.note(Applied({4: FACTS}, frozenset(), {}))
    assert watch.facts.keys() == {2, 5}, "the block is over"


def test_an_item_table_that_is_full_begins_anew() -> None:
    cache = GraphCache(capacity=100, max_items=3, rule=RULE)
    fill(cache, {1: related(10, 11, 12, 13)}, 0)
    before = cache.contents
    fill(cache, {2: related(20)}, 0)
    assert cache.contents is not before
    assert cache.missing([1, 2]) == [1]
    assert len(cache.contents.table) == 1


def test_a_new_table_knows_how_much_has_changed() -> None:
    cache = GraphCache(capacity=100, max_items=1, rule=RULE)
    cache.note(Applied({}, frozenset(), {7: 1}))
    fill(cache, {1: related(10, 11)}, 0)
    fill(cache, {2: related(20)}, 0)
    assert cache.due([2], 1_000) == []
