"""The kernel against the same sums written down in dense numpy."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from servicekit.clock import ManualClock
from servicekit.filters import Operator, Predicate
from vector_search.domain.catalogue import NEVER_MS, Catalogue, VersionItems
from vector_search.domain.columns import MemoryColumns, build_columns
from vector_search.domain.items import ItemState
from vector_search.domain.kernel import FAINT
from vector_search.domain.model import CONTENT, UNTRAINED_MODEL, Factors, ModelVersion, Source
from vector_search.domain.overlay import Overlay
from vector_search.domain.retrieval import Candidates, Retriever, UserQuery
from vector_search.domain.tables import ItemTable, SourceParameters

N = 60
KEYS = np.sort(np.random.default_rng(3).choice(2**62, N, replace=False)).astype(np.int64)
Matrix = npt.NDArray[np.float32]


def to_table(dense: Matrix, dtype: npt.DTypeLike = np.float32) -> ItemTable:
    rows = [np.flatnonzero(row) for row in dense]
    return ItemTable(
        np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        np.concatenate(rows).astype(np.int32),
        np.concatenate([dense[i, row] for i, row in enumerate(rows)]).astype(dtype),
    )


def dense_table(seed: int) -> Matrix:
    rng = np.random.default_rng(seed)
    dense = rng.standard_normal((N, N)) * (rng.random((N, N)) < 0.4)
    np.fill_diagonal(dense, 0)
    return dense.astype(np.float16).astype(np.float32)


DENSE = {"cooccurrence": dense_table(1), "session": dense_table(2), CONTENT: dense_table(3)}
PARAMETERS = {
    "cooccurrence": SourceParameters(scale=0.5),
    "session": SourceParameters(
        half_life_items=2.0, ties_share_position=True, half_life_s=100.0, time_floor=0.3, max_history=4
    ),
    CONTENT: SourceParameters(scale=2.0, half_life_items=3.0),
}
WEIGHTS = {"cooccurrence": 1.0, "session": 0.7, CONTENT: 0.2}
FOLD_IN = np.random.default_rng(4).standard_normal((N, 8)).astype(np.float32)
ITEM_FACTORS = np.random.default_rng(5).standard_normal((N, 8)).astype(np.float32)
FACTOR_PARAMETERS = SourceParameters(scale=0.1, half_life_items=40.0)
LOG_POPULARITY = np.random.default_rng(6).random(N).astype(np.float32)


def make_version() -> ModelVersion:
    columns = MemoryColumns(
        build_columns([{"genre": ("a", "b") if i % 2 else "b", "year": 1990.0 + i} for i in range(N)]), N
    )
    items = VersionItems(
        KEYS,
        np.full(N, 1_000, np.int64),
        np.zeros(N, np.uint8),
        np.zeros(N, np.int64),
        np.full(N, NEVER_MS, np.int64),
        columns,
    )
    dtypes = {"cooccurrence": np.float16, "session": np.float32, CONTENT: np.float16}
    sources = tuple(
        Source(name, to_table(DENSE[name], dtypes[name]), PARAMETERS[name], WEIGHTS[name]) for name in DENSE
    )
    factors = Factors(FOLD_IN, ITEM_FACTORS, FACTOR_PARAMETERS)
    version = ModelVersion("v1", items, sources, factors, {"log_popularity": LOG_POPULARITY})
    version.verify()
    return version


class World:
    """A retriever with what it reads."""

    def __init__(self, version: ModelVersion) -> None:
        self.clock = ManualClock()
        self.catalogue = Catalogue(version.items, clock=self.clock)
        self.overlay = Overlay(self.catalogue.numbering.capacity)
        self.retriever = Retriever(version, self.catalogue, self.overlay)

    def ask(self, *queries: UserQuery) -> list[Candidates]:
        return self.retriever.retrieve(queries)

    def arrive(self, key: int, neighbours: Sequence[int], near: float = 0.5, **fields: str) -> int:
        self.catalogue.put(ItemState(key, fields, 2_000))
        numbers = np.array([self.catalogue.number(each) for each in neighbours], np.int32)
        self.overlay.grow(self.catalogue.numbering.capacity)
        number = self.catalogue.number(key)
        self.overlay.link(number, numbers, np.full(len(numbers), near, np.float32))
        return number


@pytest.fixture
def world() -> World:
    return World(make_version())


def query(numbers: Sequence[int], **changes: object) -> UserQuery:
    rng = np.random.default_rng(len(numbers))
    values: dict[str, object] = {
        "history_keys": KEYS[list(numbers)],
        "strengths": rng.choice([-1.0, 1.0, 2.0], len(numbers)).astype(np.float32),
        "ages_s": np.sort(rng.integers(0, 6, len(numbers)) * 50.0).astype(np.float32),
        "limit": 20,
        **changes,
    }
    return UserQuery(**values)  # type: ignore[arg-type]  # the changes are each test's own


def pulls(parameters: SourceParameters, asked: UserQuery) -> npt.NDArray[np.float64]:
    ages = asked.ages_s.astype(float)
    index = np.arange(len(ages))
    shared = np.array([index[ages == age].mean() for age in ages])
    position = shared if parameters.ties_share_position else index
    pull = asked.strengths * parameters.scale
    if parameters.half_life_items:
        halvings = position / parameters.half_life_items
        pull = np.where(halvings > FAINT, 0.0, pull * 0.5**halvings)
    if parameters.half_life_s:
        floor = parameters.time_floor
        pull = pull * (floor + (1 - floor) * 0.5 ** ((ages - ages[0]) / parameters.half_life_s))
    return np.where(index < (parameters.max_history or len(ages)), pull, 0.0)


def expected(asked: UserQuery, numbers: Sequence[int]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Give [sources, N] shares and [history, N] contributions to the weighted sum."""
    contributions = {name: pulls(PARAMETERS[name], asked)[:, None] * DENSE[name][list(numbers)] for name in DENSE}
    shares = np.stack([each.sum(0) for each in contributions.values()])
    weighted = sum(WEIGHTS[name] * each for name, each in contributions.items())
    return shares, np.asarray(weighted)


