"""A state that comes late changes no newer state's vector and brings nothing deleted back, restart or not."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from contract.vector_search.qdrant_support import wire_store
from servers.qdrant_server import QdrantServer

from recommendation.common.v1 import common_pb2
from recommendation.vector_search.v1 import vector_search_pb2 as pb
from servicekit.arrays import Floats, pack_keys
from servicekit.eventlog.memory import MemoryEventLog
from vector_search.adapters.edge_collections import EdgeDenseStore
from vector_search.adapters.stored_payload import decode_mark
from vector_search.domain.dense import Mark
from vector_search.domain.ports import DenseStore
from vector_search.testing import TENANT, Replica, key, make_item, running

NEW, OLD = (np.eye(16, dtype=np.float32)[[place]] for place in (0, 1))


class Site:
    """A service whose store outlives it; its log is empty, so that it knows no more than what is stored."""

    def __init__(self, folder: Path, log: MemoryEventLog, make_store: Callable[[], DenseStore]) -> None:
        self._folder = folder
        self._log = log
        self._make_store = make_store

    @asynccontextmanager
    async def started(self) -> AsyncIterator[Replica]:
        """Run it until the block is left."""
        async with AsyncExitStack() as opened:
            store = self._make_store()
            opened.push_async_callback(store.close)
            yield await opened.enter_async_context(running(Replica(self._folder / "models", self._log, store)))


@pytest.fixture(params=["edge", "qdrant"])
def site(request: pytest.FixtureRequest, tmp_path: Path, log: MemoryEventLog, qdrant: QdrantServer) -> Site:
    prefix = uuid4().hex
    if request.param == "edge":
        return Site(tmp_path, log, lambda: EdgeDenseStore(tmp_path / "dense", build_timeout_s=20.0))
    return Site(tmp_path, log, lambda: wire_store(qdrant.address, prefix=prefix))


def at(at_ms: int, item_id: str = "x") -> common_pb2.Item:
    return make_item(TENANT, item_id, updated_at_ms=at_ms)


async def put(replica: Replica, item: common_pb2.Item, vector: Floats | None) -> bool:
    """Upsert, and tell whether it counted."""
    (result,) = (await replica.upsert([item], vector, neighbours=3)).results
    assert not result.HasField("error"), result.error
    return not result.superseded


async def delete(replica: Replica, item_id: str, *at_ms: int) -> None:
    request = pb.DeleteItemsRequest(
        tenant=TENANT, item_keys=pack_keys([key(item_id)]), deleted_at_ms=pack_keys(list(at_ms))
    )
    await replica.stub.DeleteItems(request)


async def stored(replica: Replica, item_id: str = "x") -> list[float]:
    """Give an item's vector, empty when it has none."""
    (found,) = await replica.service.embeddings.vectors(TENANT, np.array([key(item_id)], np.int64))
    return [] if found is None else found.tolist()


async def test_an_older_state_leaves_the_newer_ones_vector(site: Site) -> None:
    async with site.started() as replica:
        assert await put(replica, at(200), NEW)
        assert not await put(replica, at(100), OLD)
        assert await put(replica, at(200), NEW), "the same once more counts"
        assert await put(replica, at(300), None), "so does a later state of the same text"
    async with site.started() as replica:
        assert not await put(replica, at(250), OLD)
        assert not await put(replica, at(299), None)
        assert await stored(replica) == NEW[0].tolist()
        assert await put(replica, at(301), OLD)
        assert await stored(replica) == OLD[0].tolist()


async def test_what_is_deleted_stays_so_until_a_later_state(site: Site) -> None:
    async with site.started() as replica:
        assert await put(replica, at(200), NEW)
        await delete(replica, "x", 300)
        assert not await put(replica, at(100), OLD)
    async with site.started() as replica:
        await delete(replica, "x", 250)
        assert not await put(replica, at(299), OLD)
        assert await stored(replica) == []
        assert await put(replica, at(300), NEW), "of two at the same moment the one that comes later counts"
        await delete(replica, "x", 299)
        assert await stored(replica) == NEW[0].tolist(), "the deletion is older"
        assert (await replica.describe()).embedded_items == 1
        await delete(replica, "never there", 400)
        assert not await put(replica, at(399, "never there"), NEW)


async def test_a_deletion_without_a_time_takes_what_there_is(site: Site) -> None:
    async with site.started() as replica:
        assert await put(replica, at(200), NEW)
        await delete(replica, "x")
        assert await stored(replica) == []
        assert await put(replica, at(100), OLD)


async def test_within_one_request_the_later_state_counts(site: Site) -> None:
    async with site.started() as replica:
        answer = await replica.upsert([at(200), at(100)], np.concatenate([NEW, OLD]))
        assert [result.superseded for result in answer.results] == [False, True]
        assert await stored(replica) == NEW[0].tolist()


def test_a_point_of_before_has_no_time() -> None:
    assert decode_mark({"model_id": "use", "content_hash": "h"}) == Mark("use", "h", 0)
