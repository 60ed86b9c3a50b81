"""The promises of the GraphStore port, kept by every adapter."""

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from graph_service.adapters.memory import MemoryGraphStore
from graph_service.adapters.sqlite import SqliteGraphStore
from graph_service.domain.graph import (
    NEVER_MS,
    DeletedItem,
    ErasedUser,
    FilterableItem,
    Interaction,
    ItemFacts,
    Keys,
    MetaPath,
    Mutation,
    NodeKind,
    NodeRule,
    PutItem,
    node_key,
)
from graph_service.domain.ports import GraphCounts, GraphPath, GraphStore, RelatedItems, RelatednessRule
from servicekit.errors import NotFoundError

RULE = RelatednessRule(genre_damping=0.5, user_damping=0.5)
NODES = NodeRule({NodeKind.PERSON: ("directors",), NodeKind.GENRE: ("genres",), NodeKind.COUNTRY: ("countries",)})
PERSON, GENRE, USER = range(3)


def put(key: int, at_ms: int = 10, tenant: str = "t", **attributes: str | float | bool | tuple[str, ...]) -> PutItem:
    return PutItem(
        key,
        ItemFacts(tenant, 0, NEVER_MS),
        FilterableItem("film", 5, attributes),
        NODES.nodes_of(tenant, attributes),
        at_ms,
    )


def took(user: int, item: int, at_ms: int = 10, weight: float = 1.0) -> Interaction:
    return Interaction(user, item, weight, at_ms)


def keys(*values: int) -> Keys:
    return np.array(values, dtype=np.int64)


async def related_to(store: GraphStore, item: int, rule: RelatednessRule = RULE) -> dict[int, list[float]]:
    (found,) = await store.related(keys(item), rule)
    return dict(zip(found.keys.tolist(), found.scores.tolist(), strict=True))


def by_share(paths: Sequence[GraphPath]) -> list[GraphPath]:
    return sorted(paths, key=lambda path: -path.share)


