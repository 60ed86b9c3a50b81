"""A replica's state is a version plus the tail of the log: overlay, versions, restarts."""

import asyncio
import json
from pathlib import Path

import grpc
import numpy as np
import pytest

from recommendation.vector_search.v1 import vector_search_pb2 as pb
from servicekit.arrays import Floats, pack_floats
from servicekit.errors import UnavailableError
from servicekit.eventlog.memory import MemoryEventLog
from servicekit.eventlog.port import NewRecord
from servicekit.eventlog.topics import CONTENT_CHANGED
from servicekit.testing import eventually
from vector_search import bootstrap
from vector_search.adapters.exact_collections import ExactDenseStore
from vector_search.testing import (
    COUNT,
    TENANT,
    V1,
    V2,
    V3,
    Replica,
    activate,
    draft,
    film,
    key,
    make_item,
    running,
    vectors,
)

ALL = [key(f"f{number}") for number in range(COUNT)]


async def embed_all(replica: Replica, count: int = COUNT) -> None:
    """Do what gpu_worker does with a new catalogue."""
    films = [film(number) for number in range(count)]
    await replica.put(*films, at_ms=1_000)
    answer = await replica.upsert(films, vectors(count), neighbours=5)
    for item, result in zip(films, answer.results, strict=True):
        keys = np.frombuffer(result.neighbour_keys, np.int64).tolist()
        await replica.embedded(item, keys, np.frombuffer(result.neighbour_scores, np.float32).tolist())


async def nearest(replica: Replica, vector: Floats, collection: pb.Collection.ValueType) -> list[int]:
    query = pb.SearchByVectorRequest.Query(tenant=TENANT, vector=pack_floats(vector), collection=collection)
    (result,) = (await replica.stub.SearchByVector(pb.SearchByVectorRequest(queries=[query]))).results
    found: list[int] = np.frombuffer(result.item_keys, np.int64).tolist()
    return found


async def refused(replica: Replica, version: str) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await replica.activate(version)
    return caught.value.code()


async def test_before_any_training_content_answers(replica: Replica) -> None:
    await embed_all(replica)
    keys, features, names, result = await replica.candidates([ALL[10]], limit=5)
    assert names == ["content", "nearest", "factors"]
    assert len(keys) == 5
    assert features[0].any()
    assert result.model_version == ""
    described = await replica.describe()
    assert (described.overlay_items, described.embedded_items, len(described.versions)) == (COUNT, COUNT, 0)


async def test_a_new_item_is_linked_both_ways_at_once(trained: Replica) -> None:
    fresh = make_item(TENANT, "fresh", genres=("war",))
    await trained.put(fresh)
    await trained.embedded(fresh, [ALL[10], ALL[20]], [0.9, 0.8])
    keys, *_ = await trained.candidates([ALL[10]], limit=5)
    assert key("fresh") in keys
    keys, *_ = await trained.candidates([key("fresh")], limit=5)
    assert set(keys) == {ALL[10], ALL[20]}
    assert (await trained.describe()).overlay_items == 1


async def test_embedding_again_replaces_the_neighbours(trained: Replica) -> None:
    fresh = make_item(TENANT, "fresh")
    await trained.embedded(fresh, [ALL[10]], [0.9])
    await trained.embedded(fresh, [ALL[30]], [0.9])
    keys, *_ = await trained.candidates([ALL[10]], limit=40)
    assert key("fresh") not in keys
    keys, *_ = await trained.candidates([ALL[30]], limit=40)
    assert key("fresh") in keys


async def test_an_older_embedding_that_comes_late_links_nothing(trained: Replica) -> None:
    await trained.embedded(make_item(TENANT, "fresh", updated_at_ms=2_000), [ALL[30]], [0.9])
    await trained.embedded(make_item(TENANT, "fresh", updated_at_ms=1_999), [ALL[10]], [0.9])
    keys, *_ = await trained.candidates([ALL[10]], limit=40)
    assert key("fresh") not in keys
    keys, *_ = await trained.candidates([ALL[30]], limit=40)
    assert key("fresh") in keys


async def test_changes_reach_masks_at_once(trained: Replica) -> None:
    async def fulfilling(genre: str) -> set[int]:
        predicate = {"field": "genres", "operator": 1, "values": [{"text": genre}]}
        keys, *_ = await trained.candidates([ALL[10]], limit=40, filter={"predicates": [predicate]})
        return set(keys)

    assert ALL[11] in await fulfilling("war")
    await trained.put(film(11, genres=("noir",)))
    assert ALL[11] not in await fulfilling("war")
    assert await fulfilling("noir") == {ALL[11]}
    await trained.put(make_item(TENANT, "f11", hidden=True, genres=("noir",)), at_ms=3_000)
    assert await fulfilling("noir") == set()
    await trained.put(film(11, genres=("noir",)), at_ms=2_500)
    assert await fulfilling("noir") == set(), "an older state does not count"
    await trained.put(film(11, genres=("noir",)), at_ms=4_000)
    assert await fulfilling("noir") == {ALL[11]}
    await trained.delete(film(11), at_ms=5_000)
    assert await fulfilling("noir") == set()


