import numpy as np

from hot_path_api.domain.diversity import diversify, similarities
from hot_path_api.domain.items import Item, ItemRef, tags


def item(number: int, *genres: str, **attributes: str) -> Item:
    return Item(
        key=number, tenant="t", ref=ItemRef("film", str(number)), attributes={"genres": tuple(genres), **attributes}
    )


ITEMS = [item(0, "a", "b"), item(1, "a", "b"), item(2, "c"), item(3)]
SCORES = np.array([4.0, 3.0, 2.0, 1.0], np.float32)


def test_similarity_is_the_jaccard_index_of_tags() -> None:
    likeness = similarities([item(0, "a", "b"), item(1, "b", "c"), item(2), item(3)])
    np.testing.assert_allclose(likeness[0], [1.0, 1 / 3, 0.0, 0.0])
    np.testing.assert_allclose(likeness[2], [0.0, 0.0, 0.0, 0.0])
    np.testing.assert_allclose(likeness, likeness.T)


def test_without_diversity_the_order_stays() -> None:
    assert diversify(ITEMS, SCORES, diversity=0.0, caps={}, want=3) == [0, 1, 2]


def test_diversity_prefers_what_is_different() -> None:
    assert diversify(ITEMS, SCORES, diversity=0.7, caps={}, want=4) == [0, 2, 3, 1]
    assert diversify(ITEMS, SCORES, diversity=1.0, caps={}, want=2)[0] == 0


def test_caps_count_shared_values() -> None:
    assert diversify(ITEMS, SCORES, diversity=0.0, caps={"genres": 1}, want=4) == [0, 2, 3]
    assert diversify(ITEMS, SCORES, diversity=0.0, caps={"genres": 2}, want=4) == [0, 1, 2, 3]


def test_equal_scores_and_nothing_to_choose_from() -> None:
    assert diversify(ITEMS[:2], np.ones(2, np.float32), diversity=0.5, caps={}, want=5) == [0, 1]
    assert diversify([], np.empty(0, np.float32), diversity=0.5, caps={}, want=5) == []


def test_long_texts_and_numbers_are_no_tags() -> None:
    described = Item(
        key=1,
        tenant="t",
        ref=ItemRef("film", "1"),
        attributes={"genres": ("a",), "studio": "UA", "synopsis": "x" * 65, "year": 1957.0, "colour": True},
    )
    assert tags(described) == {"genres=a", "studio=UA"}