class GraphStoreContract:
    port = "GraphStore"

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[GraphStore]:
        raise NotImplementedError

    # --- relatedness ---

    async def test_an_unknown_item_is_related_to_nothing(self, store: GraphStore) -> None:
        (found,) = await store.related(keys(1), RULE)
        assert found.keys.shape == (0,)
        assert found.scores.shape == (0, 3)
        assert found.nodes == ()
        assert found.users == 0

    async def test_no_items_have_no_lists(self, store: GraphStore) -> None:
        assert len(await store.related(keys(), RULE)) == 0
        assert await store.facts(keys()) == {}
        assert await store.filterable(keys()) == {}
        assert list(await store.paths(keys(), keys(), RULE)) == []

    async def test_each_meta_path_has_its_column_and_follows_the_formula(self, store: GraphStore) -> None:
        await store.apply(
            [
                put(1, directors=("Burton", "Lynch"), genres=("Drama",)),
                put(2, directors=("Burton",)),
                put(3, genres=("Drama", "Noir")),
                put(4, genres=("Drama",)),
                took(100, 1),
                took(100, 5),
                took(100, 6),
                took(101, 1),
            ]
        )
        scores = await related_to(store, 1)
        assert sorted(scores) == [2, 3, 4, 5, 6]
        assert scores[2] == pytest.approx([2**-0.5 / (2 * 1) ** 0.5, 0, 0])
        assert scores[3] == pytest.approx([0, 3**-0.5 / (1 * 2) ** 0.5, 0])
        assert scores[4] == pytest.approx([0, 3**-0.5, 0])
        assert scores[5] == scores[6] == pytest.approx([0, 0, 3**-0.5 / (2 * 1) ** 0.5])

    async def test_lists_come_in_the_order_asked_with_ascending_keys(self, store: GraphStore) -> None:
        await store.apply([put(key, genres=("Drama",)) for key in (9, 5, 7)])
        found = await store.related(keys(9, 1, 5, 9), RULE)
        assert [each.keys.tolist() for each in found] == [[5, 7], [], [7, 9], [5, 7]]

    async def test_it_knows_the_nodes_and_users_of_an_item(self, store: GraphStore) -> None:
        await store.apply(
            [put(1, directors=("B",), genres=("D",), countries=("F",)), took(7, 1), took(8, 1, weight=-1)]
        )
        (found,) = await store.related(keys(1), RULE)
        assert set(found.nodes) == {node_key("t", NodeKind.PERSON, "B"), node_key("t", NodeKind.GENRE, "D")}
        assert found.users == 1

    async def test_damping_is_an_exponent_of_the_degree(self, store: GraphStore) -> None:
        await store.apply([put(key, genres=("Drama",)) for key in range(1, 5)])
        assert (await related_to(store, 1, replace(RULE, genre_damping=1.0)))[2][GENRE] == pytest.approx(1 / 4)
        assert (await related_to(store, 1, replace(RULE, genre_damping=0.0)))[2][GENRE] == pytest.approx(1)

    async def test_nodes_above_the_cap_relate_nothing_but_count_in_the_norm(self, store: GraphStore) -> None:
        await store.apply(
            [
                *(put(key, genres=("Drama",)) for key in range(1, 4)),
                *(put(key, genres=("Drama", "Noir")) for key in (4, 5)),
            ]
        )
        scores = await related_to(store, 4, replace(RULE, genre_max_degree=4))
        assert scores == {5: pytest.approx([0, 2**-0.5 / 2, 0])}

    async def test_of_a_busy_user_only_the_newest_items_count(self, store: GraphStore) -> None:
        await store.apply([took(7, item, at_ms=item) for item in range(1, 6)])
        rule = replace(RULE, items_per_user=3)
        assert sorted(await related_to(store, 5, rule)) == [3, 4]
        old = await related_to(store, 1, rule)
        assert sorted(old) == [3, 4, 5]
        assert old[3][USER] == pytest.approx(5**-0.5)

    async def test_of_a_popular_item_the_newest_users_stand_for_all(self, store: GraphStore) -> None:
        await store.apply([took(user, 1, at_ms=user) for user in range(1, 5)])
        await store.apply([took(user, 10 + user) for user in range(1, 5)])
        scores = await related_to(store, 1, replace(RULE, users_per_item=2))
        assert sorted(scores) == [13, 14]
        assert scores[13][USER] == pytest.approx(2**-0.5 / 4**0.5 * 4 / 2)

    async def test_the_best_of_each_path_are_kept_with_all_their_scores(self, store: GraphStore) -> None:
        await store.apply(
            [
                put(1, directors=("A", "B"), genres=("G",)),
                put(2, directors=("A", "B"), genres=("G", "H")),
                put(3, directors=("A",), genres=("G",)),
                put(4, genres=("G",)),
                put(5, genres=("G",)),
            ]
        )
        scores = await related_to(store, 1, replace(RULE, kept_per_path=1))
        # 2 is the best by people; 3, 4 and 5 tie by genre, and the smallest key wins.
        assert sorted(scores) == [2, 3]
        assert min(scores[2][:2] + scores[3][:2]) > 0

    async def test_negative_and_zero_weights_make_no_edge(self, store: GraphStore) -> None:
        await store.apply([took(7, 1), took(7, 2, weight=-1.5), took(7, 3, weight=0), took(7, 4)])
        assert sorted(await related_to(store, 1)) == [4]

    async def test_tenants_share_no_nodes(self, store: GraphStore) -> None:
        await store.apply([put(1, genres=("Drama",)), put(2, tenant="other", genres=("Drama",))])
        assert await related_to(store, 1) == {}

    # --- changes ---

    async def test_a_newer_state_replaces_an_item_and_an_older_does_not(self, store: GraphStore) -> None:
        await store.apply([put(2, genres=("Noir",)), put(3, genres=("Drama",)), put(1, at_ms=20, genres=("Drama",))])
        applied = await store.apply([put(1, at_ms=19, genres=("Noir",))])
        assert applied.facts == {}
        assert sorted(await related_to(store, 1)) == [3]
        applied = await store.apply([put(1, at_ms=21, genres=("Noir",))])
        assert applied.facts == {1: ItemFacts("t", 0, NEVER_MS)}
        assert applied.nodes == {node_key("t", NodeKind.GENRE, "Noir"), node_key("t", NodeKind.GENRE, "Drama")}
        assert sorted(await related_to(store, 1)) == [2]
        assert await related_to(store, 3) == {}

    async def test_of_equal_times_the_last_applied_stays(self, store: GraphStore) -> None:
        await store.apply([put(2, genres=("Noir",)), put(1, genres=("Drama",)), put(1, genres=("Noir",))])
        assert sorted(await related_to(store, 1)) == [2]
        await store.apply([took(7, 1), took(7, 8), took(7, 8, weight=-1)])
        assert sorted(await related_to(store, 1)) == [2]

    async def test_a_deleted_item_has_no_nodes_and_older_states_do_not_bring_it_back(self, store: GraphStore) -> None:
        await store.apply([put(1, genres=("Drama",)), put(2, genres=("Drama",))])
        applied = await store.apply([DeletedItem(1, "t", 20)])
        assert applied.facts == {1: ItemFacts("t", NEVER_MS, NEVER_MS)}
        await store.apply([put(1, at_ms=15, genres=("Drama",))])
        assert await related_to(store, 2) == {}
        assert (await store.facts(keys(1)))[1].visible_from_ms == NEVER_MS
        assert await store.filterable(keys(1)) == {}
        await store.apply([put(1, at_ms=25, genres=("Drama",))])
        assert sorted(await related_to(store, 2)) == [1]

    async def test_a_deletion_may_come_before_what_it_deletes(self, store: GraphStore) -> None:
        await store.apply([DeletedItem(1, "t", 20), put(1, at_ms=10, genres=("Drama",)), put(2, genres=("Drama",))])
        assert await related_to(store, 2) == {}

    async def test_a_deleted_item_keeps_its_users_for_the_day_it_returns(self, store: GraphStore) -> None:
        await store.apply([took(7, 1), took(7, 2), DeletedItem(1, "t", 20)])
        await store.apply([put(1, at_ms=30)])
        assert sorted(await related_to(store, 1)) == [2]

    async def test_the_latest_interaction_of_a_pair_decides(self, store: GraphStore) -> None:
        await store.apply([took(7, 1), took(7, 2, at_ms=20, weight=-1.0)])
        applied = await store.apply([took(7, 2, at_ms=15)])
        assert applied.new_edges == {}
        assert await related_to(store, 1) == {}
        applied = await store.apply([took(7, 2, at_ms=25)])
        assert applied.new_edges == {2: 1}
        assert sorted(await related_to(store, 1)) == [2]

    async def test_doing_it_twice_changes_nothing(self, store: GraphStore) -> None:
        batch: list[Mutation] = [
            put(1, genres=("Drama",)),
            put(2, genres=("Drama",), directors=("B",)),
            took(7, 1),
            took(8, 1),
            took(8, 2),
            ErasedUser(9, 15),
        ]
        await store.apply(batch)
        before = await related_to(store, 1)
        applied = await store.apply(batch)
        assert (applied.facts, applied.nodes, applied.new_edges) == ({}, frozenset(), {})
        assert await related_to(store, 1) == before

    async def test_an_erased_user_leaves_no_edge_and_older_interactions_stay_out(self, store: GraphStore) -> None:
        await store.apply([took(7, 1), took(7, 2), took(7, 3, weight=-1), took(7, 4, at_ms=30), took(7, 5, at_ms=30)])
        applied = await store.apply([ErasedUser(7, 20)])
        assert applied.new_edges == {1: 1, 2: 1, 3: 1}
        await store.apply([ErasedUser(7, 5), took(7, 1, at_ms=20), took(7, 2, at_ms=19)])
        assert await related_to(store, 1) == {}
        assert sorted(await related_to(store, 4)) == [5]
        assert (await related_to(store, 4))[5][USER] == pytest.approx(2**-0.5)
        await store.apply([took(7, 1, at_ms=21)])
        assert sorted(await related_to(store, 1)) == [4, 5]

    async def test_an_erasure_may_come_before_what_it_erases(self, store: GraphStore) -> None:
        await store.apply([ErasedUser(7, 20)])
        await store.apply([took(7, 1, at_ms=20), took(7, 2, at_ms=20), took(7, 3, at_ms=21)])
        assert await related_to(store, 1) == {}
        assert (await store.busiest_items(5)).tolist() == [3]

    async def test_nothing_at_all_is_applied(self, store: GraphStore) -> None:
        applied = await store.apply([])
        assert (applied.facts, applied.nodes, applied.new_edges) == ({}, frozenset(), {})

    # --- items ---

    async def test_it_gives_facts_and_attributes_of_described_items_only(self, store: GraphStore) -> None:
        item = PutItem(
            1,
            ItemFacts("t", 100, 200),
            FilterableItem("film", 5, {"year": 1994.0, "genres": ("Drama", "Noir"), "open": True, "de": "für"}),
            (),
            10,
        )
        await store.apply([item, took(7, 2)])
        assert await store.facts(keys(1, 2, 3)) == {1: ItemFacts("t", 100, 200)}
        found = await store.filterable(keys(1, 2, 3))
        assert found == {1: item.filterable}
        assert found[1].get("item_type") == "film"
        assert found[1].get("created_at_ms") == 5
        assert found[1].get("open") is True
        assert found[1].get("closed") is None

    async def test_it_ranks_items_by_users(self, store: GraphStore) -> None:
        await store.apply([took(7, 3), took(8, 3), took(7, 1), took(7, 2), took(8, 9, weight=-1), put(4)])
        assert (await store.busiest_items(2)).tolist() == [3, 1]
        assert (await store.busiest_items(9)).tolist() == [3, 1, 2]

    async def test_keys_fill_63_bits(self, store: GraphStore) -> None:
        largest = (1 << 63) - 1
        await store.apply([put(largest), took(largest, largest), took(largest, largest - 1)])
        assert sorted(await related_to(store, largest)) == [largest - 1]
        assert list(await store.facts(keys(largest))) == [largest]

    # --- paths ---

    async def test_paths_lead_over_people_genres_countries_and_numbers_of_users(self, store: GraphStore) -> None:
        await store.apply(
            [
                put(1, directors=("Burton", "Lynch"), genres=("Drama",), countries=("France",)),
                put(2, directors=("Burton",), genres=("Drama",), countries=("France", "Italy")),
                *(took(user, item) for user in (7, 8) for item in (1, 2)),
                took(9, 1),
            ]
        )
        found = by_share(await store.paths(keys(1), keys(2), RULE))
        assert [(path.meta_path, path.through) for path in found] == [
            (MetaPath.ITEM_GENRE_ITEM, "Drama"),
            (MetaPath.ITEM_USER_ITEM, "2"),
            (MetaPath.ITEM_PERSON_ITEM, "Burton"),
            (MetaPath.ITEM_COUNTRY_ITEM, "France"),
        ]
        assert {(path.history_key, path.item_key) for path in found} == {(1, 2)}
        scores = (await related_to(store, 1))[2]
        assert found[0].share == pytest.approx(scores[GENRE])
        assert found[1].share == pytest.approx(scores[USER])
        assert found[2].share == pytest.approx(scores[PERSON])

    async def test_paths_of_several_items_and_none_to_itself(self, store: GraphStore) -> None:
        await store.apply([put(key, genres=("Drama",)) for key in (1, 2, 3)])
        found = await store.paths(keys(1, 2, 8), keys(2, 3, 9), RULE)
        assert sorted((path.history_key, path.item_key) for path in found) == [(1, 2), (1, 3), (2, 3)]

    async def test_the_number_of_many_common_users_is_about_right(self, store: GraphStore) -> None:
        rng = random.Random(1)
        users = [rng.getrandbits(63) for _ in range(2_000)]
        await store.apply([took(user, 1) for user in users[:1_500]] + [took(user, 2) for user in users[500:]])
        (path,) = await store.paths(keys(1), keys(2), replace(RULE, explained_users=500))
        assert int(path.through) == pytest.approx(1_000, rel=0.15)
        assert path.share == pytest.approx(1_000 * 2**-0.5 / 1_500, rel=0.15)

    # --- built again ---

    async def test_it_counts_what_it_holds(self, store: GraphStore) -> None:
        assert await store.counts() == GraphCounts(0, 0, 0, 0)
        await store.apply(
            [put(1, genres=("Drama", "Noir")), put(2, genres=("Drama",)), put(3), DeletedItem(3, "t", 20)]
        )
        await store.apply([took(7, 1), took(7, 2), took(8, 9), took(9, 1, weight=-1.0)])
        assert await store.counts() == GraphCounts(items=2, users=2, relations=3, links=3)

    async def test_a_rebuilt_graph_serves_from_one_moment_on(self, store: GraphStore) -> None:
        await store.apply([put(1, genres=("Drama",)), put(2, genres=("Drama",)), put(3, genres=("Drama",)), took(7, 1)])
        before = await store.serving()
        rebuild = await store.begin_rebuild()
        assert await rebuild.counts() == GraphCounts(0, 0, 0, 0)
        await rebuild.fill([put(1, genres=("Drama",)), put(2, genres=("Drama",)), took(7, 2)])
        assert await rebuild.counts() == GraphCounts(items=2, users=1, relations=1, links=2)
        assert (await rebuild.related(keys(1), RULE))[0].keys.tolist() == [2]
        assert sorted(await related_to(store, 1)) == [2, 3]
        await rebuild.finish()
        await rebuild.abandon()
        assert await store.serving() != before
        assert sorted(await related_to(store, 1)) == [2]
        assert await store.counts() == GraphCounts(items=2, users=1, relations=1, links=2)
        assert list(await store.facts(keys(1, 2, 3))) == [1, 2]
        assert (await store.busiest_items(9)).tolist() == [2]
        assert [path.through for path in await store.paths(keys(1), keys(2), RULE)] == ["Drama"]

    async def test_what_is_written_during_a_rebuild_goes_to_both(self, store: GraphStore) -> None:
        await store.apply([put(1, genres=("Drama",)), put(2, genres=("Drama",))])
        rebuild = await store.begin_rebuild()
        applied = await store.apply(
            [put(1, at_ms=20, genres=("Noir",)), took(7, 1), took(7, 2), DeletedItem(5, "t", 20)]
        )
        assert set(applied.facts) == {1, 5}
        assert sorted(await related_to(store, 1)) == [2]
        await rebuild.fill([put(1, genres=("Drama",)), put(2, genres=("Drama",)), put(5, genres=("Noir",))])
        await rebuild.finish()
        assert await related_to(store, 1) == {2: pytest.approx([0, 0, 2**-0.5])}
        assert (await store.facts(keys(5)))[5].visible_from_ms == NEVER_MS

    async def test_an_abandoned_rebuild_leaves_nothing(self, store: GraphStore) -> None:
        await store.apply([put(1)])
        rebuild = await store.begin_rebuild()
        await rebuild.fill([put(key) for key in range(2, 9)])
        await rebuild.abandon()
        await store.apply([put(2)])
        with pytest.raises(NotFoundError):
            await rebuild.fill([put(3)])
        with pytest.raises(NotFoundError):
            await rebuild.finish()
        assert await store.counts() == GraphCounts(items=2, users=0, relations=0, links=0)
        again = await store.begin_rebuild()
        assert await again.counts() == GraphCounts(0, 0, 0, 0)
        await again.abandon()

    async def test_a_later_rebuild_takes_the_place_of_an_unfinished_one(self, store: GraphStore) -> None:
        first = await store.begin_rebuild()
        await first.fill([put(1), took(7, 1)])
        second = await store.begin_rebuild()
        assert await second.counts() == GraphCounts(0, 0, 0, 0)
        with pytest.raises(NotFoundError):
            await first.fill([put(2)])
        await first.abandon()
        await second.fill([put(3)])
        await second.finish()
        assert list(await store.facts(keys(1, 2, 3))) == [3]

    async def test_it_is_rebuilt_again_and_again(self, store: GraphStore) -> None:
        for turn in range(3):
            rebuild = await store.begin_rebuild()
            await rebuild.fill([put(10 + turn), took(7, 10 + turn), took(7, 20)])
            await rebuild.finish()
            await store.apply([took(8, 20)])
            assert sorted(await related_to(store, 20)) == [10 + turn]
            assert await store.counts() == GraphCounts(items=1, users=2, relations=3, links=0)

    # --- the whole ---

    async def test_it_agrees_with_the_reference_on_a_random_graph(self, store: GraphStore) -> None:
        reference = MemoryGraphStore()
        rng = random.Random(5)
        for _ in range(6):
            batch = [random_mutation(rng) for _ in range(150)]
            await store.apply(batch)
            await reference.apply(batch)
        rule = replace(
            RULE, genre_max_degree=20, person_max_degree=9, users_per_item=8, items_per_user=6, kept_per_path=400
        )
        everything = keys(*range(1, 62))
        for mine, theirs in zip(
            await store.related(everything, rule), await reference.related(everything, rule), strict=True
        ):
            assert_same(mine, theirs)
        assert await store.facts(everything) == await reference.facts(everything)
        assert (await store.busiest_items(99)).tolist() == (await reference.busiest_items(99)).tolist()
        mine_paths = by_pair(await store.paths(everything[:9], everything[5:20], rule))
        assert mine_paths == by_pair(await reference.paths(everything[:9], everything[5:20], rule))

    async def test_any_order_of_changes_gives_the_same_graph(self, store: GraphStore) -> None:
        rng = random.Random(8)
        changes = [random_mutation(rng, at_ms=at_ms) for at_ms in range(1, 400)]
        reference = MemoryGraphStore()
        await reference.apply(changes)
        rng.shuffle(changes)
        for start in range(0, len(changes), 57):
            await store.apply(changes[start : start + 57])
        everything = keys(*range(1, 62))
        for mine, theirs in zip(
            await store.related(everything, RULE), await reference.related(everything, RULE), strict=True
        ):
            assert_same(mine, theirs)


