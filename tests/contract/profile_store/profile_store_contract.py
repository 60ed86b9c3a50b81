"""What every store of profiles keeps its word on, written once; an adapter joins with a subclass of four lines."""

import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from itertools import count
from random import Random
from typing import Protocol

import numpy as np
import pytest

from profile_store.domain.contexts import ContextQuery, UserContext
from profile_store.domain.interactions import BUILT_IN_TYPES, Interaction, InteractionType, Position
from profile_store.domain.items import Item, ItemRef
from profile_store.domain.popularity import PopularityQuery, Window
from profile_store.domain.ports import (
    InteractionStore,
    InteractionTypeStore,
    ItemStore,
    PopularityStore,
    PutOutcome,
)
from servicekit.filters import Filter, Operator, Predicate
from servicekit.identity import item_key, user_key

NOW = 1_700_000_000_000
HOUR = 3_600_000
DAY = 24 * HOUR

_event_numbers = count()


class Store(ItemStore, InteractionStore, InteractionTypeStore, PopularityStore, Protocol):
    """All ports at once."""


class _Tenants:
    """Gives names that only the current test has, since a server keeps what earlier tests stored."""

    prefix = ""

    def renew(self) -> None:
        self.prefix = uuid.uuid4().hex[:12]

    def __call__(self, name: str = "acme") -> str:
        return f"{self.prefix} {name}"


tenant_of = _Tenants()


def an_item(item_id: str, **fields: object) -> Item:
    """Give an item as of a day ago."""
    item = Item(tenant_of(), "film", item_id, f"The {item_id}", "", {}, NOW - DAY, None, None, False, NOW - DAY)
    return replace(item, **fields)  # type: ignore[arg-type]  # the test names existing fields


def a_deed(item_id: str, kind: str = "view", **fields: object) -> Interaction:
    """Give an interaction of ann as of now, with an event id of its own."""
    deed = Interaction(f"e{next(_event_numbers)}", tenant_of(), "ann", "film", item_id, kind, None, NOW)
    return replace(deed, **fields)  # type: ignore[arg-type]  # the test names existing fields


def key(item_id: str, tenant: str | None = None, item_type: str = "film") -> int:
    return item_key(tenant or tenant_of(), item_type, item_id)


async def context_of(store: Store, user_id: str = "ann", *, limit: int = 1_000) -> UserContext:
    (context,) = await store.user_contexts([ContextQuery(tenant_of(), user_id, limit)])
    return context


async def popular(
    store: Store,
    window: Window = Window.WEEK,
    *,
    now_ms: int = NOW,
    tenant: str | None = None,
    item_type: str | None = None,
    limit: int = 100,
    only: Filter = (),
) -> dict[int, float]:
    """Give keys and scores, best first."""
    found = await store.most_popular(
        PopularityQuery(tenant or tenant_of(), item_type, window, limit, only), now_ms=now_ms
    )
    assert found.keys.dtype == np.int64
    assert found.scores.dtype == np.float32
    return dict(zip(found.keys.tolist(), found.scores.tolist(), strict=True))


class ProfileStoreContract(ABC):
    @pytest.fixture(autouse=True)
    def _own_tenants(self) -> None:
        tenant_of.renew()

    @pytest.fixture
    @abstractmethod
    def store(self) -> Store | AsyncIterator[Store]:
        """Give an empty store."""


