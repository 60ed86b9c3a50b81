"""What users of the graph get: candidates, related items, explanations."""

from typing import Any

import numpy as np
import pytest

from graph_service.adapters.memory import MemoryGraphStore
from graph_service.application.queries import Expansion, ExplanationQuery, RankedItems, RelatedQuery
from graph_service.bootstrap import Graph
from graph_service.domain.composition import Candidates
from graph_service.domain.graph import (
    NEVER_MS,
    DeletedItem,
    FilterableItem,
    Floats,
    Interaction,
    ItemFacts,
    Keys,
    MetaPath,
    NodeKind,
    NodeRule,
    PutItem,
)
from graph_service.settings import GraphServiceSettings
from servicekit.clock import ManualClock
from servicekit.deadline import deadline_after
from servicekit.errors import DeadlineExceededError, UnavailableError
from servicekit.filters import AttributeValue, Operator, Predicate
from servicekit.testing import eventually

NODES = NodeRule({NodeKind.PERSON: ("directors",), NodeKind.GENRE: ("genres",), NodeKind.COUNTRY: ("countries",)})
PERSONS_ONLY = (1.0, 0.0, 0.0)


def put(key: int, at_ms: int = 10, facts: ItemFacts | None = None, **attributes: AttributeValue) -> PutItem:
    facts = facts or ItemFacts("t", 0, NEVER_MS)
    nodes = NODES.nodes_of(facts.tenant, attributes)
    return PutItem(key, facts, FilterableItem("film", 5, attributes), nodes, at_ms)


def keys(*values: int) -> Keys:
    return np.array(values, dtype=np.int64)


def weights(*values: float) -> Floats:
    return np.array(values, dtype=np.float32)


def user(*history: int, **changes: Any) -> Expansion:
    asked: dict[str, Any] = {
        "tenant": "t",
        "history_keys": keys(*history),
        "history_weights": weights(*[1.0] * len(history)),
        "exclude_keys": keys(),
        "limit": 100,
    }
    return Expansion(**(asked | changes))


async def expand(graph: Graph, query: Expansion) -> Candidates:
    (answer,) = await graph.use_cases.expand_users([query])
    assert isinstance(answer, Candidates), answer
    return answer


async def related(graph: Graph, item: int, **changes: Any) -> RankedItems:
    asked: dict[str, Any] = {"tenant": "t", "item_key": item, "limit": 20}
    (answer,) = await graph.use_cases.related_items([RelatedQuery(**(asked | changes))])
    assert isinstance(answer, RankedItems), answer
    return answer


@pytest.fixture
async def films(graph: Graph) -> Graph:
    await graph.use_cases.apply(
        [
            put(1, directors=("Burton",), genres=("Fantasy",), year=1990.0),
            put(2, directors=("Burton",), genres=("Crime",), year=1992.0),
            put(3, directors=("Lynch",), genres=("Crime",), year=1986.0),
            put(4, directors=("Lynch",), genres=("Crime",), year=2001.0),
            put(5, directors=("Lynch",), genres=("Fantasy",), year=1984.0),
        ]
    )
    return graph


# --- candidates ---


async def test_the_last_items_count_most_and_say_what_they_added(films: Graph) -> None:
    found = await expand(films, user(1, 3))
    assert found.keys.tolist() == [2, 5, 4]
    half = 0.5**0.5  # the second position of a half-life of two
    assert found.scores.tolist() == pytest.approx(
        [2**-0.5 + half * 3**-0.5, 2**-0.5 + half * 3**-0.5, 2 * half * 3**-0.5]
    )
    assert found.because.tolist() == [0, 0, 1]


async def test_history_and_exclusions_do_not_come_back(films: Graph) -> None:
    assert (await expand(films, user(1, 3, exclude_keys=keys(2, 99)))).keys.tolist() == [5, 4]
    assert (await expand(films, user(1, 3, 2, 5, 4))).keys.tolist() == []


async def test_items_beyond_the_used_history_do_not_come_back_either(films: Graph) -> None:
    history = [1, *range(100, 120), 2]
    assert 2 not in (await expand(films, user(*history))).keys.tolist()


async def test_a_disliked_item_pushes_its_neighbours_down(films: Graph) -> None:
    liked = await expand(films, user(1, 3))
    disliked = await expand(films, user(1, 3, history_weights=weights(1.0, -1.0)))
    assert 4 not in disliked.keys.tolist()
    assert (disliked.scores[0], disliked.because[0]) < (liked.scores[0], 1)


async def test_because_is_a_place_in_the_history_as_asked(films: Graph) -> None:
    assert (await expand(films, user(77, 1))).because.tolist() == [1, 1]