def random_mutation(rng: random.Random, at_ms: int = 0) -> Mutation:
    at_ms = at_ms or rng.randrange(1, 1_000)
    kind = rng.random()
    item = rng.randrange(1, 61)
    if kind < 0.2:
        return put(
            item,
            at_ms,
            genres=tuple(rng.sample("ABCDEF", rng.randrange(4))),
            directors=tuple(rng.sample("abcdefghijklmnop", rng.randrange(3))),
            countries=tuple(rng.sample("XY", 1)),
        )
    if kind < 0.23:
        return DeletedItem(item, "t", at_ms)
    if kind < 0.25:
        return ErasedUser(rng.randrange(100, 130), at_ms)
    return took(rng.randrange(100, 130), item, at_ms, rng.choice((1.0, 2.0, 5.0, -1.5, 0.0)))


def assert_same(mine: RelatedItems, theirs: RelatedItems) -> None:
    assert mine.keys.tolist() == theirs.keys.tolist()
    assert mine.keys.dtype == np.int64
    assert mine.scores.dtype == np.float32
    np.testing.assert_allclose(mine.scores, theirs.scores, rtol=1e-5)
    assert set(mine.nodes) == set(theirs.nodes)
    assert mine.users == theirs.users


def by_pair(paths: Sequence[GraphPath]) -> list[tuple[int, int, MetaPath, str, float]]:
    return sorted((p.history_key, p.item_key, p.meta_path, p.through, round(p.share, 9)) for p in paths)


class TestMemoryGraphStore(GraphStoreContract):
    adapter = "memory"

    @pytest.fixture
    async def store(self) -> AsyncIterator[GraphStore]:
        store = MemoryGraphStore()
        yield store
        await store.close()


class TestSqliteGraphStore(GraphStoreContract):
    adapter = "sqlite"

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[GraphStore]:
        store = SqliteGraphStore(tmp_path / "graph.sqlite")
        yield store
        await store.close()