class ItemStoreContract(ProfileStoreContract):
    port = "ItemStore"

    async def test_an_item_comes_back_as_it_was_put(self, store: Store) -> None:
        item = an_item(
            "dune",
            title="Dune ☼",
            description="sand",
            attributes={"genres": ("scifi", "drama"), "year": 1984.0, "seen": True, "director": "Lynch", "tags": ()},
            available_from_ms=1,
            available_until_ms=NOW + DAY,
            hidden=True,
        )
        assert await store.put_items([item]) == [PutOutcome(applied=True, created=True)]
        (found,) = await store.get_items([key("dune")])
        assert found == item
        assert type(found.attributes["seen"]) is bool
        assert type(found.attributes["year"]) is float

    async def test_items_come_in_the_order_asked_without_the_missing_ones(self, store: Store) -> None:
        await store.put_items([an_item(name) for name in "abc"])
        found = await store.get_items([key("c"), key("nowhere"), key("a"), key("c")])
        assert [item.item_id for item in found] == ["c", "a", "c"]
        assert await store.get_items([]) == []

    async def test_more_items_than_are_read_at_once_come_in_order(self, store: Store) -> None:
        await store.put_items([an_item(f"{n:04}") for n in range(1_000)])
        found = await store.get_items([key(f"{n:04}") for n in reversed(range(1_000))])
        assert [int(item.item_id) for item in found] == list(reversed(range(1_000)))

    async def test_many_items_with_long_texts_are_put_at_once(self, store: Store) -> None:
        items = [an_item(f"{n:02}", description=f"{n} " + "☼" * 20_000) for n in range(40)]
        assert await store.put_items(items) == [PutOutcome(applied=True, created=True)] * 40
        assert await store.get_items([key(f"{n:02}") for n in range(40)]) == items

    async def test_the_last_writer_by_time_wins(self, store: Store) -> None:
        await store.put_items([an_item("a", title="new", updated_at_ms=NOW)])
        assert await store.put_items([an_item("a", title="old", updated_at_ms=NOW - 1)]) == [
            PutOutcome(applied=False, created=False)
        ]
        assert [item.title for item in await store.get_items([key("a")])] == ["new"]

    async def test_of_two_states_with_the_same_time_the_later_arrival_stays(self, store: Store) -> None:
        first, second = an_item("a", title="first"), an_item("a", title="second")
        await store.put_items([first, second])
        assert await store.get_items([key("a")]) == [second]
        assert await store.put_items([first]) == [PutOutcome(applied=True, created=False)]
        assert await store.get_items([key("a")]) == [first]

    async def test_putting_the_same_state_again_changes_nothing(self, store: Store) -> None:
        await store.put_items([an_item("a")])
        assert await store.put_items([an_item("a")]) == [PutOutcome(applied=True, created=False)]
        assert await store.get_items([key("a")]) == [an_item("a")]

    async def test_a_deleted_item_is_gone_and_an_older_state_does_not_bring_it_back(self, store: Store) -> None:
        await store.put_items([an_item("a", updated_at_ms=NOW - 10), an_item("b")])
        assert await store.delete_items([an_item("a").ref], occurred_at_ms=NOW) == [True]
        assert await store.get_items([key("a"), key("b")]) == [an_item("b")]
        assert await store.put_items([an_item("a", updated_at_ms=NOW - 5)]) == [
            PutOutcome(applied=False, created=False)
        ]
        assert await store.get_items([key("a")]) == []
        assert await store.put_items([an_item("a", updated_at_ms=NOW)]) == [PutOutcome(applied=True, created=True)]

    async def test_a_deletion_older_than_the_state_is_ignored(self, store: Store) -> None:
        await store.put_items([an_item("a", updated_at_ms=NOW)])
        assert await store.delete_items([an_item("a").ref], occurred_at_ms=NOW - 1) == [False]
        assert len(await store.get_items([key("a")])) == 1

    async def test_a_deletion_may_come_before_the_item(self, store: Store) -> None:
        refs = [ItemRef(tenant_of(), "film", "a"), ItemRef(tenant_of(), "film", "a")]
        assert await store.delete_items(refs, occurred_at_ms=NOW) == [False, False]
        await store.put_items([an_item("a", updated_at_ms=NOW - 1)])
        assert await store.get_items([key("a")]) == []

    async def test_the_catalogue_is_listed_by_type_and_id(self, store: Store) -> None:
        await store.put_items([an_item(name) for name in ("b", "a", "é", "Z")])
        await store.put_items([an_item("a", item_type="article"), an_item("x", tenant=tenant_of("other"))])
        await store.delete_items([an_item("b").ref], occurred_at_ms=NOW)
        listed = await store.list_items(tenant_of(), None, after=None, limit=10)
        assert [(item.item_type, item.item_id) for item in listed] == [
            ("article", "a"),
            ("film", "Z"),
            ("film", "a"),
            ("film", "é"),
        ]
        after_first = await store.list_items(tenant_of(), None, after=("article", "a"), limit=2)
        assert [item.item_id for item in after_first] == ["Z", "a"]
        films = await store.list_items(tenant_of(), "film", after=("film", "Z"), limit=1)
        assert [item.item_id for item in films] == ["a"]
        assert await store.list_items(tenant_of("nobody"), None, after=None, limit=10) == []

    async def test_an_item_that_was_only_interacted_with_does_not_exist(self, store: Store) -> None:
        await store.append([a_deed("a")])
        assert await store.get_items([key("a")]) == []
        assert await store.list_items(tenant_of(), None, after=None, limit=10) == []
        assert await store.put_items([an_item("a")]) == [PutOutcome(applied=True, created=True)]


