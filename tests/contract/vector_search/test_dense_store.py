"""What every store of collections promises."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from servicekit.errors import NotFoundError
from vector_search.adapters.edge_collections import EdgeDenseStore
from vector_search.adapters.edge_index import EdgeVectorIndex
from vector_search.adapters.exact_collections import ExactDenseStore
from vector_search.domain.dense import Distance, Payload, Points, Space
from vector_search.domain.ports import Collection, DenseStore

SPACE = Space(8, Distance.COSINE)
VECTORS = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
TENANT = "acme/eu .."


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
            await store.open(TENANT, "content.1")
        await store.drop(TENANT, "content.1")

    async def test_collections_are_made_opened_and_dropped(self, store: DenseStore) -> None:
        made = await store.create(TENANT, "content.1", SPACE)
        await made.upsert(points(1, 2, 3))
        assert await store.open(TENANT, "content.1") is made
        other = await store.create("other", "content.1", SPACE)
        assert await other.count() == 0
        assert sorted(await store.tenants()) == sorted([TENANT, "other"])
        await store.drop(TENANT, "content.1")
        assert list(await store.names(TENANT)) == []
        assert list(await store.names("other")) == ["content.1"]

    async def test_a_build_holds_the_last_point_of_each_key(self, store: DenseStore) -> None:
        again = Points(np.array([2], np.int64), VECTORS[9:10], [Payload()])
        built = await store.build(TENANT, "content.2", SPACE, pages(points(1, 2, 3), again))
        assert await built.count() == 3
        (found,) = await built.search(VECTORS[9:10], limit=1)
        assert found.keys.tolist() == [2]
        assert list(await store.names(TENANT)) == ["content.2"]

    async def test_a_build_replaces_what_an_earlier_one_left(self, store: DenseStore) -> None:
        await store.build(TENANT, "content.2", SPACE, pages(points(1)))
        built = await store.build(TENANT, "content.2", SPACE, pages(points(4, 5)))
        assert await built.count() == 2

    async def test_a_build_that_fails_leaves_nothing(self, store: DenseStore) -> None:
        async def broken() -> AsyncIterator[Points]:
            yield points(1)
            raise OSError("the disk is gone")

        with pytest.raises(OSError, match="the disk is gone"):
            await store.build(TENANT, "content.3", SPACE, broken())
        assert list(await store.names(TENANT)) == []

    async def test_what_counts_is_said_in_one_step(self, store: DenseStore) -> None:
        said = [Collection("content.1", "use"), Collection("content.2", "other", 7)]
        await store.create(TENANT, "content.1", SPACE)
        await store.set_current(TENANT, said)
        assert list(await store.current(TENANT)) == said
        await store.set_current(TENANT, said[1:])
        assert list(await store.current(TENANT)) == said[1:]


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
        made = await store.create(TENANT, "content.1", SPACE)
        await made.upsert(points(1, 2, 3))
        await store.set_current(TENANT, [Collection("content.1", "use")])
        await store.close()
        (folder,) = root.iterdir()
        (folder / "content.2.building-1234").mkdir()

        store = EdgeDenseStore(root, build_timeout_s=60.0)
        assert list(await store.tenants()) == [TENANT]
        assert list(await store.names(TENANT)) == ["content.1"]
        again = await store.open(TENANT, "content.1")
        assert isinstance(again, EdgeVectorIndex)
        assert await again.count() == 3
        assert sorted(path.name for path in folder.iterdir()) == ["content.1", "content.json"]
        await store.close()
