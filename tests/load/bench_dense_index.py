"""Measures the dense index: how long a build and a search take, what the search finds, how much memory it holds."""

import asyncio
import json
import os
import sys
import tempfile
import time
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

from servicekit.arrays import Floats, Keys
from servicekit.filters import Operator, Predicate
from vector_search.adapters.edge_build import build, paged
from vector_search.adapters.edge_index import EdgeVectorIndex
from vector_search.adapters.qdrant_collections import QdrantDenseStore, QdrantLayout
from vector_search.adapters.qdrant_connection import QdrantConnection, connect
from vector_search.domain.dense import DenseIndex, Distance, Payload, Points, Space
from vector_search.domain.recall import measure_recall

_PAGE = os.sysconf("SC_PAGE_SIZE")


def clustered(rows: int, dimensions: int, *, seed: int, distance: Distance) -> Floats:
    """Draw vectors around random centres; for products of lengths as wide apart as popularity makes them."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(max(rows // 100, 2), dimensions)).astype(np.float32)
    vectors = centres[random.integers(0, len(centres), rows)]
    vectors += 0.6 * random.standard_normal((rows, dimensions), dtype=np.float32)
    if distance is Distance.DOT:
        vectors *= random.lognormal(sigma=0.7, size=(rows, 1)).astype(np.float32)
    return vectors


def resident_mb() -> float:
    """Give the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / 2**20


async def milliseconds(index: DenseIndex, queries: Floats, *, limit: int, genre: str | None = None) -> dict[str, float]:
    """Search one by one and give the median and the 99th percentile."""
    conditions = (Predicate("genres", Operator.EQ, (genre,)),) if genre else ()
    taken = []
    for query in queries:
        began = time.perf_counter()
        await index.search(query[None], limit=limit, conditions=conditions)
        taken.append(1_000 * (time.perf_counter() - began))
    return {"p50_ms": round(float(np.median(taken)), 3), "p99_ms": round(float(np.percentile(taken, 99)), 3)}


@asynccontextmanager
async def built(url: str, folder: Path, space: Space, pages: AsyncIterator[Points]) -> AsyncIterator[DenseIndex]:
    """Build an index in a folder, or on the server at a URL, and take it away again."""
    if not url:
        await build(folder / "built", space, pages, timeout_s=3_600)
        index = await EdgeVectorIndex.open(folder / "built", space)
        yield index
        await index.close()
        return
    connection = QdrantConnection(connect(url, api_key="", rest_port=6333, timeout_s=60.0), timeout_s=60.0)
    store = QdrantDenseStore(connection, prefix="bench", layout=QdrantLayout(), build_timeout_s=3_600)
    yield await store.build("bench", "content.bench.1", space, pages)
    await store.drop("bench", "content.bench.1")
    await store.close()


async def measure(rows: int, space: Space, folder: Path, url: str, *, seed: int, samples: int) -> dict[str, Any]:
    """Build an index of so many points and measure it."""
    keys: Keys = np.random.default_rng(seed).permutation(rows).astype(np.int64)
    vectors = clustered(rows, space.dimensions, seed=seed, distance=space.distance)
    payloads = [
        Payload({"genres": (f"g{row % 10}", f"rare{row % 100}"), "year": float(1950 + row % 70)}) for row in range(rows)
    ]
    before = resident_mb()
    began = time.perf_counter()
    async with built(url, folder, space, paged(keys, vectors, payloads)) as index:
        build_s = time.perf_counter() - began
        queries = vectors[np.random.default_rng(seed).choice(rows, min(samples, rows), replace=False)]
        searches = {
            "limit_10": await milliseconds(index, queries, limit=10),
            "limit_200": await milliseconds(index, queries, limit=200),
            "limit_10_filter_10_percent": await milliseconds(index, queries, limit=10, genre="g3"),
            "limit_10_filter_1_percent": await milliseconds(index, queries, limit=10, genre="rare3"),
        }
        report = await measure_recall(index, samples=min(samples, rows), seed=seed)
        began = time.perf_counter()
        for row in range(20):
            await index.upsert(Points(keys[row : row + 1], vectors[row : row + 1], payloads[row : row + 1]))
        upsert_ms = 1_000 * (time.perf_counter() - began) / 20
        grown = resident_mb() - before
    return {
        "points": rows,
        "dimensions": space.dimensions,
        "distance": str(space.distance),
        "build_s": round(build_s, 2),
        "search": searches,
        "recall_at_10": {str(each.selectivity): round(each.recall, 4) for each in report.measurements},
        "upsert_one_ms": round(upsert_ms, 2),
        "resident_mb": round(grown, 1),
    }


async def main() -> None:
    """Read the arguments, measure each size, and print one JSON object a line."""
    parser = ArgumentParser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--points", type=int, nargs="+", default=[1_682, 50_000], help="sizes to measure")
    parser.add_argument("--dimensions", type=int, default=512, help="numbers of a vector")
    parser.add_argument("--distance", type=Distance, choices=list(Distance), default=Distance.COSINE)
    parser.add_argument("--samples", type=int, default=200, help="how many stored vectors are searched for")
    parser.add_argument("--seed", type=int, default=0, help="draws the vectors and the sample")
    parser.add_argument("--url", default="", help="qdrant://HOST:PORT of a server; without it qdrant-edge in a folder")
    wanted = parser.parse_args()
    space = Space(wanted.dimensions, wanted.distance)
    for rows in wanted.points:
        with tempfile.TemporaryDirectory() as folder:
            measured = await measure(rows, space, Path(folder), wanted.url, seed=wanted.seed, samples=wanted.samples)
        sys.stdout.write(f"{json.dumps(measured)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