async def test_weights_of_the_caller_replace_the_services_own(films: Graph) -> None:
    found = await expand(films, user(1, path_weights=PERSONS_ONLY))
    assert found.keys.tolist() == [2]
    assert found.scores.tolist() == pytest.approx([2**-0.5])


async def test_the_limit_keeps_the_best(films: Graph) -> None:
    assert (await expand(films, user(1, 3, limit=1))).keys.tolist() == [2]


async def test_a_filter_is_met_by_all_that_come_back(films: Graph) -> None:
    nineties = (Predicate("year", Operator.GTE, (1990.0,)),)
    for _ in range(2):  # read the first time, remembered the second
        assert (await expand(films, user(1, 3, conditions=nineties))).keys.tolist() == [2, 4]
    only_one = await expand(films, user(1, 3, conditions=nineties, limit=1))
    assert only_one.keys.tolist() == [2]
    assert only_one.because.tolist() == [0]


async def test_a_changed_attribute_counts_at_once(films: Graph) -> None:
    crime = (Predicate("genres", Operator.EQ, ("Crime",)),)
    assert (await expand(films, user(1, 3, conditions=crime))).keys.tolist() == [2, 4]
    await films.use_cases.apply([put(4, at_ms=20, directors=("Lynch",), genres=("Fantasy",))])
    assert (await expand(films, user(1, 3, conditions=crime))).keys.tolist() == [2]


async def test_hidden_deleted_and_unavailable_items_do_not_come_back(films: Graph, clock: ManualClock) -> None:
    assert (await expand(films, user(3))).keys.tolist() == [4, 2, 5]
    await films.use_cases.apply(
        [
            put(4, 20, ItemFacts("t", NEVER_MS, NEVER_MS), directors=("Lynch",), genres=("Crime",)),
            DeletedItem(2, "t", 20),
            put(5, 20, ItemFacts("t", 0, clock.now_ms() + 10), directors=("Lynch",), genres=("Fantasy",)),
        ]
    )
    assert (await expand(films, user(3))).keys.tolist() == [5]
    clock.advance(10)
    assert (await expand(films, user(3))).keys.tolist() == []


async def test_a_hidden_item_in_the_history_still_says_something(films: Graph) -> None:
    await films.use_cases.apply([put(1, 20, ItemFacts("t", NEVER_MS, NEVER_MS), directors=("Burton",))])
    assert (await expand(films, user(1))).keys.tolist() == [2]


async def test_items_nobody_described_are_no_candidates(films: Graph) -> None:
    await films.use_cases.apply([Interaction(7, 1, 1.0, 10), Interaction(7, 99, 1.0, 10)])
    assert (await expand(films, user(1))).keys.tolist() == [2, 5]


async def test_an_item_that_is_described_later_joins_in(films: Graph) -> None:
    await films.use_cases.apply([Interaction(7, 1, 1.0, 10), Interaction(7, 99, 1.0, 10)])
    await expand(films, user(1))
    await films.use_cases.apply([put(99)])
    assert 99 in (await expand(films, user(1))).keys.tolist()


async def test_a_new_item_reaches_the_lists_of_its_neighbours(films: Graph) -> None:
    await expand(films, user(1))
    await films.use_cases.apply([put(6, directors=("Burton",))])

    async def arrived() -> bool:
        return 6 in (await expand(films, user(1))).keys.tolist()

    await eventually(arrived)


async def test_interactions_reach_the_list_of_their_item(films: Graph) -> None:
    await expand(films, user(1, 2))
    await films.use_cases.apply([Interaction(7, 1, 1.0, 10), Interaction(7, 3, 1.0, 10)])

    async def joined() -> bool:
        return bool((await expand(films, user(1))).keys.tolist() == [2, 3, 5])

    await eventually(joined)


async def test_tenants_do_not_see_each_others_items(films: Graph) -> None:
    other = ItemFacts("u", 0, NEVER_MS)
    await films.use_cases.apply([put(11, 10, other, genres=("Crime",)), put(12, 10, other, genres=("Crime",))])
    assert (await expand(films, user(11, tenant="u"))).keys.tolist() == [12]
    assert (await expand(films, user(11))).keys.tolist() == []
    assert (await expand(films, user(3, tenant="u"))).keys.tolist() == []
    mixed = await films.use_cases.expand_users([user(11, tenant="u"), user(3)])
    assert [each.keys.tolist() for each in mixed if isinstance(each, Candidates)] == [[12], [4, 2, 5]]