@pytest.mark.parametrize("length", [1, 2, 5, 12, 40])
def test_candidates_are_those_of_the_dense_sums(world: World, length: int) -> None:
    numbers = np.random.default_rng(length).choice(N, length, replace=False).tolist()
    asked = query(numbers)
    shares, weighted = expected(asked, numbers)
    total = weighted.sum(0)
    total[numbers] = -np.inf
    order = [number for number in np.argsort(-total, kind="stable") if total[number] > 0][: asked.limit]

    (found,) = world.ask(asked)

    assert found.keys.tolist() == KEYS[order].tolist()
    np.testing.assert_allclose(found.scores, total[order], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.features[:3], shares[:, order], rtol=1e-4, atol=1e-5)
    assert not found.features[3].any(), "nearest is somebody else's row"
    vector = pulls(FACTOR_PARAMETERS, asked) @ FOLD_IN[numbers]
    np.testing.assert_allclose(found.features[4], ITEM_FACTORS[order] @ vector, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(found.features[5], LOG_POPULARITY[order])
    best = weighted[:, order]
    assert found.because.tolist() == np.where(best.max(0) > 0, best.argmax(0), -1).tolist()
    assert found.known == length


def test_a_batch_answers_as_one_by_one_and_leaves_no_trace(world: World) -> None:
    queries = [query(np.random.default_rng(i).choice(N, 1 + i, replace=False).tolist()) for i in range(30)]
    together = world.ask(*queries)
    for asked, found in zip(queries, together, strict=True):
        (alone,) = world.ask(asked)
        assert alone.keys.tolist() == found.keys.tolist()
        np.testing.assert_array_equal(alone.features, found.features)


def test_history_and_exclusions_do_not_come_back_unless_wanted(world: World) -> None:
    everything = query([1, 2, 3], strengths=np.ones(3, np.float32), limit=N)
    (found,) = world.ask(everything)
    assert not set(KEYS[[1, 2, 3]]) & set(found.keys)
    (fewer,) = world.ask(query([1, 2, 3], strengths=np.ones(3, np.float32), limit=N, exclude_keys=found.keys[:5]))
    assert fewer.keys.tolist() == found.keys[5:].tolist()
    (more,) = world.ask(query([1, 2, 3], strengths=np.ones(3, np.float32), limit=N, include_history=True))
    assert set(found.keys) < set(more.keys) <= set(found.keys) | set(KEYS[[1, 2, 3]])


def test_unknown_keys_and_empty_histories_say_nothing(world: World) -> None:
    nobody = UserQuery(np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.float32), 5)
    stranger = UserQuery(np.array([12345, -7]), np.ones(2, np.float32), np.zeros(2, np.float32), 5)
    for found in world.ask(nobody, stranger):
        assert len(found.keys) == 0
        assert found.features.shape == (7, 0)
        assert found.known == 0


