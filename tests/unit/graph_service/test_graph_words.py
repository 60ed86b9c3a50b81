"""The graph's words: nodes of items, worth of interactions, times that cannot be."""

import pytest

from graph_service.domain.graph import (
    MAX_AHEAD_MS,
    MAX_NODES_PER_KIND,
    FilterableItem,
    InteractionWeights,
    NodeKind,
    NodeRule,
    check_time,
    node_key,
)
from servicekit.errors import InvalidArgumentError

RULE = NodeRule({NodeKind.PERSON: ("directors", "cast"), NodeKind.GENRE: ("genre",), NodeKind.COUNTRY: ()})


def test_lists_and_single_texts_name_nodes_once_each() -> None:
    nodes = RULE.nodes_of("t", {"directors": ("A", " B "), "cast": ("B", "C", " "), "genre": "Drama", "year": 1994.0})
    assert [(node.kind, node.name) for node in nodes] == [
        (NodeKind.PERSON, "A"),
        (NodeKind.PERSON, "B"),
        (NodeKind.PERSON, "C"),
        (NodeKind.GENRE, "Drama"),
    ]
    assert nodes[0].key == node_key("t", NodeKind.PERSON, "A")


def test_numbers_and_flags_name_nothing() -> None:
    assert RULE.nodes_of("t", {"genre": True, "directors": 3.0}) == ()


def test_a_long_cast_is_cut() -> None:
    nodes = RULE.nodes_of("t", {"cast": tuple(map(str, range(99)))})
    assert len(nodes) == MAX_NODES_PER_KIND


def test_the_same_name_is_another_node_of_another_kind_or_tenant() -> None:
    keys = {node_key("t", NodeKind.PERSON, "X"), node_key("t", NodeKind.GENRE, "X"), node_key("u", NodeKind.GENRE, "X")}
    assert len(keys) == 3


def test_stored_data_depends_on_node_keys() -> None:
    assert node_key("demo", NodeKind.PERSON, "Tim Burton") == 3133725045349973239


def test_interactions_are_worth_what_their_type_says() -> None:
    weights = InteractionWeights({"view": 1.0, "skip": -1.0}, rating_centre=2.5)
    assert weights.weigh("view", None) == 1
    assert weights.weigh("skip", 3.0) == -1
    assert weights.weigh("waved", None) == 1
    assert weights.weigh("rating", 5.0) == 2.5
    assert weights.weigh("rating", 1.0) == -1.5
    with pytest.raises(InvalidArgumentError, match="needs a value"):
        weights.weigh("rating", None)


@pytest.mark.parametrize("time_ms", [0, -5, 1_000 + MAX_AHEAD_MS + 1])
def test_impossible_times_are_refused(time_ms: int) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check_time(time_ms, 1_000, field="occurred_at_ms")
    assert caught.value.field == "occurred_at_ms"


def test_a_clock_may_run_ahead_a_little() -> None:
    check_time(1_000 + MAX_AHEAD_MS, 1_000, field="occurred_at_ms")


def test_filters_see_attributes_and_the_items_own_fields() -> None:
    item = FilterableItem("film", 7, {"year": 1994.0})
    assert [item.get(field) for field in ("item_type", "created_at_ms", "year", "none")] == ["film", 7, 1994.0, None]
