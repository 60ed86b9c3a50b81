"""What only the qdrant-edge adapter can do wrong: processes that die, folders in use, builds, its graph's recall."""

import asyncio
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qdrant_edge

from servicekit.arrays import Floats
from servicekit.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
)
from servicekit.folders import bring_to_disk
from vector_search.adapters import edge_build, edge_folder, edge_index, edge_log
from vector_search.adapters.edge_build import build, paged
from vector_search.adapters.edge_folder import edge_errors, sweep
from vector_search.adapters.edge_index import FLUSH_AFTER, EdgeVectorIndex
from vector_search.adapters.edge_log import bring_log_to_disk
from vector_search.adapters.exact_index import ExactVectorIndex
from vector_search.domain.dense import Distance, Payload, Points, Space
from vector_search.domain.recall import measure_recall

SPACE = Space(32, Distance.COSINE)

WRITES_UNTIL_KILLED = """
import asyncio, sys
from pathlib import Path
import numpy as np
from vector_search.adapters.edge_index import EdgeVectorIndex
from vector_search.domain.dense import Distance, Payload, Points, Space

async def main():
    folder, start, flush_after = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    index = await EdgeVectorIndex.open(folder, Space(32, Distance.COSINE), flush_after=flush_after)
    while True:
        keys = np.arange(start, start + 7)
        vectors = np.random.default_rng(start).normal(size=(7, 32)).astype(np.float32)
        await index.upsert(Points(keys, vectors, [Payload({f"field{start % 3}": "x", "at": float(start)})] * 7))
        await index.set_attributes(keys[:1], [{"changed": True}], [1])
        await index.delete(keys[1:2])
        print(start, flush=True)
        start += 7

asyncio.run(main())
"""


class CountsFlushes:
    """The engine's shard, and how often its log was shortened."""

    def __init__(self, shard: Any) -> None:
        self._shard = shard
        self.flushes = 0

    def flush(self) -> None:
        self.flushes += 1
        self._shard.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shard, name)


def clustered(rows: int, dimensions: int, *, seed: int = 0, spread: float = 0.6, clusters: int = 100) -> Floats:
    random = np.random.default_rng(seed)
    centres = random.normal(size=(clusters, dimensions))
    vectors = centres[random.integers(0, clusters, rows)] + spread * random.normal(size=(rows, dimensions))
    return np.ascontiguousarray(vectors, dtype=np.float32)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def build_random(folder: Path, rows: int = 50) -> int:
    return await build(folder, SPACE, paged(np.arange(rows), clustered(rows, 32)), timeout_s=60)


