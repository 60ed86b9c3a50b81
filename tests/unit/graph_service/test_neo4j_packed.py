"""What the Neo4j adapter packs and remembers, without a server."""

import random

import numpy as np
import pytest

from graph_service.adapters.neo4j.degrees import KnownDegrees
from graph_service.adapters.neo4j.packed import (
    MOST_MEMBERS,
    Lists,
    Members,
    Newest,
    pack_list,
    pack_nodes,
    unpack_list,
    unpack_members,
    unpack_nodes,
)
from graph_service.domain.graph import NodeKind

LARGEST = (1 << 63) - 1


def keys(*values: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    return np.array(values, dtype=np.int64)


# --- the newest neighbours ---


def test_the_newest_come_first_ties_by_the_larger_key() -> None:
    newest = Newest(0, b"", [], most=3)
    for key, at_ms in ((1, 10), (2, 30), (3, 20), (LARGEST, 20)):
        newest.add(key, at_ms)
    assert newest.keys() == [2, LARGEST, 3]
    assert newest.degree == 4


def test_what_is_packed_are_always_the_newest() -> None:
    rng = random.Random(1)
    newest = Newest(0, b"", [], most=5)
    truth: dict[int, int] = {}
    for _ in range(2_000):
        key = rng.randrange(30)
        if key in truth:
            newest.remove(key, truth.pop(key))
        else:
            truth[key] = rng.randrange(1_000)
            newest.add(key, truth[key])
        newest = Newest(newest.degree, newest.times(), newest.keys(), most=5)
        expected = sorted(truth, key=lambda each: (-truth[each], -each))
        assert newest.degree == len(truth)
        assert newest.keys() == expected[: len(newest.keys())]
        assert len(newest.keys()) <= 5


def test_a_whole_list_stays_whole() -> None:
    newest = Newest(0, b"", [], most=5)
    for key in range(4):
        newest.add(key, 10)
    newest.remove(2, 10)
    newest.add(9, 1)
    assert newest.keys() == [3, 1, 0, 9]


def test_who_is_older_than_a_list_with_gaps_stays_out() -> None:
    newest = Newest(0, b"", [], most=2)
    for key in range(3):
        newest.add(key, key)
    newest.remove(2, 2)
    newest.add(7, 0)
    assert newest.keys() == [1], "0 is newer than 7, and not in the list"
    assert newest.degree == 3


# --- lists ---


def test_lists_come_by_owner_and_as_long_as_wanted() -> None:
    packed = [pack_list(9, 4, [1, 2, 3, 4]), pack_list(5, 0, []), pack_list(7, 7, [8])]
    lists = Lists.unpack(packed, most=2)
    assert lists.owners.tolist() == [5, 7, 9]
    assert lists.degrees.tolist() == [0, 7, 4]
    assert lists.counts.tolist() == [0, 1, 2]
    assert lists.values.tolist() == [8, 1, 2]
    assert lists.short(2).tolist() == [7]
    assert unpack_list(packed[0]) == [1, 2, 3, 4]
    assert unpack_list(None) == []


def test_no_lists_are_empty() -> None:
    lists = Lists.unpack([], most=2)
    assert [len(each) for each in (lists.owners, lists.degrees, lists.counts, lists.values)] == [0] * 4


# --- nodes ---


def test_members_come_back_with_their_siblings() -> None:
    members = Members(5, 0, None)
    members.put(LARGEST, 50, is_new=True)
    members.put(2, 1, is_new=True)
    members.put(2, 3, is_new=False)
    members.put(3, 1, is_new=True)
    members.remove(3)
    again = Members(5, 2, members.packed())
    items, siblings = unpack_members(again.packed())
    assert dict(zip(items.tolist(), siblings.tolist(), strict=True)) == {LARGEST: 50, 2: 3}


def test_a_node_of_too_many_items_lists_none_from_then_on() -> None:
    members = Members(5, 0, None)
    for item in range(MOST_MEMBERS + 1):
        members.put(item, 1, is_new=True)
    assert len(unpack_members(members.packed())[0]) == 0
    again = Members(5, MOST_MEMBERS + 1, members.packed())
    again.remove(0)
    assert again.degree == MOST_MEMBERS
    assert len(unpack_members(again.packed())[0]) == 0, "who the others are is not known"


def test_an_items_nodes_come_back_with_their_kinds() -> None:
    nodes = {LARGEST: NodeKind.PERSON, 3: NodeKind.COUNTRY}
    assert dict(unpack_nodes(pack_nodes(nodes))) == nodes
    assert unpack_nodes(None) == []


# --- known degrees ---


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock_s() -> Clock:
    return Clock()


@pytest.fixture
def degrees(clock_s: Clock) -> KnownDegrees:
    return KnownDegrees(10_000, 100.0, monotonic_s=clock_s)


@pytest.mark.parametrize("count", [3, 3_000])
def test_degrees_are_remembered_until_they_change(degrees: KnownDegrees, count: int) -> None:
    assert degrees.known(keys(1, 2)).tolist() == [-1, -1]
    degrees.keep({key: key + 1 for key in range(count)}, set())
    assert degrees.known(keys(1, 2, count)).tolist() == [2, 3, -1]
    degrees.forget([2, 99_999])
    assert degrees.known(keys(1, 2)).tolist() == [2, -1]
    degrees.keep({2: 8}, set())
    assert degrees.known(keys(1, 2)).tolist() == [2, 8]
    degrees.keep(dict.fromkeys(range(count, 2 * count), 5), set())
    assert degrees.known(keys(1, 2, count)).tolist() == [2, 8, 5]
    degrees.clear()
    assert degrees.known(keys(1, 2)).tolist() == [-1, -1]


def test_what_changes_while_it_is_read_is_not_remembered(degrees: KnownDegrees) -> None:
    with degrees.reading() as changed:
        degrees.forget([1])
        degrees.keep({1: 5, 2: 5}, changed)
    assert degrees.known(keys(1, 2)).tolist() == [-1, 5]


@pytest.mark.parametrize("count", [3, 3_000])
def test_degrees_are_read_again_after_their_time(degrees: KnownDegrees, clock_s: Clock, count: int) -> None:
    degrees.keep(dict.fromkeys(range(count), 4), set())
    for now_s, expected in ((40.0, 4), (60.0, 4), (90.0, 4), (200.0, -1)):
        clock_s.now_s = now_s
        assert degrees.known(keys(1)).tolist() == [expected]


def test_too_many_begin_anew(degrees: KnownDegrees) -> None:
    degrees.keep(dict.fromkeys(range(9_999), 4), set())
    degrees.keep({20_000: 1, 20_001: 1}, set())
    assert degrees.known(keys(1, 20_000)).tolist() == [-1, 1]
