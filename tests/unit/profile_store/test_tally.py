"""Popularity from the rows of a feed: each event counts once, whatever order and however often its rows are read."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from profile_store.adapters.cql.feed import FeedRow, Kind, event_key, first_arrival, slot_of
from profile_store.adapters.cql.tally import Recount, Tally, columns_of
from profile_store.adapters.cql.types import TypesOfTenant, type_key
from profile_store.domain.contexts import build_history, build_history_from_columns
from profile_store.domain.interactions import BUILT_IN_TYPES, InteractionType
from profile_store.domain.items import Item
from profile_store.domain.popularity import PopularityQuery, SumTable, Window

NOW = 1_700_000_000_000
SLOT = slot_of(first_arrival(NOW))


ITEMS = [Item("t", "film", name, "", "", {}, 0, None, None, False, 1) for name in "ab"]
ONE, TWO = (item.ref.key for item in ITEMS)


def deed(event_id: str, *, after_ms: int = 0, item_key: int = ONE) -> FeedRow:
    return FeedRow(
        first_arrival(NOW + after_ms), event_key(event_id, NOW), Kind.DEED, item_key, type_key("view"), 0.0, NOW
    )


def removal(of: FeedRow, *, after_ms: int) -> FeedRow:
    return replace(of, kind=Kind.REMOVAL, arrival=first_arrival(NOW + after_ms), original=of.arrival)


def tally(recounted: int = 0) -> Tally:
    return Tally("t", TypesOfTenant(BUILT_IN_TYPES), recounted)


def follow(known: Tally, *rows: FeedRow) -> None:
    for slot in sorted({slot_of(row.arrival) for row in rows}):
        known.follow(slot, columns_of([row for row in rows if slot_of(row.arrival) == slot]))


def settle(known: Tally, *rows: FeedRow) -> None:
    for slot in sorted({slot_of(row.arrival) for row in rows}):
        known.settle(slot, columns_of([row for row in rows if slot_of(row.arrival) == slot]))


def settled(known: Tally) -> dict[int, float]:
    keys, sums = known.settled.all()
    totals = sums.sums[:, Window.ALL].tolist()
    return {key: total for key, total in zip(keys.tolist(), totals, strict=True) if total}


async def live(known: Tally) -> dict[int, float]:
    """Give the totals that answer, as if all items existed."""

    async def read_items(keys: Sequence[int]) -> list[Item]:
        return [item for item in ITEMS if item.ref.key in keys]

    query = PopularityQuery("t", None, Window.ALL, 10, ())
    found = await known.top.most_popular(query, now_ms=NOW, read_items=read_items)
    return dict(zip(found.keys.tolist(), found.scores.tolist(), strict=True))


async def test_rows_that_are_read_again_count_once() -> None:
    known, rows = tally(), [deed("a"), deed("b", item_key=TWO), deed("c", after_ms=5)]
    follow(known, *rows)
    follow(known, *rows)
    follow(known, deed("d", after_ms=9), *rows)
    assert await live(known) == {ONE: 3.0, TWO: 1.0}
    settle(known, *rows, deed("d", after_ms=9))
    assert settled(known) == {ONE: 3.0, TWO: 1.0}


@pytest.mark.parametrize("late_first", [False, True])
async def test_an_event_with_two_arrivals_counts_once(late_first: bool) -> None:
    five_minutes = 300_000
    first, second = deed("a"), deed("a", after_ms=five_minutes)
    assert slot_of(second.arrival) == slot_of(first.arrival) + 1
    known = tally()
    for row in (second, first) if late_first else (first, second):
        follow(known, row)
    assert await live(known) == {ONE: 1.0}
    settle(known, first, second)
    assert settled(known) == {ONE: 1.0}
    assert list(known.slots) == [SLOT + 1]


async def test_a_removal_counts_once_and_waits_for_its_deed() -> None:
    known, one = tally(), deed("a")
    gone = removal(one, after_ms=10)
    follow(known, gone)
    follow(known, deed("b"))
    follow(known, one, gone, removal(one, after_ms=20))
    assert await live(known) == {ONE: 1.0}
    settle(known, one, deed("b"), gone, removal(one, after_ms=20))
    assert settled(known) == {ONE: 1.0}
    later = removal(deed("b"), after_ms=3_600_000)
    follow(known, later)
    follow(known, later)
    assert await live(known) == {}
    settle(known, later)
    assert settled(known) == {}


async def test_a_request_to_count_anew_is_followed_once() -> None:
    asked = FeedRow(first_arrival(NOW + 5), 0, Kind.RECOUNT)
    with pytest.raises(Recount) as raised:
        follow(tally(), deed("a"), asked)
    assert raised.value.arrival == asked.arrival
    known = tally(asked.arrival)
    follow(known, deed("a"), asked)
    assert await live(known) == {ONE: 1.0}


async def test_an_item_is_read_again_once_for_each_change() -> None:
    known = tally()
    read: list[int] = []

    async def read_items(keys: Sequence[int]) -> list[Item]:
        read.extend(keys)
        return []

    follow(known, deed("a"))
    changed = FeedRow(first_arrival(NOW + 5), ONE, Kind.ITEM, ONE)
    query = PopularityQuery("t", None, Window.ALL, 10, ())
    for _ in range(3):
        follow(known, deed("a"), changed)
        await known.top.most_popular(query, now_ms=NOW, read_items=read_items)
    assert read == [ONE]


def test_sums_of_many_items() -> None:
    random, table, plain = Random(1), SumTable(), dict.fromkeys(range(500), 0.0)
    for _ in range(50):
        keys = np.array([random.randrange(500) for _ in range(40)], dtype=np.int64)
        times = np.full(40, NOW, dtype=np.int64)
        weights = np.array([float(random.randrange(1, 9)) for _ in range(40)])
        table.add(keys, times, weights)
        table.subtract(keys[:3], times[:3], weights[:3])
        for key, weight in zip(keys[3:].tolist(), weights[3:].tolist(), strict=True):
            plain[key] += weight
    keys, sums = table.all()
    assert len(table) == len(keys)
    again = SumTable.of(keys, sums)
    again.add(np.array([10_000]), np.array([NOW]), np.array([2.0]))
    found = dict(zip(again.all()[0].tolist(), again.all()[1].sums[:, Window.ALL].tolist(), strict=True))
    assert found.pop(10_000) == 2.0
    assert found == pytest.approx({key: value for key, value in plain.items() if key in found})


def test_types_weigh_columns_as_they_weigh_one() -> None:
    kinds = TypesOfTenant({**BUILT_IN_TYPES, "skip": InteractionType("skip", -1.0, counts_as_seen=False)})
    names = ["view", "rating", "skip", "rating"]
    keys = np.array([type_key(name) for name in names], dtype=np.int64)
    assert kinds.know(keys)
    assert not kinds.know(np.array([7], dtype=np.int64))
    _, weights, seen = kinds.weigh(keys, np.array([np.nan, 5.0, np.nan, 1.0]))
    assert weights.tolist() == [1.0, 2.5, -1.0, -1.5]
    assert seen.tolist() == [True, True, False, True]


@pytest.mark.parametrize("seed", range(20))
def test_a_history_from_columns_is_that_from_rows(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("profile_store.domain.contexts.MAX_HISTORY", 15)
    random = Random(seed)
    kinds = [InteractionType("a", 1.0), InteractionType("b", 2.0, 2.5), InteractionType("c", -1.0, None, False)]
    rows = [
        (random.randrange(40), random.randrange(3), float(random.randrange(6)), NOW - place)
        for place in range(random.randrange(120))
    ]
    wanted = build_history(rows, dict(enumerate(kinds)), interaction_count=7)
    columns = [np.array([row[place] for row in rows]) for place in range(4)]
    found = build_history_from_columns(
        columns[0].astype(np.int64),
        columns[1].astype(np.int64),
        np.array([kinds[row[1]].weigh(row[2]) for row in rows]),
        columns[3].astype(np.int64),
        np.array([kinds[row[1]].counts_as_seen for row in rows], dtype=np.bool_),
        interaction_count=7,
    )
    for name in ("keys", "weights", "times_ms", "seen", "interaction_count"):
        assert np.array_equal(getattr(found, name), getattr(wanted, name)), name
