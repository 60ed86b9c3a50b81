"""What every store of collections promises."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from contract.vector_search.qdrant_support import memory_store, wire_store
from servers.qdrant_server import QdrantServer

from servicekit.errors import FailedPreconditionError, NotFoundError
from vector_search.adapters.edge_collections import EdgeDenseStore
from vector_search.adapters.edge_index import EdgeVectorIndex
from vector_search.adapters.exact_collections import ExactDenseStore
from vector_search.domain.dense import Distance, Payload, Points, Space
from vector_search.domain.ports import Collection, DenseStore, Role, name_collection

SPACE = Space(8, Distance.COSINE)
VECTORS = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
TENANT = "acme/eu .."
MODEL = "use-multilingual-3/1.2~3"
FIRST, SECOND, THIRD = (name_collection(MODEL, generation) for generation in range(3))


def points(*numbers: int) -> Points:
    chosen = list(numbers)
    return Points(np.array(chosen, np.int64), VECTORS[chosen], [Payload({"n": float(n)}) for n in chosen])


async def pages(*groups: Points) -> AsyncIterator[Points]:
    for group in groups:
        yield group


class DenseStoreContract:
    """Inherited by the tests of each store, which say how to make one."""

    port = "DenseStore"

    @pytest.fixture
    def store(self) -> DenseStore:
        raise NotImplementedError

    async def test_an_unknown_collection_is_not_found(self, store: DenseStore) -> None:
        assert list(await store.names(TENANT)) == []
        assert list(await store.current(TENANT)) == []
        with pytest.raises(NotFoundError):
            await store.open(TENANT, FIRST)
        with pytest.raises(NotFoundError):
            await store.assign(TENANT, [Collection(FIRST, MODEL)])
        assert list(await store.current(TENANT)) == []
        await store.drop(TENANT, FIRST)

    async def test_collections_are_made_opened_and_dropped(self, store: DenseStore) -> None:
        made = await store.create(TENANT, SECOND, SPACE)
        await made.upsert(points(1, 2, 3))
        assert await store.open(TENANT, SECOND) is made
        other = await store.create("other", SECOND, SPACE)
        assert await other.count() == 0
        await store.drop(TENANT, SECOND)
        assert list(await store.names(TENANT)) == []
        assert list(await store.names("other")) == [SECOND]
        await store.drop(TENANT, SECOND)

    async def test_what_is_there_is_opened_and_never_with_another_size(self, store: DenseStore) -> None:
        await (await store.create(TENANT, FIRST, SPACE)).upsert(points(1, 2, 3))
        assert await (await store.create(TENANT, FIRST, SPACE)).count() == 3
        with pytest.raises(FailedPreconditionError):
            await store.create(TENANT, FIRST, Space(9, Distance.COSINE))

    async def test_a_first_generation_is_each_tenants_own(self, store: DenseStore) -> None:
        for tenant, numbers in ((TENANT, (1, 2, 3)), ("other", (4, 5))):
            index = await store.create(tenant, FIRST, SPACE)
            await store.assign(tenant, [Collection(FIRST, MODEL)])
            await index.upsert(points(*numbers))
        assert {tenant: list(each) for tenant, each in (await store.survey()).items()} == {
            tenant: [Collection(FIRST, MODEL)] for tenant in (TENANT, "other")
        }
        await store.drop(TENANT, FIRST)
        assert await (await store.open("other", FIRST)).count() == 2
        assert await (await store.create(TENANT, FIRST, SPACE)).count() == 0

    async def test_a_build_holds_the_last_point_of_each_key(self, store: DenseStore) -> None:
        again = Points(np.array([2], np.int64), VECTORS[9:10], [Payload()])
        built = await store.build(TENANT, SECOND, SPACE, pages(points(1, 2, 3), again))
        assert await built.count() == 3
        (found,) = await built.search(VECTORS[9:10], limit=1)
        assert found.keys.tolist() == [2]
        assert list(await store.names(TENANT)) == [SECOND]

    async def test_a_build_replaces_what_an_earlier_one_left(self, store: DenseStore) -> None:
        await store.build(TENANT, SECOND, SPACE, pages(points(1)))
        built = await store.build(TENANT, SECOND, SPACE, pages(points(4, 5)))
        assert await built.count() == 2

    async def test_a_build_that_fails_leaves_nothing(self, store: DenseStore) -> None:
        async def broken() -> AsyncIterator[Points]:
            yield points(1)
            raise OSError("the disk is gone")

        with pytest.raises(OSError, match="the disk is gone"):
            await store.build(TENANT, THIRD, SPACE, broken())
        assert list(await store.names(TENANT)) == []

    async def test_places_are_given_in_one_step(self, store: DenseStore) -> None:
        old, new = Collection(FIRST, MODEL), Collection(SECOND, MODEL, role=Role.BUILDING)
        other = Collection(name_collection("other", 3), "other")
        for name in (FIRST, SECOND, other.name):
            await store.create(TENANT, name, SPACE)
        await store.assign(TENANT, [old, other])
        await store.assign(TENANT, [new])
        assert await current(store) == {old, other, new}
        serving, previous = replace(new, role=Role.SERVING), replace(old, role=Role.PREVIOUS)
        await store.assign(TENANT, [serving, previous], vacate=[new])
        assert await current(store) == {serving, previous, other}
        with pytest.raises(NotFoundError):
            await store.assign(TENANT, [old, Collection(THIRD, MODEL, role=Role.BUILDING)])
        assert await current(store) == {serving, previous, other}, "a switch that fails changes nothing"
        await store.assign(TENANT, [old, replace(new, role=Role.PREVIOUS)])
        assert await current(store) == {old, other, replace(new, role=Role.PREVIOUS)}

    async def test_what_serves_is_searched_where_the_place_points_to(self, store: DenseStore) -> None:
        for name, numbers in ((FIRST, (1, 2)), (SECOND, (3, 4, 5))):
            await (await store.create(TENANT, name, SPACE)).upsert(points(*numbers))
        await store.assign(TENANT, [Collection(FIRST, MODEL)])
        assert await (await store.open(TENANT, FIRST)).count() == 2
        await store.assign(TENANT, [Collection(SECOND, MODEL), Collection(FIRST, MODEL, role=Role.PREVIOUS)])
        assert await (await store.open(TENANT, SECOND)).count() == 3
        assert await (await store.open(TENANT, FIRST)).count() == 2


async def current(store: DenseStore) -> set[Collection]:
    return set(await store.current(TENANT))


class TestExactDenseStore(DenseStoreContract):
    adapter = "exact"

    @pytest.fixture
    def store(self) -> DenseStore:
        return ExactDenseStore()


class TestEdgeDenseStore(DenseStoreContract):
    adapter = "qdrant-edge"

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[DenseStore]:
        store = EdgeDenseStore(tmp_path / "dense", build_timeout_s=60.0)
        yield store
        await store.close()

    async def test_everything_is_there_after_a_restart_but_what_was_half_built(self, tmp_path: Path) -> None:
        root = tmp_path / "dense"
        store = EdgeDenseStore(root, build_timeout_s=60.0)
        made = await store.create(TENANT, FIRST, SPACE)
        await made.upsert(points(1, 2, 3))
        await store.assign(TENANT, [Collection(FIRST, MODEL)])
        await store.close()
        (folder,) = root.iterdir()
        (folder / f"{SECOND}.building-1234").mkdir()

        store = EdgeDenseStore(root, build_timeout_s=60.0)
        assert list(await store.survey()) == [TENANT]
        assert list(await store.names(TENANT)) == [FIRST]
        again = await store.open(TENANT, FIRST)
        assert isinstance(again, EdgeVectorIndex)
        assert await again.count() == 3
        assert sorted(path.name for path in folder.iterdir()) == ["content.json", FIRST]
        await store.close()


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect", "ignore:Local mode performs exact")
class TestQdrantInMemory(DenseStoreContract):
    adapter = "qdrant, client's memory"

    @pytest.fixture
    async def store(self) -> AsyncIterator[DenseStore]:
        store = memory_store()
        yield store
        await store.close()


class TestQdrantOnTheWire(DenseStoreContract):
    adapter = "qdrant, on the wire"

    @pytest.fixture
    async def store(self, qdrant: QdrantServer) -> AsyncIterator[DenseStore]:
        store = wire_store(qdrant.address)
        yield store
        await store.close()