async def test_no_history_and_unknown_items_give_nothing(films: Graph) -> None:
    for query in (user(), user(1_000), user(1, history_weights=weights(-1.0))):
        found = await expand(films, query)
        assert found.keys.tolist() == found.scores.tolist() == found.because.tolist() == []


async def test_a_hit_costs_no_query(films: Graph, store: MemoryGraphStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first = await expand(films, user(1, 3))

    async def fail(*_: object) -> None:
        raise UnavailableError("the store is gone")

    for method in ("related", "facts", "filterable", "paths"):
        monkeypatch.setattr(store, method, fail)
    again = await expand(films, user(1, 3))
    assert again.keys.tolist() == first.keys.tolist()


async def test_who_has_only_misses_learns_why_and_others_are_not_touched(
    films: Graph, store: MemoryGraphStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await expand(films, user(1))

    async def fail(*_: object) -> None:
        raise UnavailableError("the store is gone")

    monkeypatch.setattr(store, "related", fail)
    partly, not_at_all = await films.use_cases.expand_users([user(1, 3), user(3)])
    assert isinstance(partly, Candidates)
    assert partly.keys.tolist() == [2, 5]
    assert isinstance(not_at_all, UnavailableError)
    (lonely,) = await films.use_cases.related_items([RelatedQuery("t", 3, 20)])
    assert isinstance(lonely, UnavailableError)


async def test_without_time_there_is_no_waiting(films: Graph) -> None:
    with deadline_after(0.001):
        (late,) = await films.use_cases.expand_users([user(1)])
    assert isinstance(late, DeadlineExceededError)


# --- related items ---


async def test_related_items_come_best_first(films: Graph) -> None:
    found = await related(films, 3)
    assert found.keys.tolist() == [4, 2, 5]
    assert found.scores.tolist() == pytest.approx([2 * 3**-0.5, 3**-0.5, 3**-0.5])
    assert (await related(films, 3, limit=1)).keys.tolist() == [4]
    assert (await related(films, 3, path_weights=PERSONS_ONLY)).keys.tolist() == [4, 5]
    assert (await related(films, 3, tenant="u")).keys.tolist() == []
    assert (await related(films, 1_000)).keys.tolist() == []


async def test_an_item_may_be_asked_for_twice(films: Graph) -> None:
    answers = await films.use_cases.related_items([RelatedQuery("t", 3, 1), RelatedQuery("t", 3, 2)])
    assert [len(each.keys) for each in answers if isinstance(each, RankedItems)] == [1, 2]


# --- explanations ---


async def test_explanations_name_people_genres_countries_and_numbers(graph: Graph) -> None:
    await graph.use_cases.apply(
        [
            put(1, directors=("Tim Burton",), genres=("Drama",), countries=("France",)),
            put(2, directors=("Tim Burton",), genres=("Drama",), countries=("France",)),
            put(3, genres=("Drama",)),
            put(4, genres=("Drama",)),
            *(Interaction(taker, item, 1.0, 10) for taker in (7, 8, 9) for item in (1, 2)),
            *(Interaction(taker, 50 + taker, 1.0, 10) for taker in (7, 8, 9)),
        ]
    )
    paths = await graph.use_cases.explain(ExplanationQuery("t", keys(1), keys(3, 2), 10))
    assert [(path.item_key, path.meta_path, path.through) for path in paths] == [
        (3, MetaPath.ITEM_GENRE_ITEM, "Drama"),
        (2, MetaPath.ITEM_PERSON_ITEM, "Tim Burton"),
        (2, MetaPath.ITEM_USER_ITEM, "3"),
        (2, MetaPath.ITEM_GENRE_ITEM, "Drama"),
        (2, MetaPath.ITEM_COUNTRY_ITEM, "France"),
    ]
    assert [path.share for path in paths[1:]] == sorted((path.share for path in paths[1:]), reverse=True)
    few = await graph.use_cases.explain(ExplanationQuery("t", keys(1), keys(3, 2), 1))
    assert [path.item_key for path in few] == [3, 2]


async def test_other_tenants_items_are_not_explained(films: Graph) -> None:
    assert await films.use_cases.explain(ExplanationQuery("u", keys(1), keys(2), 10)) == []
    assert await films.use_cases.explain(ExplanationQuery("t", keys(99), keys(2, 98), 10)) == []


async def test_only_the_first_of_the_history_explain(films: Graph, settings: GraphServiceSettings) -> None:
    history = [*range(100, 100 + settings.history_items), 1]
    assert await films.use_cases.explain(ExplanationQuery("t", keys(*history), keys(2), 10)) == []