async def write_until_killed(folder: Path, *, start: int, batches: int, flush_after: int) -> int:
    """Let a process write batches of seven points, kill it after so many, and give where the next would begin."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WRITES_UNTIL_KILLED, str(folder), str(start), str(flush_after)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    for _ in range(batches):
        acknowledged = int(await process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    # Lines that it wrote before it died count as well.
    rest = (await process.communicate())[0].split()
    return (int(rest[-1]) if rest else acknowledged) + 7


async def check_acknowledged(index: EdgeVectorIndex, *, end: int) -> None:
    """Check that everything is as `write_until_killed` left it, and remove what was not acknowledged."""
    kept = {int(key): payload async for page in index.scroll(100) for key, payload in zip(page.keys, page.payloads)}  # noqa: B905
    for first in range(0, end, 7):
        assert first + 1 not in kept
        assert kept[first].attributes == {"changed": True}
        for key in range(first + 2, first + 7):
            assert kept[key].attributes == {f"field{first % 3}": "x", "at": float(first)}
    for first in (0, end - 7):
        vectors = np.random.default_rng(first).normal(size=(7, 32)).astype(np.float32)
        (found,) = await index.search(vectors[6:], limit=1)
        assert found.keys.tolist() == [first + 6]
    await index.delete(np.array([key for key in kept if key >= end], dtype=np.int64))


@pytest.mark.parametrize("flush_after", [1, 20, FLUSH_AFTER])
async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path, flush_after: int) -> None:
    folder = tmp_path / "content"
    end = 0
    for batches in (1, 4, 30):
        end = await write_until_killed(folder, start=end, batches=batches, flush_after=flush_after)
        index = await EdgeVectorIndex.open(folder, SPACE)
        await check_acknowledged(index, end=end)
        await index.close()


async def test_what_was_acknowledged_is_in_the_log_alone(tmp_path: Path) -> None:
    """After a loss of power nothing else may have reached the disk."""
    folder, elsewhere = tmp_path / "content", tmp_path / "as it was"
    await (await EdgeVectorIndex.open(folder, SPACE)).close()
    shutil.copytree(folder / "shard" / "segments", elsewhere)
    end = await write_until_killed(folder, start=0, batches=30, flush_after=10**9)
    shutil.rmtree(folder / "shard" / "segments")
    shutil.copytree(elsewhere, folder / "shard" / "segments")
    index = await EdgeVectorIndex.open(folder, SPACE)
    await check_acknowledged(index, end=end)
    await index.close()


async def test_a_write_returns_when_the_log_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = await EdgeVectorIndex.open(tmp_path / "content", SPACE)
    brought: list[Path] = []
    monkeypatch.setattr(edge_index, "bring_log_to_disk", brought.append)
    one = np.array([1])
    for times, write in enumerate(
        (
            index.upsert(Points(one, clustered(1, 32), [Payload()])),
            index.set_attributes(one, [{"new": True}], [1]),
            index.delete(one),
        ),
        start=1,
    ):
        await write
        assert brought == [tmp_path / "content"] * times
    await index.search(clustered(1, 32), limit=1)
    assert len(brought) == 3
    await index.close()


def test_the_engine_may_rename_its_log_while_it_is_brought_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "shard" / "wal"
    log.mkdir(parents=True)
    (log / "open-1").touch()
    brought: list[str] = []

    def bring(path: Path) -> None:
        if not brought and path.name == "open-1":
            path.rename(log / "closed-0")
            (log / "open-2").touch()
        bring_to_disk(path)
        brought.append(path.name)

    monkeypatch.setattr(edge_log, "bring_to_disk", bring)
    bring_log_to_disk(tmp_path)
    assert sorted(brought) == ["closed-0", "open-2", "wal"]


def test_a_log_that_cannot_be_brought_to_the_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnavailableError, match="No such file"):
        bring_log_to_disk(tmp_path)

    def fail(path: Path) -> None:
        raise OSError(5, f"Input/output error: {path.name}")

    (tmp_path / "shard" / "wal").mkdir(parents=True)
    monkeypatch.setattr(edge_log, "bring_to_disk", fail)
    with pytest.raises(UnavailableError, match="cannot be brought to the disk"):
        bring_log_to_disk(tmp_path)


async def test_the_log_is_shortened_now_and_then(tmp_path: Path) -> None:
    index = await EdgeVectorIndex.open(tmp_path / "content", SPACE, flush_after=50)
    shard = index._shard = CountsFlushes(index._shard)
    for first in range(0, 120, 10):
        await index.upsert(Points(np.arange(first, first + 10), clustered(10, 32), [Payload()] * 10))
    assert shard.flushes == 2
    await index.set_attributes(np.arange(20), [{"new": True}] * 20, [1] * 20)
    await index.delete(np.arange(9))
    assert shard.flushes == 2
    await index.delete(np.arange(9, 10))
    assert shard.flushes == 3
    await index.close()


async def test_a_folder_in_use_says_what_to_do(tmp_path: Path) -> None:
    index = await EdgeVectorIndex.open(tmp_path / "content", SPACE)
    with pytest.raises(FailedPreconditionError, match="another process has it open: stop that one"):
        await EdgeVectorIndex.open(tmp_path / "content", SPACE)
    await index.close()
    await (await EdgeVectorIndex.open(tmp_path / "content", SPACE)).close()


async def test_a_folder_with_other_vectors_is_refused(tmp_path: Path) -> None:
    await (await EdgeVectorIndex.open(tmp_path / "content", SPACE)).close()
    for other in (Space(33, Distance.COSINE), Space(32, Distance.DOT)):
        with pytest.raises(FailedPreconditionError, match="holds"):
            await EdgeVectorIndex.open(tmp_path / "content", other)
    (tmp_path / "content" / "index.json").write_text('{"format": 2}')
    with pytest.raises(FailedPreconditionError, match="format 2"):
        await EdgeVectorIndex.open(tmp_path / "content", SPACE)
    (tmp_path / "content" / "index.json").write_text('{"form')
    with pytest.raises(FailedPreconditionError, match="damaged"):
        await EdgeVectorIndex.open(tmp_path / "content", SPACE)


async def test_a_half_built_folder_is_swept_and_never_opened(tmp_path: Path) -> None:
    half = edge_folder.building_folder(tmp_path / "content")
    edge_folder.create_shard(half, SPACE).close()
    whole = await EdgeVectorIndex.open(tmp_path / "whole", SPACE)
    assert not (tmp_path / "content").exists()
    assert sweep(tmp_path) == [half]
    assert sweep(tmp_path) == []
    assert sweep(tmp_path / "never made") == []
    assert await whole.count() == 0
    await whole.close()


async def test_a_built_folder_holds_what_was_given(tmp_path: Path) -> None:
    vectors = clustered(50, 32)
    payloads = (Payload({"place": float(place)}) for place in range(50))
    keys = np.arange(50)
    keys[49] = 0  # the last one wins
    assert await build(tmp_path / "v1", SPACE, paged(keys, vectors, payloads, page_size=7), timeout_s=60) == 49
    index = await EdgeVectorIndex.open(tmp_path / "v1", SPACE)
    (page,) = [page async for page in index.scroll(100)]
    assert page.keys.tolist() == list(range(49))
    assert [payload.attributes["place"] for payload in page.payloads] == [49.0, *range(1, 49)]
    assert page.vectors[1:] == pytest.approx(vectors[1:49] / np.linalg.norm(vectors[1:49], axis=1, keepdims=True))

    # From one shard into the next, beside it.
    assert await build(tmp_path / "v2", SPACE, index.scroll(10), timeout_s=60) == 49
    assert names_in(tmp_path) == ["v1", "v2"]
    assert names_in(tmp_path / "v2") == ["index.json", "shard"]
    await index.close()


async def test_an_empty_build_is_whole(tmp_path: Path) -> None:
    assert await build_random(tmp_path / "v1", rows=0) == 0
    index = await EdgeVectorIndex.open(tmp_path / "v1", SPACE)
    await index.upsert(Points(np.arange(3), clustered(3, 32), [Payload()] * 3))
    assert await index.count() == 3
    await index.close()


async def test_a_failed_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = clustered(50, 32)
    bad[30, 3] = np.nan
    with pytest.raises(InvalidArgumentError):
        await build(tmp_path / "v1", SPACE, paged(np.arange(50), bad, page_size=10), timeout_s=60)
    with pytest.raises(InvalidArgumentError):
        await build(tmp_path / "v1", SPACE, paged(np.arange(50), bad[:20], page_size=10), timeout_s=60)
    with pytest.raises(UnavailableError, match="took over"):
        await build(tmp_path / "v1", SPACE, paged(np.arange(5), bad[:5]), timeout_s=0.001)

    async def cut_off() -> AsyncIterator[Points]:
        yield Points(np.arange(5), bad[:5], [Payload()] * 5)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await build(tmp_path / "v1", SPACE, cut_off(), timeout_s=60)
    monkeypatch.setattr(edge_build, "_ORDER", "lost.json")
    with pytest.raises(UnavailableError, match=r"failed with code 1: FileNotFoundError.*order\.json"):
        await build_random(tmp_path / "v1")
    assert names_in(tmp_path) == []


async def test_a_build_never_replaces_a_folder(tmp_path: Path) -> None:
    await build_random(tmp_path / "v1")
    with pytest.raises(FailedPreconditionError, match="exists already"):
        await build_random(tmp_path / "v1")
    assert names_in(tmp_path) == ["v1"]


async def test_a_search_need_not_wait_for_a_large_write(tmp_path: Path) -> None:
    index = await EdgeVectorIndex.open(tmp_path / "content", SPACE)
    writing = asyncio.create_task(index.upsert(Points(np.arange(3_000), clustered(3_000, 32), [Payload()] * 3_000)))
    searches = 0
    while not writing.done():
        await index.search(clustered(1, 32), limit=5)
        searches += 1
    assert searches > 10
    assert await index.count() == 3_000
    await index.set_attributes(np.arange(3_000), [{"place": float(place)} for place in range(3_000)], [1] * 3_000)
    (page,) = [page async for page in index.scroll(3_000)]
    assert [payload.attributes["place"] for payload in page.payloads] == list(range(3_000))
    await index.close()


async def test_the_loop_turns_while_a_shard_is_built(tmp_path: Path) -> None:
    turns = 0
    building = asyncio.create_task(
        build(tmp_path / "v1", SPACE, paged(np.arange(3_000), clustered(3_000, 32)), timeout_s=60, exact_below=0)
    )
    while not building.done():
        await asyncio.sleep(0.01)
        turns += 1
    assert await building == 3_000
    assert turns > 5


@pytest.mark.parametrize("distance", list(Distance))
async def test_the_graph_finds_what_exact_search_finds(tmp_path: Path, distance: Distance) -> None:
    space = Space(64, distance)
    vectors = clustered(5_000, 64)
    if distance is Distance.DOT:
        # Lengths as wide apart as popularity makes them in factors.
        vectors *= np.random.default_rng(1).lognormal(sigma=0.7, size=(5_000, 1)).astype(np.float32)
    await build(tmp_path / "v1", space, paged(np.arange(5_000), vectors), timeout_s=60, exact_below=0)
    graph = await EdgeVectorIndex.open(tmp_path / "v1", space, exact_below=0)
    assert graph._shard.info().indexed_vectors_count == 5_000
    report = await measure_recall(graph, samples=60, selectivities=(1, 0.5, 0.1, 0.01), seed=3)
    assert report.points == 5_000
    for measurement in report.measurements:
        assert measurement.recall >= 0.99, measurement
    await graph.close()


async def test_few_points_are_all_compared(tmp_path: Path) -> None:
    vectors = clustered(2_000, 32)
    index, truth = await EdgeVectorIndex.open(tmp_path / "v1", SPACE), ExactVectorIndex(SPACE)
    for each in (index, truth):
        await each.upsert(Points(np.arange(2_000), vectors, [Payload()] * 2_000))
    found = await index.search(vectors[:50], limit=20)
    expected = await truth.search(vectors[:50], limit=20)
    assert [neighbours.keys.tolist() for neighbours in found] == [neighbours.keys.tolist() for neighbours in expected]
    for neighbours, right in zip(found, expected, strict=True):
        assert neighbours.scores == pytest.approx(right.scores, abs=1e-6)
    assert {each.recall for each in (await measure_recall(index, samples=50)).measurements} == {1.0}
    await index.close()


async def test_indexes_come_with_the_attributes_and_have_a_bound(tmp_path: Path) -> None:
    index = await EdgeVectorIndex.open(tmp_path / "v1", SPACE)
    vectors = clustered(2, 32)
    await index.upsert(
        Points(np.arange(2), vectors, [Payload({"genres": ("a",)}), Payload({"year": 1.0, "new": True})])
    )
    schema = index._shard.info().payload_schema
    assert {path: info.data_type for path, info in schema.items()} == {
        "attributes.names": qdrant_edge.PayloadSchemaType.Keyword,
        "sample": qdrant_edge.PayloadSchemaType.Float,
        "attributes.t_genres": qdrant_edge.PayloadSchemaType.Keyword,
        "attributes.n_year": qdrant_edge.PayloadSchemaType.Float,
        "attributes.b_new": qdrant_edge.PayloadSchemaType.Keyword,
    }
    await index.close()

    index = await EdgeVectorIndex.open(tmp_path / "v1", SPACE)
    assert index._indexed == set(schema)
    await index.close()


def test_every_meaning_of_the_engines_errors() -> None:
    folder = Path("vectors")
    raised: dict[str, type[ServiceError]] = {}
    for part, kind, _ in edge_folder._MEANINGS:
        with pytest.raises(ServiceError) as told, edge_errors(folder):
            raise Exception(f"Service runtime error: {part}")  # noqa: TRY002  # the engine raises nothing better
        assert type(told.value) is kind
        raised[part] = type(told.value)
    assert set(raised.values()) == {FailedPreconditionError, ResourceExhaustedError}
    with pytest.raises(UnavailableError, match="something new"), edge_errors(folder):
        raise Exception("something new")  # noqa: TRY002  # as above
    with pytest.raises(TypeError), edge_errors(folder):
        raise TypeError


def test_a_panic_of_the_engine_is_an_error_of_ours(tmp_path: Path) -> None:
    config = qdrant_edge.EdgeConfig(sparse_vectors={"words": qdrant_edge.EdgeSparseVectorParams()})
    shard = qdrant_edge.EdgeShard.create(str(tmp_path), config)
    torn = qdrant_edge.SparseVector([1, 2], [1.0])
    with pytest.raises(UnavailableError, match="failed inside the engine"), edge_errors(tmp_path):
        shard.update(qdrant_edge.UpdateOperation.upsert_points([qdrant_edge.Point(1, {"words": torn})]))
