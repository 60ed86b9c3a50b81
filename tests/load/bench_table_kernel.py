"""What a user costs in the table kernel, beside scipy's sparse product: `python tests/load/bench_table_kernel.py`.

Each user has 50 history items, each item 200 neighbours a source, drawn by popularity (Zipf, exponent .6). The kernel
also excludes the history, applies masks, keeps the best 300 with each source's share, finds the reason of each and
computes 64-dimensional factors. scipy adds up the same rows in one product and keeps the best 300; nothing else.
"""

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

from servicekit.arrays import Ints
from servicekit.clock import SystemClock
from vector_search.domain.catalogue import NEVER_MS, Catalogue, VersionItems
from vector_search.domain.columns import MemoryColumns
from vector_search.domain.model import CONTENT, Factors, ModelVersion, Source
from vector_search.domain.overlay import Overlay
from vector_search.domain.retrieval import Retriever, UserQuery
from vector_search.domain.tables import ItemTable, SourceParameters

USERS, HISTORY, NEIGHBOURS, LIMIT, DIMENSIONS = 64, 50, 200, 300, 64
SOURCES = ("cooccurrence", "transition", CONTENT)


def draw(items: int, count: int, rng: np.random.Generator) -> Ints:
    """Draw item numbers by popularity."""
    popular = (items ** rng.random(count) ** (1 / 0.6)).astype(np.int64) - 1
    return ((popular * 7_919) % items).astype(np.int32)  # popular items do not lie beside each other


def make_table(items: int, rng: np.random.Generator) -> ItemTable:
    """Give a table with distinct neighbours a row, as float16."""
    indices = draw(items, items * NEIGHBOURS, rng).reshape(items, NEIGHBOURS)
    weights = np.sort(rng.random((items, NEIGHBOURS)) ** 3, axis=1)[:, ::-1].astype(np.float16)
    indptr = np.arange(items + 1, dtype=np.int64) * NEIGHBOURS
    return ItemTable(indptr, indices.ravel(), np.ascontiguousarray(weights).ravel())


def make_retriever(items: int, names: tuple[str, ...], rng: np.random.Generator) -> Retriever:
    """Give a retriever of a catalogue of this size."""
    rows = VersionItems(
        np.arange(items, dtype=np.int64),
        np.zeros(items, np.int64),
        np.zeros(items, np.uint8),
        np.zeros(items, np.int64),
        np.full(items, NEVER_MS, np.int64),
        MemoryColumns({}, items),
    )
    sources = tuple(Source(name, make_table(items, rng), SourceParameters(half_life_items=20.0)) for name in names)
    factors = [rng.standard_normal((items, DIMENSIONS), np.float32) for _ in range(2)]
    version = ModelVersion(
        "bench",
        rows,
        sources,
        Factors(factors[0], factors[1], SourceParameters(half_life_items=40.0)),
        {"log_popularity": rng.random(items, np.float32)},
    )
    catalogue = Catalogue(rows, clock=SystemClock())
    return Retriever(version, catalogue, Overlay(catalogue.numbering.capacity))


def median_ms(work: Callable[[], object], seconds: float) -> float:
    """Give the median CPU milliseconds a user of a batch, which others on the machine disturb least."""
    work()
    taken: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(taken) < 5:
        began = time.thread_time()
        work()
        taken.append(time.thread_time() - began)
    return float(np.median(taken)) * 1_000 / USERS


def bench(items: int, names: tuple[str, ...], seconds: float) -> tuple[float, float, float]:
    """Give the milliseconds a user of the kernel, of preparing a batch in Python, and of scipy's product."""
    rng = np.random.default_rng(items)
    retriever = make_retriever(items, names, rng)
    histories = [np.unique(draw(items, 4 * HISTORY, rng))[:HISTORY].astype(np.int64) for _ in range(USERS)]
    ages_s = np.arange(HISTORY, dtype=np.float32)
    queries = [UserQuery(keys, np.ones(len(keys), np.float32), ages_s[: len(keys)], LIMIT) for keys in histories]
    (batch,) = retriever.prepare(queries)
    matrices = [
        sp.csr_array(
            (source.table.weights.astype(np.float32), source.table.indices, source.table.indptr), (items, items)
        )
        for source in retriever.version.sources
    ]
    starts = np.concatenate([[0], np.cumsum([len(keys) for keys in histories])])
    users = sp.csr_array(
        (np.ones(starts[-1], np.float32), np.concatenate(histories).astype(np.int32), starts), (USERS, items)
    )

    def scipy_product() -> None:
        total = users @ matrices[0]
        for matrix in matrices[1:]:
            total = total + users @ matrix
        for user in range(USERS):
            scores = total.data[total.indptr[user] : total.indptr[user + 1]]
            if len(scores) > LIMIT:
                np.argpartition(-scores, LIMIT)[:LIMIT]

    prepared = median_ms(lambda: retriever.prepare(queries), seconds / 4)
    return median_ms(batch.run, seconds), prepared, median_ms(scipy_product, seconds)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="*", default=[3_600, 50_000, 300_000])
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    sys.stdout.write("    items  sources  kernel ms  prepare ms  scipy ms   (CPU a user, median)\n")
    for items in arguments.items:
        for names in (SOURCES[-1:], SOURCES):
            kernel, prepared, product = bench(items, names, arguments.seconds)
            sys.stdout.write(f"{items:9,}  {len(names):7}  {kernel:9.3f}  {prepared:10.4f}  {product:8.3f}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