async def test_an_availability_window_opens_and_closes_by_the_clock(trained: Replica) -> None:
    item = film(11)
    now = trained.clock.now_ms()
    item.available_from_ms, item.available_until_ms = now + 1_000, now + 2_000
    await trained.put(item)

    async def is_there() -> bool:
        keys, *_ = await trained.candidates([ALL[10]], limit=40)
        return ALL[11] in keys

    assert not await is_there()
    trained.clock.advance(1_000)
    assert await is_there()
    trained.clock.advance(1_000)
    assert not await is_there()


async def test_activation_switches_and_rolls_back(trained: Replica) -> None:
    for name in (V2, V3):
        draft(name, trained_at_ms=int(name[:8])).write(trained.models)
    first = await trained.activate(V2)
    assert (first.previous_version, first.recall_at_10) == (V1, 1.0)
    again = await trained.activate(V2)
    assert (again.previous_version, again.recall_at_10) == (V1, 1.0)
    assert (await trained.activate(V3)).previous_version == V2
    described = await trained.describe()
    assert [(each.version, each.active, each.previous, each.items) for each in described.versions] == [
        (V3, True, False, COUNT),
        (V2, False, True, COUNT),
    ]
    assert json.loads(described.serving_json)["version"] == V3
    assert (await trained.activate(V2)).previous_version == V3
    *_, result = await trained.candidates([ALL[1]])
    assert result.model_version == V2


