"""The item table: positions, who may be shown when, what passes a filter."""

import numpy as np

from graph_service.domain.graph import NEVER_MS, FilterableItem, ItemFacts, Keys
from graph_service.domain.item_table import FAILS, MAX_FILTERS, PASSES, UNKNOWN, ItemTable
from servicekit.filters import Filter, Operator, Predicate

DRAMAS: Filter = (Predicate("genre", Operator.EQ, ("Drama",)),)


def keys(*values: int) -> Keys:
    return np.array(values, dtype=np.int64)


def shown(table: ItemTable, tenant: str, now_ms: int) -> list[int]:
    found: list[int] = table.keys[table.shown(tenant, now_ms)].tolist()
    return found


def drama(key: int) -> dict[int, FilterableItem]:
    return {key: FilterableItem("film", 0, {"genre": "Drama"})}


def test_positions_stay_when_the_table_grows() -> None:
    table = ItemTable()
    table.place([5, 6], {})
    before = table.positions(keys(6, 5)).tolist()
    table.place(range(5_000), {})
    assert table.positions(keys(6, 5)).tolist() == before == [1, 0]
    assert len(table) == 5_000
    assert table.unknown([5, 6, 9_999]) == [9_999]


def test_an_item_is_shown_to_its_tenant_in_its_time() -> None:
    table = ItemTable()
    table.place([1, 2, 3, 4], {1: ItemFacts("a", 0, NEVER_MS), 2: ItemFacts("a", 10, 20), 3: ItemFacts("b", 0, 15)})
    assert shown(table, "a", 5) == [1]
    assert shown(table, "a", 10) == [1, 2]
    assert shown(table, "a", 19) == [1, 2]
    assert shown(table, "a", 20) == [1]
    assert shown(table, "b", 14) == [3]
    assert shown(table, "b", 15) == []
    assert shown(table, "a", 12) == [1, 2], "time may also go back"
    assert shown(table, "nobody", 5) == []


def test_changed_facts_count_at_once_and_those_of_strangers_are_ignored() -> None:
    table = ItemTable()
    table.place([1], {1: ItemFacts("a", 0, NEVER_MS)})
    assert shown(table, "a", 5) == [1]
    table.change(1, ItemFacts("a", NEVER_MS, NEVER_MS))
    table.change(2, ItemFacts("a", 0, NEVER_MS))
    assert shown(table, "a", 5) == []
    assert len(table) == 1


def test_placing_an_item_again_keeps_its_facts() -> None:
    table = ItemTable()
    table.place([1], {1: ItemFacts("a", 0, NEVER_MS)})
    table.place([1], {1: ItemFacts("a", NEVER_MS, NEVER_MS)})
    assert shown(table, "a", 5) == [1]


def test_verdicts_are_remembered_until_the_item_changes() -> None:
    table = ItemTable()
    table.place([1, 2, 3], {})
    assert table.verdicts(DRAMAS)[:3].tolist() == [UNKNOWN] * 3
    table.judge(DRAMAS, keys(1, 2), drama(1))
    assert table.verdicts(DRAMAS)[:3].tolist() == [PASSES, FAILS, UNKNOWN]
    table.change(1, ItemFacts("a", 0, NEVER_MS))
    assert table.verdicts(DRAMAS)[:3].tolist() == [UNKNOWN, FAILS, UNKNOWN]


def test_an_item_that_changed_while_it_was_read_is_judged_later() -> None:
    table = ItemTable()
    table.place([1], {})
    table.judge(DRAMAS, keys(1), drama(1), changed={1})
    assert table.verdicts(DRAMAS)[0] == UNKNOWN


def test_verdicts_grow_with_the_table() -> None:
    table = ItemTable()
    table.place([1], {})
    table.judge(DRAMAS, keys(1), drama(1))
    table.place(range(2, 5_000), {})
    verdicts = table.verdicts(DRAMAS)
    assert len(verdicts) >= 5_000 - 1
    assert verdicts[0] == PASSES


def test_only_so_many_filters_are_remembered() -> None:
    table = ItemTable()
    table.place([1], {})
    table.judge(DRAMAS, keys(1), drama(1))
    for number in range(MAX_FILTERS):
        table.verdicts((Predicate("year", Operator.EQ, (float(number),)),))
    assert table.verdicts(DRAMAS)[0] == UNKNOWN