def test_source_weights_choose_the_sources(world: World) -> None:
    (found,) = world.ask(query([4, 9], source_weights={"session": 1.0, "unheard of": 3.0}))
    assert len(found.keys)
    assert found.features[1].all()
    assert not found.features[0].any()
    assert not found.features[2].any()
    (nothing,) = world.ask(query([4, 9], source_weights={"nearest": 1.0}))
    assert len(nothing.keys) == 0


def test_ties_go_to_the_smaller_key() -> None:
    version = make_version()
    flat = ModelVersion(
        "flat", version.items, (Source(CONTENT, to_table(np.ones((N, N), np.float32)), SourceParameters()),)
    )
    (found,) = World(flat).ask(query([10], strengths=np.ones(1, np.float32), limit=7))
    assert found.keys.tolist() == KEYS[:7].tolist()


def test_filters_and_hidden_items(world: World) -> None:
    odd = (Predicate("genre", Operator.EQ, ("a",)),)
    late = (Predicate("year", Operator.GTE, (2020.0,)),)
    world.catalogue.put(ItemState(int(KEYS[31]), {"genre": "a"}, 2_000, hidden=True))
    world.catalogue.remove(int(KEYS[33]), 2_000)
    by_genre, by_year, both = world.ask(
        query([2], limit=N, conditions=odd, strengths=np.ones(1, np.float32)),
        query([2], limit=N, conditions=late, strengths=np.ones(1, np.float32)),
        query([2], limit=N, conditions=odd + late, strengths=np.ones(1, np.float32)),
    )
    numbers = {
        name: np.searchsorted(KEYS, found.keys) for name, found in (("g", by_genre), ("y", by_year), ("b", both))
    }
    assert len(numbers["g"])
    assert (numbers["g"] % 2 == 1).all()
    assert (numbers["y"] >= 30).all()
    assert set(numbers["b"]) == set(numbers["g"]) & set(numbers["y"])
    assert not {31, 33} & (set(numbers["g"]) | set(numbers["y"]))


def test_a_new_item_speaks_and_is_spoken_for(world: World) -> None:
    world.arrive(777, [int(key) for key in KEYS[[5, 6]]])
    (from_new,) = world.ask(
        UserQuery(np.array([777]), np.ones(1, np.float32), np.zeros(1, np.float32), 10, source_weights={CONTENT: 1.0})
    )
    assert sorted(from_new.keys.tolist()) == KEYS[[5, 6]].tolist()
    assert from_new.features[2].tolist() == [1.0, 1.0]  # cosine .5, scale 2
    (to_new,) = world.ask(query([5], limit=10, strengths=np.ones(1, np.float32)))
    place = to_new.keys.tolist().index(777)
    assert to_new.because[place] == 0
    assert to_new.features[4, place] == 0
    assert to_new.features[5, place] == 0


def test_new_items_get_their_part_of_a_list_however_faint(world: World) -> None:
    for key in range(100, 110):
        world.arrive(key, [int(KEYS[5])], near=0.001)
    (found,) = world.ask(query([5], limit=10, strengths=np.ones(1, np.float32)))
    assert len(found.keys) == 10
    assert [key for key in found.keys.tolist() if key < 1000] == [100], "one tenth, the tie by key"
    assert (np.diff(found.scores) <= 0).all()


def test_without_a_model_the_overlay_is_everything() -> None:
    world = World(UNTRAINED_MODEL)
    rng = np.random.default_rng(1)
    for key in range(3_000):
        world.arrive(key, rng.choice(key, min(key, 10), replace=False).tolist(), near=float(rng.random()) + 0.01)
    (found,) = world.ask(UserQuery(np.array([17, 4]), np.ones(2, np.float32), np.array([0.0, 9.0], np.float32), 50))
    assert len(found.keys)
    assert found.version.feature_names == ("content", "nearest", "factors")
    assert found.known == 2


def test_a_batch_prepared_before_the_catalogue_grew_is_safe() -> None:
    world = World(UNTRAINED_MODEL)
    for key in range(100):
        world.arrive(key, list(range(max(0, key - 5), key)))
    (prepared,) = world.retriever.prepare(
        [UserQuery(np.arange(100), np.ones(100, np.float32), np.zeros(100, np.float32), 50, include_history=True)]
    )
    for key in range(100, 5_000):
        world.arrive(key, list(range(key - 100, key - 90)))
    (found,) = prepared.run()
    assert set(found.keys.tolist()) <= set(range(1_024))
