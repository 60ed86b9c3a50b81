"""The promises of the DenseIndex port, kept by every adapter."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from contract.vector_search.qdrant_support import memory_store, wire_store
from servers.qdrant_server import QdrantServer

from servicekit.arrays import Floats, Keys
from servicekit.errors import InvalidArgumentError
from servicekit.filters import AttributeValue, Filter, Operator, Predicate, matches
from vector_search.adapters.edge_build import build, paged
from vector_search.adapters.edge_index import EdgeVectorIndex
from vector_search.adapters.exact_index import ExactVectorIndex
from vector_search.adapters.qdrant_collections import QdrantDenseStore
from vector_search.domain.dense import SAMPLE_FIELD, DenseIndex, Distance, Mark, Payload, Points, Space, sample_numbers

COSINE = Space(8, Distance.COSINE)
DOT = Space(8, Distance.DOT)
LARGE_KEY = 2**63 - 1

CATALOGUE: tuple[dict[str, AttributeValue], ...] = (
    {},
    {"genres": ("drama", "crime"), "year": 1995.0, "new": True},
    {"genres": ("drama",), "year": 1996.0, "new": False},
    {"genres": (), "year": -3.5},
    {"genres": "drama", "year": "1995"},
    {"genres": True, "new": "true"},
    {"genres": 1.0, "new": 1.0},
    {'odd."na me"[0]': "x", "names": "y", "": "z"},
    {"größe": 7.0, "year": 0.0, "names": ("genres",)},
)
CONDITIONS: tuple[Filter, ...] = (
    (),
    (Predicate("genres", Operator.EQ, ("drama",)),),
    (Predicate("genres", Operator.EQ, (True,)),),
    (Predicate("genres", Operator.EQ, (1.0,)),),
    (Predicate("genres", Operator.IN, ("crime", "comedy", 1.0, True)),),
    (Predicate("genres", Operator.NOT_IN, ("drama",)),),
    (Predicate("genres", Operator.NOT_IN, ("crime", 1.0)),),
    (Predicate("genres", Operator.EXISTS, (True,)),),
    (Predicate("genres", Operator.EXISTS, (False,)),),
    (Predicate("year", Operator.GTE, (1995,)),),
    (Predicate("year", Operator.LTE, (0.0,)),),
    (Predicate("year", Operator.EQ, (1995,)),),
    (Predicate("year", Operator.EQ, ("1995",)),),
    (Predicate("year", Operator.GTE, (0.0,)), Predicate("year", Operator.LTE, (1995.5,))),
    (Predicate("new", Operator.EQ, (True,)),),
    (Predicate("new", Operator.EQ, (False,)),),
    (Predicate("new", Operator.EQ, ("true",)),),
    (Predicate("new", Operator.NOT_IN, (True,)),),
    (Predicate('odd."na me"[0]', Operator.EQ, ("x",)),),
    (Predicate("", Operator.EXISTS, (True,)),),
    (Predicate("names", Operator.EQ, ("genres",)),),
    (Predicate("names", Operator.EXISTS, (True,)),),
    (Predicate("größe", Operator.EQ, (7,)),),
    (Predicate("unheard", Operator.EQ, ("of",)),),
    (Predicate("unheard", Operator.GTE, (0.0,)),),
    (Predicate("unheard", Operator.NOT_IN, ("of",)),),
    (Predicate("unheard", Operator.EXISTS, (False,)),),
)


def keys(*values: int) -> Keys:
    return np.array(values, dtype=np.int64)


def floats(rows: npt.ArrayLike) -> Floats:
    return np.array(rows, dtype=np.float32)


def axis(place: int, length: float = 1.0) -> list[float]:
    return [length if place == dimension else 0.0 for dimension in range(8)]


def points(
    wanted: Sequence[int], vectors: npt.ArrayLike, attributes: Sequence[Mapping[str, AttributeValue]] | None = None
) -> Points:
    payloads = [Payload(mapping, Mark("use", str(key))) for key, mapping in zip(wanted, attributes or (), strict=False)]
    return Points(keys(*wanted), floats(vectors), payloads or [Payload(mark=Mark("use", str(key))) for key in wanted])


async def nearest(index: DenseIndex, query: Sequence[float], *, limit: int = 10, conditions: Filter = ()) -> list[int]:
    (found,) = await index.search(floats([query]), limit=limit, conditions=conditions)
    return [int(key) for key in found.keys]


class DenseIndexContract:
    """What every DenseIndex does; a subclass gives the empty ones."""

    port = "DenseIndex"

    @pytest.fixture
    async def cosine(self, tmp_path: Path) -> AsyncIterator[DenseIndex]:
        index = await self.make(tmp_path / "cosine", COSINE)
        yield index
        await index.close()

    @pytest.fixture
    async def dot(self, tmp_path: Path) -> AsyncIterator[DenseIndex]:
        index = await self.make(tmp_path / "dot", DOT)
        yield index
        await index.close()

    async def make(self, folder: Path, space: Space) -> DenseIndex:
        raise NotImplementedError

    async def test_an_empty_index_finds_nothing(self, cosine: DenseIndex) -> None:
        assert await cosine.count() == 0
        assert await nearest(cosine, axis(0)) == []
        assert await cosine.search(np.empty((0, 8), np.float32), limit=1) == []
        assert [page async for page in cosine.scroll(10)] == []

    async def test_cosine_ignores_lengths(self, cosine: DenseIndex) -> None:
        await cosine.upsert(points([1, 2, LARGE_KEY], [axis(0, 1e-30), axis(1, 1e30), [1.0, 1.0, *[0.0] * 6]]))
        (found,) = await cosine.search(floats([axis(0, 5.0)]), limit=10)
        assert found.keys.tolist() == [1, LARGE_KEY, 2]
        assert found.scores == pytest.approx([1.0, 0.5**0.5, 0.0], abs=1e-6)
        assert found.keys.dtype == np.dtype(np.int64)
        assert found.scores.dtype == np.dtype(np.float32)

    async def test_dot_multiplies_lengths(self, dot: DenseIndex) -> None:
        await dot.upsert(points([1, 2, 3], [axis(0, 2.0), axis(0, -3.0), axis(1, 9.0)]))
        (found,) = await dot.search(floats([axis(0, 5.0)]), limit=10)
        assert found.keys.tolist() == [1, 3, 2]
        assert found.scores == pytest.approx([10.0, 0.0, -15.0])

    async def test_a_zero_vector_is_near_nothing_by_angle_and_stored_by_product(
        self, cosine: DenseIndex, dot: DenseIndex
    ) -> None:
        await cosine.upsert(points([1], [axis(0)]))
        assert await nearest(cosine, [0.0] * 8) == []
        await dot.upsert(points([2, 1], [[0.0] * 8, axis(0)]))
        assert await nearest(dot, [0.0] * 8) == [1, 2]

    async def test_ties_come_by_key_wherever_the_list_is_cut(self, cosine: DenseIndex) -> None:
        shuffled = np.random.default_rng(1).permutation(200) + 1
        await cosine.upsert(points(shuffled.tolist(), np.tile(floats([[0.3, -0.2, 0.7, 0, 0, 0.1, 0, 0]]), (200, 1))))
        await cosine.upsert(points([500], [axis(3)]))
        for limit in (1, 5, 150, 200):
            assert await nearest(cosine, axis(0), limit=limit) == list(range(1, limit + 1))
        assert await nearest(cosine, axis(3), limit=3) == [500, 1, 2]

    async def test_upsert_replaces_and_the_last_of_two_wins(self, cosine: DenseIndex) -> None:
        await cosine.upsert(points([1, 2], [axis(0), axis(1)], [{"a": "old"}, {}]))
        await cosine.upsert(points([1, 1], [axis(2), axis(3)], [{"b": "never"}, {"c": 1.0}]))
        assert await cosine.count() == 2
        assert await nearest(cosine, axis(3), limit=1) == [1]
        assert await nearest(cosine, axis(0), conditions=(Predicate("a", Operator.EXISTS, (True,)),)) == []
        assert await nearest(cosine, axis(0), conditions=(Predicate("c", Operator.EQ, (1.0,)),)) == [1]

    @pytest.mark.parametrize(
        "bad",
        [
            points([7], [axis(0)[:7]]),
            points([7, 8], [axis(0), [np.nan] * 8]),
            points([7, 8], [axis(0), axis(0, np.inf)]),
            points([7, 8], [axis(0), [0.0] * 8]),
            points([7, -8], [axis(0), axis(1)]),
            points([7, 8], [axis(0)]),
            Points(keys(7, 8), floats([axis(0), axis(1)]), [Payload()]),
            points([7, 8], [axis(0), axis(1)], [{}, {"year": float("nan")}]),
        ],
        ids=["size", "nan", "inf", "zero", "key", "vectors", "payloads", "attribute"],
    )
    async def test_a_bad_batch_leaves_nothing(self, cosine: DenseIndex, bad: Points) -> None:
        await cosine.upsert(points([1], [axis(0)]))
        with pytest.raises(InvalidArgumentError):
            await cosine.upsert(bad)
        assert await nearest(cosine, axis(0)) == [1]

    async def test_bad_searches_are_refused(self, cosine: DenseIndex, dot: DenseIndex) -> None:
        for vectors, limit, exclude in (
            ([axis(0)], 0, []),
            ([axis(0)], 10_001, []),
            ([axis(0)[:5]], 1, []),
            ([axis(0, np.nan)], 1, []),
            ([axis(0)], 1, [keys(), keys()]),
        ):
            with pytest.raises(InvalidArgumentError):
                await cosine.search(floats(vectors), limit=limit, exclude=exclude)
        with pytest.raises(InvalidArgumentError):
            await dot.search(floats([axis(0, 1e30)]), limit=1)

    async def test_each_query_has_its_own_exclusions(self, cosine: DenseIndex) -> None:
        await cosine.upsert(points([1, 2, 3], [axis(0), axis(1), [1.0, 1.0, *[0.0] * 6]]))
        first, second, third = await cosine.search(
            floats([axis(0), axis(0), axis(1)]), limit=2, exclude=[keys(), keys(1, 99), keys(2, 3)]
        )
        assert first.keys.tolist() == [1, 3]
        assert second.keys.tolist() == [3, 2]
        assert third.keys.tolist() == [1]

    async def test_filters_mean_what_the_kit_says(self, cosine: DenseIndex) -> None:
        wanted = list(range(1, len(CATALOGUE) + 1))
        await cosine.upsert(points(wanted, [axis(key % 8) for key in wanted], CATALOGUE))
        for conditions in CONDITIONS:
            passing = [key for key, mapping in zip(wanted, CATALOGUE, strict=True) if matches(conditions, mapping.get)]
            for exact in (False, True):
                (found,) = await cosine.search(floats([[1.0] * 8]), limit=20, conditions=conditions, exact=exact)
                assert sorted(found.keys.tolist()) == passing, conditions

    async def test_random_filters_agree_with_the_kit(self, cosine: DenseIndex) -> None:
        random = np.random.default_rng(5)
        pool: list[AttributeValue] = ["a", "b", "true", True, False, 0.0, 1.0, 2.5, ("a",), ("a", "c"), ()]

        def some(most: int) -> list[AttributeValue]:
            return [pool[place] for place in random.integers(0, len(pool), most)]

        wanted = list(range(60))
        catalogue = [
            {name: value for name, value in zip("pqr", some(3), strict=True) if random.random() < 0.7} for _ in wanted
        ]
        await cosine.upsert(points(wanted, random.normal(size=(60, 8)), catalogue))
        for _ in range(60):
            operator = Operator(random.choice([Operator.EQ, Operator.IN, Operator.NOT_IN, Operator.GTE, Operator.LTE]))
            if operator in {Operator.GTE, Operator.LTE}:
                operands: tuple[AttributeValue, ...] = (float(random.integers(0, 3)),)
            else:
                operands = tuple(value for value in some(1 if operator is Operator.EQ else 3) if value != ())
                operands = tuple(value for value in operands if not isinstance(value, tuple)) or ("a",)
            first = Predicate(str(random.choice(list("pqr"))), operator, operands)
            second = Predicate(str(random.choice(list("pqr"))), Operator.EXISTS, (bool(random.integers(2)),))
            passing = [
                key for key, mapping in zip(wanted, catalogue, strict=True) if matches((first, second), mapping.get)
            ]
            assert sorted(await nearest(cosine, [1.0] * 8, limit=60, conditions=(first, second))) == passing

    async def test_the_sample_field_lets_its_part_pass(self, cosine: DenseIndex) -> None:
        wanted = keys(*range(1_000))
        await cosine.upsert(points(wanted.tolist(), np.random.default_rng(0).normal(size=(1_000, 8))))
        passing = np.flatnonzero(sample_numbers(wanted) <= 0.1).tolist()
        assert 70 <= len(passing) <= 130
        conditions = (Predicate(SAMPLE_FIELD, Operator.LTE, (0.1,)),)
        assert sorted(await nearest(cosine, axis(0), limit=1_000, conditions=conditions)) == passing

    async def test_attributes_are_replaced_and_the_rest_stays(self, cosine: DenseIndex) -> None:
        await cosine.upsert(points([1, 2], [axis(0, 2.0), axis(1)], [{"a": "x", "b": 1.0}, {"a": "x"}]))
        await cosine.set_attributes(keys(1, 99), [{"c": "new"}, {"c": "new"}], [7, 7])
        assert await nearest(cosine, axis(0), conditions=(Predicate("a", Operator.EQ, ("x",)),)) == [2]
        assert await nearest(cosine, axis(0), conditions=(Predicate("b", Operator.EXISTS, (True,)),)) == []
        assert await nearest(cosine, axis(0), conditions=(Predicate("c", Operator.EQ, ("new",)),)) == [1]
        assert await cosine.marks(keys(1, 99)) == [Mark("use", "1", 7), None]
        assert await cosine.count() == 2
        with pytest.raises(InvalidArgumentError):
            await cosine.set_attributes(keys(1, 2), [{}], [1, 1])
        with pytest.raises(InvalidArgumentError):
            await cosine.set_attributes(keys(1), [{"a": float("inf")}], [1])

    async def test_deleting_twice_is_no_error(self, cosine: DenseIndex) -> None:
        await cosine.upsert(points([1, 2, 3], [axis(0), axis(1), axis(2)]))
        await cosine.delete(keys(1, 3, 99))
        await cosine.delete(keys(1))
        await cosine.delete(keys())
        assert await nearest(cosine, axis(0)) == [2]
        await cosine.upsert(points([1], [axis(0)]))
        assert await nearest(cosine, axis(0)) == [1, 2]

    async def test_vectors_and_marks_come_in_the_order_asked(self, cosine: DenseIndex, dot: DenseIndex) -> None:
        await cosine.upsert(points([1, 2], [axis(0, 5.0), axis(1)]))
        found, vectors = await cosine.vectors(keys(2, 99, 1, 2))
        assert found.tolist() == [2, 1, 2]
        assert vectors == pytest.approx(floats([axis(1), axis(0), axis(1)]))
        assert vectors.dtype == np.float32
        assert await cosine.marks(keys(2, 99, 2)) == [Mark("use", "2"), None, Mark("use", "2")]
        nothing, none = await cosine.vectors(keys(99))
        assert (nothing.shape, none.shape) == ((0,), (0, 8))
        await dot.upsert(points([1], [axis(0, 5.0)]))
        assert (await dot.vectors(keys(1)))[1] == pytest.approx(floats([axis(0, 5.0)]))

    async def test_scroll_gives_everything_by_key(self, cosine: DenseIndex) -> None:
        wanted = [LARGE_KEY, 5, 0, 7, 6, 9, 11, 12, 13]
        await cosine.upsert(points(wanted, [axis(key % 8, 2.0) for key in wanted], CATALOGUE))
        pages = [page async for page in cosine.scroll(4)]
        assert [len(page.keys) for page in pages] == [4, 4, 1]
        assert np.concatenate([page.keys for page in pages]).tolist() == sorted(wanted)
        by_key = dict(zip(wanted, CATALOGUE, strict=True))
        for page in pages:
            assert page.vectors == pytest.approx(floats([axis(key % 8) for key in page.keys.tolist()]))
            for key, payload in zip(page.keys.tolist(), page.payloads, strict=True):
                assert payload == Payload(by_key[key], Mark("use", str(key)))
                # True equals 1.0, so the types are compared too.
                types = {name: type(value) for name, value in payload.attributes.items()}
                assert types == {name: type(value) for name, value in by_key[key].items()}


class TestExactVectorIndex(DenseIndexContract):
    adapter = "exact"

    async def make(self, folder: Path, space: Space) -> DenseIndex:  # noqa: ARG002  # nothing is written
        return ExactVectorIndex(space)


class TestEdgeVectorIndex(DenseIndexContract):
    adapter = "qdrant-edge"

    async def make(self, folder: Path, space: Space) -> DenseIndex:
        return await EdgeVectorIndex.open(folder, space)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[Space, Path]:
    """Shards that the optimiser made, with graphs however few their points are."""
    parent = tmp_path_factory.mktemp("built")

    async def make(space: Space) -> Path:
        vectors = np.random.default_rng(3).normal(size=(2_000, 8)).astype(np.float32)
        folder = parent / space.distance
        await build(folder, space, paged(np.arange(2_000), vectors), timeout_s=60, exact_below=0)
        return folder

    return {space: asyncio.run(make(space)) for space in (COSINE, DOT)}


class TestBuiltEdgeVectorIndex(DenseIndexContract):
    """A shard that was built once and has been emptied since."""

    adapter = "qdrant-edge, built"

    @pytest.fixture(autouse=True)
    def _built(self, built: dict[Space, Path]) -> None:
        self.built = built

    async def make(self, folder: Path, space: Space) -> DenseIndex:
        shutil.copytree(self.built[space], folder)
        index = await EdgeVectorIndex.open(folder, space)
        await index.delete(np.arange(2_000))
        return index


class QdrantContract(DenseIndexContract):
    """Among points of another tenant in the same collection, which nobody may see."""

    def make_store(self) -> QdrantDenseStore:
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    async def _stores(self) -> AsyncIterator[None]:
        self.stores: list[QdrantDenseStore] = []
        yield
        for store in self.stores:
            await store.close()

    async def make(self, folder: Path, space: Space) -> DenseIndex:  # noqa: ARG002  # a server has its own
        store = self.make_store()
        self.stores.append(store)
        other = await store.create("other", "content.use.0", space)
        await other.upsert(points([1 << 40, 1 << 41], [axis(0), axis(1)], [{"genres": ("drama",)}, {}]))
        return await store.create("acme", "content.use.0", space)


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect", "ignore:Local mode performs exact")
class TestQdrantInMemory(QdrantContract):
    adapter = "qdrant, client's memory"

    def make_store(self) -> QdrantDenseStore:
        return memory_store()


class TestQdrantOnTheWire(QdrantContract):
    adapter = "qdrant, on the wire"

    @pytest.fixture(autouse=True)
    def _server(self, qdrant: QdrantServer) -> None:
        self.address = qdrant.address

    def make_store(self) -> QdrantDenseStore:
        return wire_store(self.address)