async def test_what_cannot_be_served_is_refused_and_the_active_one_goes_on(trained: Replica) -> None:
    assert await refused(trained, V2) is grpc.StatusCode.NOT_FOUND
    assert await refused(trained, "../acme") is grpc.StatusCode.NOT_FOUND

    def broken(name: str, file: str, content: bytes) -> str:
        (draft(name).write(trained.models) / file).write_bytes(content)
        return name

    names = [f"20240105T000000-0000000{number}" for number in range(4)]
    damaged = grpc.StatusCode.FAILED_PRECONDITION
    assert await refused(trained, broken(names[0], "cooccurrence.indices.npy", b"nonsense")) is damaged
    assert await refused(trained, broken(names[1], "manifest.json", b"{")) is damaged
    folder = draft(names[2]).write(trained.models)
    indices = np.load(folder / "content.indices.npy")
    indices[3] = COUNT
    np.save(folder / "content.indices.npy", indices)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["checksums"] = {"items.bin": manifest["checksums"]["items.bin"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert await refused(trained, names[2]) is damaged
    draft(names[3], vectors=np.full((COUNT, 16), np.nan, np.float32)).write(trained.models)
    assert await refused(trained, names[3]) is not grpc.StatusCode.OK
    *_, result = await trained.candidates([ALL[1]])
    assert result.model_version == V1
    assert [each.version for each in (await trained.describe()).versions] == [V1]


async def test_dropping_frees_the_previous_and_never_the_active(trained: Replica) -> None:
    draft(V2).write(trained.models)
    await trained.activate(V2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await trained.stub.DropVersion(pb.DropVersionRequest(tenant=TENANT, version=V2))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    await trained.stub.DropVersion(pb.DropVersionRequest(tenant=TENANT, version=V1))
    assert [each.version for each in (await trained.describe()).versions] == [V2]


async def test_a_new_version_takes_the_tail_over(trained: Replica) -> None:
    fresh = make_item(TENANT, "fresh", genres=("war",))
    await trained.put(fresh)
    await trained.embedded(fresh, [ALL[10]], [0.9])
    await trained.delete(film(12))
    draft(V2).write(trained.models)
    await trained.activate(V2)
    keys, *_ = await trained.candidates([ALL[10]], limit=40)
    assert key("fresh") in keys
    assert ALL[12] not in keys


async def test_a_version_does_not_hear_again_what_it_knows(trained: Replica) -> None:
    await trained.delete(film(12), at_ms=3_000)
    position = {
        CONTENT_CHANGED: {
            str(where.partition): end for where, end in (await trained.log.end_offsets((CONTENT_CHANGED,))).items()
        }
    }
    draft(V2, log_position=position).write(trained.models)
    await trained.activate(V2)
    keys, *_ = await trained.candidates([ALL[10]], limit=40)
    assert ALL[12] in keys, "the version was made after the deletion and has the item: it came back"


async def test_published_versions_are_followed(trained: Replica) -> None:
    draft(V2).write(trained.models)
    await trained.publish("20240109T000000-0000000f")  # cannot be served: told and left out
    await trained.publish(V2)

    async def serves() -> bool:
        *_, result = await trained.candidates([ALL[1]])
        return result.model_version == V2

    await eventually(serves)


async def test_a_published_version_whose_files_come_later_is_served_then(
    trained: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "_ACTIVATE_AGAIN_S", 0.05)
    await trained.publish(V2)
    await asyncio.sleep(0.2)  # tried in vain, more than once
    draft(V2).write(trained.models)

    async def serves() -> bool:
        *_, result = await trained.candidates([ALL[1]])
        return result.model_version == V2

    await eventually(serves)


async def test_records_that_cannot_be_read_are_passed_over(trained: Replica) -> None:
    await trained.log.producer().append(
        [
            NewRecord(CONTENT_CHANGED, f"{TENANT}/film/f1", b"\xff\xff"),
            NewRecord(CONTENT_CHANGED, f"{TENANT}/film/f1", b""),
        ]
    )
    await trained.put(make_item(TENANT, "f11", hidden=True))
    keys, *_ = await trained.candidates([ALL[10]], limit=40)
    assert ALL[11] not in keys


async def test_a_restart_gives_the_same_answers(tmp_path: Path, log: MemoryEventLog) -> None:
    models, dense = tmp_path / "models", ExactDenseStore()
    draft().write(models, active=True)
    async with running(Replica(models, log, dense)) as replica:
        await embed_all(replica)
        fresh = make_item(TENANT, "fresh", genres=("war",))
        await replica.put(fresh)
        await replica.embedded(fresh, [ALL[10], ALL[20]], [0.9, 0.8])
        draft(V2).write(models)
        await replica.activate(V2)
        activate(models, TENANT, V2)
        await replica.delete(film(13))
        before = [await replica.candidates([ALL[number]], limit=30) for number in range(COUNT)]
    async with running(Replica(models, log, dense)) as replica:
        after = [await replica.candidates([ALL[number]], limit=30) for number in range(COUNT)]
        assert [each[3] for each in after] == [each[3] for each in before]
        assert (await replica.describe()).embedded_items == COUNT
        found = await nearest(replica, np.ones(8, np.float32), pb.COLLECTION_FACTORS)
        assert len(found) == 10


async def test_a_replica_with_an_empty_disk_makes_its_vectors_from_the_version(
    tmp_path: Path, log: MemoryEventLog
) -> None:
    draft().write(tmp_path / "models", active=True)
    async with running(Replica(tmp_path / "models", log, ExactDenseStore())) as replica:
        assert (await replica.describe()).embedded_items == 0
        await replica.service.versions.restore_content()
        assert (await replica.describe()).embedded_items == COUNT
        kept = replica.service.versions._content.serving(TENANT, "")
        await replica.service.versions.restore_content()  # what is there stays
        assert replica.service.versions._content.serving(TENANT, "") is kept


async def test_a_damaged_active_version_does_not_keep_the_service_down(tmp_path: Path, log: MemoryEventLog) -> None:
    folder = draft().write(tmp_path / "models", active=True)
    (folder / "item_keys.npy").unlink()
    async with running(Replica(tmp_path / "models", log, ExactDenseStore())) as replica:
        await embed_all(replica)
        keys, *_ = await replica.candidates([ALL[10]], limit=5)
        assert len(keys) == 5


async def test_another_encoder_has_a_collection_of_its_own(trained: Replica) -> None:
    await trained.upsert([film(number) for number in range(COUNT)], vectors())
    await trained.upsert([film(number) for number in range(10)], vectors()[:10, :8], model_id="bigger")
    described = await trained.describe()
    assert described.embedded_items == COUNT, "the active version's encoder is searched"
    draft(V2, vectors=vectors()[:, :8], encoder="bigger").write(trained.models)
    await trained.activate(V2)
    assert (await trained.describe()).embedded_items == COUNT
    assert (await nearest(trained, vectors()[3, :8], pb.COLLECTION_CONTENT))[0] == ALL[3]


async def test_without_the_dense_index_the_tables_still_answer(
    trained: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    await trained.upsert([film(number) for number in range(COUNT)], vectors())
    collection = trained.service.retrieval._content.serving(TENANT, "use")
    assert collection is not None

    async def broken(*_: object, **__: object) -> None:
        raise UnavailableError("the disk is gone")

    monkeypatch.setattr(collection.index, "vectors", broken)
    keys, features, *_ = await trained.candidates([ALL[10]], limit=30)
    assert keys
    assert not features[3].any()