class InteractionStoreContract(ProfileStoreContract):
    port = "InteractionStore"

    async def test_the_history_is_newest_first_by_time(self, store: Store) -> None:
        await store.append([a_deed("late"), a_deed("early", occurred_at_ms=NOW - DAY)])
        await store.append([a_deed("middle", occurred_at_ms=NOW - HOUR)])
        context = await context_of(store)
        assert context.history_keys.tolist() == [key("late"), key("middle"), key("early")]
        assert context.history_times_ms.tolist() == [NOW, NOW - HOUR, NOW - DAY]
        assert context.history_weights.tolist() == [1.0, 1.0, 1.0]
        assert context.seen_keys.tolist() == []
        assert context.interaction_count == 3
        assert context.history_keys.dtype == np.int64
        assert context.history_weights.dtype == np.float32
        assert context.history_times_ms.dtype == np.int64
        assert context.seen_keys.dtype == np.int64

    async def test_of_the_same_time_the_last_arrival_comes_first(self, store: Store) -> None:
        await store.append([a_deed("1"), a_deed("2")])
        await store.append([a_deed("3")])
        context = await context_of(store)
        assert context.history_keys.tolist() == [key("3"), key("2"), key("1")]

    async def test_an_item_counts_once_at_its_last_interaction(self, store: Store) -> None:
        await store.append([a_deed("a"), a_deed("b")])
        await store.append([a_deed("a", occurred_at_ms=NOW + 1)])
        context = await context_of(store)
        assert context.history_keys.tolist() == [key("a"), key("b")]
        assert context.history_times_ms.tolist() == [NOW + 1, NOW]
        assert context.interaction_count == 3

    async def test_of_each_type_the_last_interaction_weighs_and_types_add_up(self, store: Store) -> None:
        await store.append(
            [
                a_deed("a", "rating", value=1.0, occurred_at_ms=NOW - 2),
                a_deed("a", "view", occurred_at_ms=NOW - 1),
                a_deed("a", "view"),
                a_deed("a", "rating", value=5.0, occurred_at_ms=NOW - 1),
                a_deed("b", "rating", value=4.0),
                a_deed("b", "rating", value=2.0),  # the same time: the later arrival is the last
            ]
        )
        context = await context_of(store)
        weights = dict(zip(context.history_keys.tolist(), context.history_weights.tolist(), strict=True))
        assert weights == {key("a"): 1.0 + 2.5, key("b"): -0.5}

    async def test_built_in_weights(self, store: Store) -> None:
        names = ("view", "like", "add_to_cart", "purchase")
        await store.append([a_deed(name, name) for name in names])
        await store.append([a_deed(f"{stars}", "rating", value=stars) for stars in (1.0, 2.0, 3.0, 4.0, 5.0)])
        context = await context_of(store)
        assert context.history_weights.tolist() == [2.5, 1.5, 0.5, -0.5, -1.5, 5.0, 3.0, 2.0, 1.0]

    async def test_a_short_history_still_names_what_else_was_seen(self, store: Store) -> None:
        await store.put_interaction_types(tenant_of(), [InteractionType("skip", -1.0, counts_as_seen=False)])
        await store.append([a_deed("1"), a_deed("2", "skip"), a_deed("3"), a_deed("4")])
        context = await context_of(store, limit=1)
        assert context.history_keys.tolist() == [key("4")]
        assert context.seen_keys.tolist() == [key("3"), key("1")]
        assert context.interaction_count == 4

    async def test_contexts_come_in_the_order_asked_and_an_unknown_user_is_empty(self, store: Store) -> None:
        await store.append([a_deed("a"), a_deed("b", user_id="bob"), a_deed("c", tenant=tenant_of("other"))])
        contexts = await store.user_contexts(
            [
                ContextQuery(tenant_of(), "bob", 10),
                ContextQuery(tenant_of(), "nobody", 10),
                ContextQuery(tenant_of("other"), "ann", 10),
                ContextQuery(tenant_of("nowhere"), "ann", 10),
                ContextQuery(tenant_of(), "ann", 10),
                ContextQuery(tenant_of(), "ann", 10),
            ]
        )
        assert [context.history_keys.tolist() for context in contexts] == [
            [key("b")],
            [],
            [key("c", tenant=tenant_of("other"))],
            [],
            [key("a")],
            [key("a")],
        ]
        assert [context.interaction_count for context in contexts] == [1, 0, 1, 0, 1, 1]

    async def test_a_read_after_a_write_sees_it(self, store: Store) -> None:
        assert (await context_of(store)).interaction_count == 0
        for number in range(5):
            await store.append([a_deed(f"{number}")])
            assert (await context_of(store)).history_keys.tolist()[0] == key(f"{number}")

    async def test_an_event_counts_once_within_its_tenant(self, store: Store) -> None:
        deed = a_deed("a")
        twice_at_once = [deed, deed, replace(deed, tenant=tenant_of("other")), replace(deed, item_id="b")]
        assert await store.append(twice_at_once) == [True, False, True, False]
        assert await store.append([deed, a_deed("c")]) == [False, True]
        context = await context_of(store)
        assert context.history_keys.tolist() == [key("c"), key("a")]
        assert context.interaction_count == 2
        assert await popular(store) == {}  # none of the items exists
        await store.put_items([an_item("a")])
        assert await popular(store, Window.ALL) == {key("a"): 1.0}

    async def test_new_weights_apply_to_what_is_stored(self, store: Store) -> None:
        await store.put_items([an_item("a"), an_item("b")])
        await store.append([a_deed("a", "like"), a_deed("b", "rating", value=3.0)])
        await context_of(store)
        await store.put_interaction_types(
            tenant_of(), [InteractionType("like", 0.25), InteractionType("rating", 2.0, centre=0.0)]
        )
        context = await context_of(store)
        assert context.history_weights.tolist() == [6.0, 0.25]
        assert await popular(store, Window.ALL) == {key("b"): 6.0, key("a"): 0.25}
        await store.put_interaction_types(tenant_of(), [InteractionType("rating", -1.0, centre=0.0)])
        assert await popular(store, Window.ALL) == {key("a"): 0.25}

    async def test_a_type_that_gets_a_centre_says_nothing_of_interactions_without_a_value(self, store: Store) -> None:
        await store.append([a_deed("a", "like", value=4.0), a_deed("b", "like")])
        await store.put_interaction_types(tenant_of(), [InteractionType("like", 1.0, centre=3.0)])
        assert (await context_of(store)).history_weights.tolist() == [0.0, 1.0]

    async def test_a_history_is_listed_in_both_directions_and_continued(self, store: Store) -> None:
        deeds = [a_deed(f"{n}", "rating", value=float(n), occurred_at_ms=NOW - n // 2) for n in range(7)]
        await store.append(deeds)
        newest = sorted(deeds, key=lambda deed: (deed.occurred_at_ms, deeds.index(deed)), reverse=True)
        for newest_first, wanted in ((True, newest), (False, newest[::-1])):
            found: list[Interaction] = []
            after: Position | None = None
            while page := await store.list_interactions(
                tenant_of(), "ann", newest_first=newest_first, after=after, limit=3
            ):
                found += [each.interaction for each in page]
                after = page[-1].position
            assert found == wanted
        assert await store.list_interactions(tenant_of(), "nobody", newest_first=True, after=None, limit=3) == []
        assert await store.list_interactions(tenant_of("nowhere"), "ann", newest_first=True, after=None, limit=3) == []

    @pytest.mark.parametrize("limit", [1, 4, 7, 100])
    async def test_an_export_is_sorted_by_user_time_and_arrival(self, store: Store, limit: int) -> None:
        deeds = [
            a_deed(f"{n}", "rating", value=float(n), user_id=f"u{n % 3}", occurred_at_ms=NOW - n // 4)
            for n in range(11)
        ]
        await store.append([*deeds, a_deed("x", tenant=tenant_of("other"))])
        rows: list[tuple[int, int, int, float]] = []
        after = None
        while True:
            page = await store.export_interactions(tenant_of(), after=after, limit=limit)
            assert page.user_keys.dtype == page.item_keys.dtype == page.times_ms.dtype == np.int64
            assert page.weights.dtype == np.float32
            columns = (page.user_keys, page.times_ms, page.item_keys, page.weights)
            rows += zip(*(column.tolist() for column in columns), strict=True)
            if page.end is None:
                break
            after = page.end
        wanted = sorted(range(11), key=lambda n: (user_key(tenant_of(), f"u{n % 3}"), NOW - n // 4, n))
        assert rows == [(user_key(tenant_of(), f"u{n % 3}"), NOW - n // 4, key(f"{n}"), n - 2.5) for n in wanted]

    async def test_an_export_of_nothing_is_empty(self, store: Store) -> None:
        page = await store.export_interactions(tenant_of("nowhere"), after=None, limit=10)
        assert len(page.item_keys) == 0
        assert page.end is None

    async def test_users_are_listed_once_with_their_counts(self, store: Store) -> None:
        await store.append([a_deed("a", user_id=name) for name in ("cy", "ann", "bob", "ann")])
        await store.append([a_deed("a", tenant=tenant_of("other"), user_id="zoe")])
        first = await store.list_users(tenant_of(), after="", limit=2)
        assert len(first) == 2
        rest = await store.list_users(tenant_of(), after=first[-1].user_id, limit=2)
        counts = {user.user_id: user.interaction_count for user in (*first, *rest)}
        assert counts == {"ann": 2, "bob": 1, "cy": 1}
        assert await store.list_users(tenant_of(), after=rest[-1].user_id, limit=2) == []

    async def test_an_erased_user_is_gone_up_to_that_moment(self, store: Store) -> None:
        await store.put_items([an_item("a"), an_item("b")])
        old, new = a_deed("a", occurred_at_ms=NOW - HOUR), a_deed("a")
        others = a_deed("b", user_id="bob", occurred_at_ms=NOW - HOUR)
        await store.append([old, new, others])
        await context_of(store)
        assert await store.erase_user(tenant_of(), "ann", until_ms=NOW - HOUR) == 1
        context = await context_of(store)
        assert context.history_times_ms.tolist() == [NOW]
        assert context.interaction_count == 1
        assert (await context_of(store, "bob")).interaction_count == 1
        assert await popular(store, Window.ALL) == {key("a"): 1.0, key("b"): 1.0}
        assert await store.erase_user(tenant_of(), "ann", until_ms=NOW) == 1
        assert await popular(store, Window.ALL) == {key("b"): 1.0}
        assert await store.erase_user(tenant_of(), "ann", until_ms=NOW) == 0
        users = await store.list_users(tenant_of(), after="", limit=10)
        assert [user.user_id for user in users] == ["bob"]

    async def test_what_an_erased_user_did_before_stays_out(self, store: Store) -> None:
        old = a_deed("a")
        await store.append([old])
        await store.erase_user(tenant_of(), "ann", until_ms=NOW)
        await store.erase_user(tenant_of(), "ann", until_ms=NOW - DAY)  # an older erasure takes nothing back
        later = a_deed("b", occurred_at_ms=NOW + 1)
        assert await store.append([old, a_deed("c"), later]) == [False, False, True]
        assert (await context_of(store)).history_keys.tolist() == [key("b")]

    async def test_an_erasure_may_come_before_the_interactions(self, store: Store) -> None:
        assert await store.erase_user(tenant_of("new tenant"), "ann", until_ms=NOW) == 0
        assert await store.append([a_deed("a", tenant=tenant_of("new tenant"))]) == [False]

    async def test_a_bot_s_context_stays_bounded(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in ("memory", "sqlite", "cql.histories"):
            monkeypatch.setattr(f"profile_store.adapters.{module}.MAX_ROWS", 10)
        await store.append([a_deed(f"{n}", occurred_at_ms=NOW + n) for n in range(25)])
        context = await context_of(store)
        assert len(context.history_keys) == 10
        assert context.interaction_count == 25


class InteractionTypeStoreContract(ProfileStoreContract):
    port = "InteractionTypeStore"

    async def test_every_tenant_has_the_built_in_types(self, store: Store) -> None:
        assert await store.interaction_types(tenant_of("nobody")) == BUILT_IN_TYPES

    async def test_types_belong_to_their_tenant(self, store: Store) -> None:
        share = InteractionType("share", 4.0, counts_as_seen=False)
        view = InteractionType("view", 0.5, centre=1.0)
        await store.put_interaction_types(tenant_of(), [share, view])
        assert await store.interaction_types(tenant_of()) == {**BUILT_IN_TYPES, "share": share, "view": view}
        assert await store.interaction_types(tenant_of("other")) == BUILT_IN_TYPES
        await store.put_interaction_types(tenant_of("other"), [replace(share, weight=1.0)])
        assert (await store.interaction_types(tenant_of()))["share"] == share
        await store.put_interaction_types(tenant_of(), [replace(share, weight=3.0)])
        assert (await store.interaction_types(tenant_of()))["share"].weight == 3.0


class PopularityStoreContract(ProfileStoreContract):
    port = "PopularityStore"

    async def test_counts_decay_with_the_window_as_half_life(self, store: Store) -> None:
        await store.put_items([an_item("a")])
        await store.append([a_deed("a", "like", occurred_at_ms=NOW - HOUR)])
        half_lives = {Window.HOUR: 1, Window.DAY: 24, Window.WEEK: 7 * 24, Window.MONTH: 30 * 24}
        for window, hours in half_lives.items():
            assert await popular(store, window) == {key("a"): pytest.approx(2.0 * 2 ** (-1 / hours))}
            assert await popular(store, window, now_ms=NOW + DAY) == {key("a"): pytest.approx(2.0 * 2 ** (-25 / hours))}
        assert await popular(store, Window.ALL, now_ms=NOW + 100 * DAY) == {key("a"): 2.0}

    async def test_what_comes_late_counts_by_its_own_time(self, store: Store) -> None:
        await store.put_items([an_item("a"), an_item("b"), an_item("c")])
        times = [NOW - 3 * HOUR, NOW, NOW - 7 * HOUR, NOW - HOUR, NOW - 400 * DAY]
        for time in times:
            await store.append([a_deed("a", occurred_at_ms=time)])
        await store.append([a_deed("b", occurred_at_ms=time) for time in sorted(times)])
        await store.append([a_deed("c", occurred_at_ms=time) for time in sorted(times, reverse=True)])
        worth = pytest.approx(2**-3 + 1 + 2**-7 + 2**-1)
        assert await popular(store, Window.HOUR) == {key("a"): worth, key("b"): worth, key("c"): worth}

    async def test_the_best_come_first_and_windows_differ(self, store: Store) -> None:
        await store.put_items([an_item("old"), an_item("new")])
        await store.append([a_deed("old", "purchase", occurred_at_ms=NOW - 3 * DAY), a_deed("new")])
        assert list(await popular(store, Window.ALL)) == [key("old"), key("new")]
        assert list(await popular(store, Window.DAY)) == [key("new"), key("old")]
        assert list(await popular(store, Window.DAY, limit=1)) == [key("new")]

    async def test_of_equally_popular_items_the_smaller_key_comes_first(self, store: Store) -> None:
        names = [f"{n}" for n in range(40)]
        await store.put_items([an_item(name) for name in names])
        await store.append([a_deed(name) for name in names])
        keys = sorted(map(key, names))
        assert list(await popular(store)) == keys
        assert list(await popular(store, limit=7)) == keys[:7]

    async def test_only_positive_weights_count(self, store: Store) -> None:
        await store.put_interaction_types(tenant_of(), [InteractionType("hate", -3.0)])
        await store.put_items([an_item("a"), an_item("b")])
        await store.append(
            [
                a_deed("a", "rating", value=5.0),
                a_deed("a", "rating", value=1.0),
                a_deed("a", "hate"),
                a_deed("b", "rating", value=2.5),
            ]
        )
        assert await popular(store, Window.ALL) == {key("a"): 2.5}

    async def test_hidden_deleted_unavailable_and_unknown_items_never_appear(self, store: Store) -> None:
        await store.put_items(
            [
                an_item("shown", available_from_ms=NOW, available_until_ms=NOW + 1),
                an_item("hidden", hidden=True),
                an_item("deleted"),
                an_item("early", available_from_ms=NOW + 1),
                an_item("late", available_until_ms=NOW),
            ]
        )
        names = ("shown", "hidden", "deleted", "early", "late", "unknown")
        await store.append([a_deed(name) for name in names])
        await store.delete_items([an_item("deleted").ref], occurred_at_ms=NOW)
        assert list(await popular(store)) == [key("shown")]
        assert list(await popular(store, now_ms=NOW + 1)) == [key("early")]
        await store.put_items([an_item("hidden", updated_at_ms=NOW), an_item("unknown")])
        assert set(await popular(store)) == {key("shown"), key("hidden"), key("unknown")}

    async def test_types_and_tenants_are_apart(self, store: Store) -> None:
        await store.put_items([an_item("a"), an_item("a", item_type="book"), an_item("a", tenant=tenant_of("other"))])
        await store.append([a_deed("a"), a_deed("a", item_type="book"), a_deed("a", tenant=tenant_of("other"))])
        assert list(await popular(store, item_type="book")) == [key("a", item_type="book")]
        assert list(await popular(store, item_type="song")) == []
        assert list(await popular(store, tenant=tenant_of("other"))) == [key("a", tenant=tenant_of("other"))]
        assert list(await popular(store, tenant=tenant_of("nowhere"))) == []
        assert len(await popular(store)) == 2

    async def test_a_filter_follows_the_items(self, store: Store) -> None:
        only_new = (Predicate("year", Operator.GTE, (2000.0,)),)
        await store.put_items([an_item(f"{n}", attributes={"year": 1990.0 + n}) for n in range(20)])
        await store.append([a_deed(f"{n}", user_id=f"u{i}") for n in range(20) for i in range(n + 1)])
        best = [key(f"{n}") for n in range(19, 9, -1)]
        assert list(await popular(store, only=only_new)) == best
        assert list(await popular(store, only=only_new, limit=3)) == best[:3]
        await store.put_items(
            [
                an_item("19", attributes={"year": 1950.0}, updated_at_ms=NOW),
                an_item("0", attributes={"year": 2020.0}, updated_at_ms=NOW),
            ]
        )
        assert list(await popular(store, only=only_new)) == [*best[1:], key("0")]

    async def test_a_flag_is_no_number_in_a_filter(self, store: Store) -> None:
        await store.put_items([an_item("flag", attributes={"x": True}), an_item("number", attributes={"x": 1.0})])
        await store.append([a_deed("flag"), a_deed("number")])
        assert list(await popular(store, only=(Predicate("x", Operator.EQ, (True,)),))) == [key("flag")]
        assert list(await popular(store, only=(Predicate("x", Operator.EQ, (1.0,)),))) == [key("number")]
        by_type = (Predicate("item_type", Operator.IN, ("film",)), Predicate("created_at_ms", Operator.LTE, (NOW,)))
        assert len(await popular(store, only=by_type)) == 2

    async def test_an_erased_user_s_share_goes_and_the_rest_stays(self, store: Store) -> None:
        await store.put_items([an_item("a"), an_item("b")])
        await store.append([a_deed("a", user_id="bob", occurred_at_ms=NOW - n * HOUR) for n in range(5)])
        before = await popular(store, Window.HOUR)
        await store.append([a_deed(name, occurred_at_ms=NOW - n * HOUR) for n in range(9) for name in "ab"])
        await store.erase_user(tenant_of(), "ann", until_ms=NOW)
        assert await popular(store, Window.HOUR) == pytest.approx(before)

    async def test_an_order_holds_for_years(self, store: Store) -> None:
        await store.put_items([an_item("a"), an_item("b")])
        await store.append([a_deed("a"), a_deed("b", occurred_at_ms=NOW - HOUR)])
        assert list(await popular(store, Window.DAY, now_ms=NOW + 100 * DAY)) == [key("a"), key("b")]


async def tell_a_story(
    random: Random, one: Store, other: Store, *, reopened: Callable[[Store], Awaitable[Store]], steps: int = 60
) -> Store:
    """Do the same random things to two stores, over restarts of the other, and compare all that can be read.

    Returns:
        The other one, as it was opened last.
    """
    tenant_of.renew()
    for _ in range(steps):
        await _do_something(random, one, other)
        if random.random() < 0.05:
            other = await reopened(other)
        if random.random() < 0.2:
            await _compare(one, other)
    await _compare(one, other)
    return other


async def _do_something(random: Random, *stores: Store) -> None:
    number = next(_event_numbers)
    deeds = [_random_deed(random, f"{number}.{random.randrange(8)}") for _ in range(random.randrange(1, 12))]
    items = [
        an_item(
            f"{random.randrange(12)}",
            title=f"{random.random()}",
            attributes={"size": float(random.randrange(5))},
            hidden=random.random() < 0.1,
            updated_at_ms=NOW - random.randrange(40),
        )
        for _ in range(random.randrange(1, 6))
    ]
    choice, time, user = random.random(), NOW - random.randrange(3 * DAY), f"u{random.randrange(4)}"
    weight, centre = random.choice([-1.0, 0.5, 3.0]), random.choice([None, 2.0])
    name = random.choice(["view", "rating", "custom"])
    outcomes: list[list[object]] = []
    for store in stores:
        if choice < 0.6:
            outcomes.append(list(await store.append(deeds)))
        elif choice < 0.8:
            outcomes.append(list(await store.put_items(items)))
        elif choice < 0.87:
            refs = [item.ref for item in items]
            outcomes.append(list(await store.delete_items(refs, occurred_at_ms=items[0].updated_at_ms)))
        elif choice < 0.94:
            outcomes.append([await store.erase_user(tenant_of(), user, until_ms=time)])
        else:
            await store.put_interaction_types(tenant_of(), [InteractionType(name, weight, centre, weight > 0)])
    assert all(outcome == outcomes[0] for outcome in outcomes)


def _random_deed(random: Random, event_id: str) -> Interaction:
    return Interaction(
        event_id,
        tenant_of(),
        f"u{random.randrange(4)}",
        "film",
        f"{random.randrange(12)}",
        random.choice(["view", "like", "rating"]),
        float(random.randrange(1, 6)),
        NOW - random.randrange(3) * random.randrange(DAY),
    )


async def _compare(one: Store, other: Store) -> None:
    await _compare_users(one, other)
    await _compare_exports(one, other)
    catalogues = [await store.list_items(tenant_of(), None, after=None, limit=100) for store in (one, other)]
    assert catalogues[0] == catalogues[1]
    keys = [key(f"{n}") for n in range(12)]
    assert list(await one.get_items(keys)) == list(await other.get_items(keys))
    for only in ((), (Predicate("size", Operator.GTE, (2.0,)),)):
        for window in Window:
            scores = [await popular(store, window, only=only) for store in (one, other)]
            assert scores[0] == pytest.approx(scores[1])


async def _compare_users(one: Store, other: Store) -> None:
    for limit in (2, 1_000):
        queries = [ContextQuery(tenant_of(), f"u{n}", limit) for n in range(5)]
        for left, right in zip(await one.user_contexts(queries), await other.user_contexts(queries), strict=True):
            assert left.history_keys.tolist() == right.history_keys.tolist()
            assert left.history_weights.tolist() == right.history_weights.tolist()
            assert left.history_times_ms.tolist() == right.history_times_ms.tolist()
            assert left.seen_keys.tolist() == right.seen_keys.tolist()
            assert left.interaction_count == right.interaction_count
    for user in range(5):
        lists = [
            [each.interaction for each in page]
            for store in (one, other)
            for page in [
                await store.list_interactions(tenant_of(), f"u{user}", newest_first=True, after=None, limit=999)
            ]
        ]
        assert lists[0] == lists[1]


async def _compare_exports(one: Store, other: Store) -> None:
    users = [await store.list_users(tenant_of(), after="", limit=100) for store in (one, other)]
    assert sorted(users[0], key=str) == sorted(users[1], key=str)
    left, right = [await store.export_interactions(tenant_of(), after=None, limit=10_000) for store in (one, other)]
    for name in ("user_keys", "item_keys", "weights", "times_ms"):
        assert getattr(left, name).tolist() == getattr(right, name).tolist()
