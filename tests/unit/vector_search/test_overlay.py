"""The overlay against a dictionary of edges."""

import numpy as np

from vector_search.domain.overlay import Overlay


def neighbours(overlay: Overlay, item: int) -> dict[int, float]:
    targets, weights = overlay.row(item)
    return {int(target): round(float(weight), 3) for target, weight in zip(targets, weights, strict=True)}


def link(overlay: Overlay, item: int, others: dict[int, float]) -> None:
    overlay.link(item, np.array(list(others), np.int32), np.array(list(others.values()), np.float32))


def test_a_link_goes_both_ways_once() -> None:
    overlay = Overlay(10)
    link(overlay, 1, {2: 0.5, 3: 0.25, 1: 1.0, 4: 0.0})
    link(overlay, 2, {1: 0.5, 5: 0.125})
    assert neighbours(overlay, 1) == {2: 0.5, 3: 0.25}
    assert neighbours(overlay, 2) == {1: 0.5, 5: 0.125}
    assert neighbours(overlay, 3) == {1: 0.25}
    assert neighbours(overlay, 4) == {}
    assert overlay.edge_count == 6


def test_linking_anew_replaces_the_own_and_keeps_the_others() -> None:
    overlay = Overlay(10)
    link(overlay, 1, {2: 0.5, 3: 0.25})
    link(overlay, 3, {4: 0.5})
    link(overlay, 1, {5: 0.75})
    assert neighbours(overlay, 1) == {5: 0.75}
    assert neighbours(overlay, 2) == {}
    assert neighbours(overlay, 3) == {4: 0.5}
    assert overlay.edge_count == 4
    overlay.regroup()
    assert neighbours(overlay, 1) == {5: 0.75}
    assert neighbours(overlay, 4) == {3: 0.5}


def test_random_links_are_those_of_the_dictionary() -> None:
    rng = np.random.default_rng(5)
    overlay = Overlay(400)
    owned: dict[int, dict[int, float]] = {}
    for _ in range(2_000):
        item = int(rng.integers(400))
        others = {int(other): 0.5 for other in rng.choice(400, 10, replace=False)}
        owned.pop(item, None)
        taken = {other for other, theirs in owned.items() if item in theirs}
        owned[item] = {other: weight for other, weight in others.items() if other != item and other not in taken}
        link(overlay, item, others)
    expected: dict[int, dict[int, float]] = {number: {} for number in range(400)}
    for item, others in owned.items():
        for other, weight in others.items():
            expected[item][other] = weight
            expected[other][item] = weight
    assert {number: neighbours(overlay, number) for number in range(400)} == expected
    assert overlay.edge_count == sum(map(len, expected.values()))


def test_what_does_not_fit_is_refused_and_counted() -> None:
    overlay = Overlay(100, max_edges=40)
    for item in range(10):
        link(overlay, item, {50 + item: 0.5, 60 + item: 0.5, 70 + item: 0.5})
    assert overlay.refused == 4
    assert overlay.edge_count <= 40


def test_growing_leaves_the_old_arrays_as_they_were() -> None:
    overlay = Overlay(10)
    link(overlay, 1, {2: 0.5})
    old = overlay.edges
    overlay.grow(5_000)
    link(overlay, 4_000, {1: 0.5, 2: 0.5})
    assert neighbours(overlay, 1) == {2: 0.5, 4_000: 0.5}
    assert len(old.heads) == 10
    assert old.targets.max() < 10
