"""Measures the torch lane beside the CPU path: texts embedded, EDLAE and ELSA solved, exact neighbours found.

Run with the environment of `make test-torch`: `.venv-torch/bin/python tests/load/bench_torch.py`. Where there is a GPU
everything is measured on it too, with the ratio to the first row of its kind and the largest difference from it.
"""

import asyncio
import json
import os
import sys
import time
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from gpu_worker.adapters.encoder_models import choose_model
from gpu_worker.adapters.faiss_neighbours import FaissNeighbours
from gpu_worker.adapters.sentence_transformers_encoder import SentenceTransformersEncoder
from gpu_worker.adapters.torch_device import be_reproducible, describe_device
from gpu_worker.adapters.torch_edlae import TorchEdlae
from gpu_worker.adapters.torch_elsa import TorchElsaFactors
from gpu_worker.adapters.use_encoder import UseTextEncoder
from gpu_worker.domain.ports import ClosableEncoder
from gpu_worker.domain.training import HoldOut
from gpu_worker.training.edlae import dense_items
from gpu_worker.training.methods import EdlaeSolver, NeighbourSearch, NumpyEdlae, NumpyNeighbours
from gpu_worker.training.recipe import starting_point
from gpu_worker.training.sequences import Sequences
from servicekit.arrays import Floats

_GIB = 1 << 30
_MAX_WORDS = 64
_KEPT = 100  # neighbours of a row
_DIMENSIONS = 384
_WORDS = ("war", "love", "space", "river", "robot", "king", "song", "desert", "crime", "family", "island", "train")


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Args:
        ratio: How many times as quick as the first of its task.
        cpu_s: Processor seconds of this process, which a busy machine changes less.
        difference: The largest absolute difference from the first's result; None where they are not comparable.
    """

    task: str
    path: str
    value: float
    unit: str
    ratio: float
    cpu_s: float
    difference: float | None


class Taken(NamedTuple):
    """How long something took."""

    wall_s: float
    cpu_s: float


class Table:
    """Collects rows and prints each as it comes."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._first: dict[str, tuple[float, Floats | None]] = {}
        say("| task | path | value | times as quick | CPU s | largest difference |\n|---|---|---|---|---|---|")

    def add(self, task: str, path: str, taken: Taken, result: Floats | None, *, count: int = 0) -> None:
        """Add a measurement, as seconds or, with a count, as so many a second."""
        seconds = taken.wall_s
        first_s, first = self._first.setdefault(task, (seconds, result))
        comparable = first is not None and result is not None and first.shape == result.shape
        difference = float(np.abs(first - result).max()) if comparable else None  # type: ignore[operator]  # both are there
        value, unit = (count / seconds, "/s") if count else (seconds, "s")
        row = Row(task, path, value, unit, first_s / seconds, taken.cpu_s, difference)
        self.rows.append(row)
        shown = "" if difference is None else f"{difference:.1e}"
        say(f"| {task} | {path} | {value:,.3g} {unit} | {row.ratio:.1f} | {row.cpu_s:.1f} | {shown} |")


def say(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def timed(work: Callable[..., T], *arguments: Any, **options: Any) -> tuple[Taken, T]:
    """Run and give the seconds and the result."""
    began, began_cpu = time.perf_counter(), time.process_time()
    result = work(*arguments, **options)
    return Taken(time.perf_counter() - began, time.process_time() - began_cpu), result


def histories(items: int, users: int, length: int, *, seed: int) -> Sequences:
    """Draw histories from groups of like items, some items far more popular than others."""
    generator = np.random.default_rng(seed)
    popularity = generator.permutation(1.0 / np.arange(1, items + 1) ** 0.7)
    groups = generator.integers(0, 20, items)
    chances = [popularity * np.where(groups == group, 20.0, 1.0) for group in range(20)]
    bounds = [(chance / chance.sum()).cumsum() for chance in chances]
    drawn = [
        np.unique(np.searchsorted(bounds[user % 20], generator.random(generator.integers(2, 2 * length))))
        for user in range(users)
    ]
    counts = [len(each) for each in drawn]
    flat = np.concatenate([generator.permutation(each) for each in drawn])
    return Sequences(
        starts=np.concatenate([[0], np.cumsum(counts)]),
        items=np.minimum(flat, items - 1).astype(np.int32),
        strengths=np.ones(len(flat), np.float32),
        times_s=np.concatenate([np.arange(count, dtype=np.float64) for count in counts]),
        n_items=items,
    )


def measure_encoders(table: Table, devices: list[str], texts: int, models: Path, threads: int) -> None:
    """Embed texts of 5 to 40 words."""
    folder = choose_model(models, "")
    if folder is None:
        raise SystemExit(f"{models} has no model; `make test-torch` fetches one")
    generator = np.random.default_rng(1)
    written = [" ".join(generator.choice(_WORDS, generator.integers(5, 40))) for _ in range(texts)]

    universal: Callable[[], ClosableEncoder] = partial(UseTextEncoder, threads=threads, max_words=_MAX_WORDS)
    openers = [("encode texts, use", "numpy", universal)]
    for device in devices:
        opener: Callable[[], ClosableEncoder] = partial(
            SentenceTransformersEncoder, folder, device=device, threads=threads, max_words=_MAX_WORDS
        )
        openers.append(("encode texts, sentence_transformers", f"torch on {describe_device(device)}", opener))
    for task, path, opened in openers:
        encoder = opened()
        embed(encoder, written[:16])  # loads, warms
        taken, vectors = timed(embed, encoder, written)
        encoder.close()
        table.add(task, path, taken, vectors, count=texts)


def embed(encoder: ClosableEncoder, texts: list[str]) -> Floats:
    """Embed, outside of a loop."""
    return asyncio.run(_embed(encoder, texts))


async def _embed(encoder: ClosableEncoder, texts: list[str]) -> Floats:
    return await encoder.encode(texts)


def measure_edlae(table: Table, devices: list[str], args: Any) -> None:
    """Solve EDLAE on co-occurrence, Gram matrix and table rows included, and learn ELSA."""
    for items in args.items:
        sequences = histories(items, args.users, args.length, seed=2)
        members = dense_items(sequences, items)
        solvers: list[tuple[str, EdlaeSolver]] = []
        if items <= args.numpy_items:
            solvers.append(("numpy", NumpyEdlae()))
        for device in devices:
            for precision in args.precision:
                bounds = {"": int(args.memory_gib * _GIB)} | ({", in strips": 1} if device != "cpu" else {})
                for how, bound in bounds.items():
                    by_torch = TorchEdlae(device=device, precision=precision, memory_bytes=bound)
                    by_torch.cooccurrence(sequences, members[:100], ridge=400.0, dropout=0.3, neighbours=10)  # warms
                    solvers.append((by_torch.name + how, by_torch))
        for path, solver in solvers:
            taken, rows = timed(solver.cooccurrence, sequences, members, ridge=400.0, dropout=0.3, neighbours=_KEPT)
            table.add(f"EDLAE, {items:,} items", path, taken, np.sort(rows.values, axis=1))
        for device in devices:
            recipe = starting_point(HoldOut.TIME)
            taken, (factors, _) = timed(TorchElsaFactors(device=device).factors, sequences, recipe, seed=1)
            table.add(f"ELSA, {items:,} items", f"torch on {describe_device(device)}", taken, factors)


def measure_neighbours(table: Table, devices: list[str], vectors: int, queries: int, threads: int) -> None:
    """Find the exact neighbours of some vectors among many."""
    among = np.random.default_rng(3).standard_normal((vectors, _DIMENSIONS), dtype=np.float32)
    among /= np.linalg.norm(among, axis=1, keepdims=True)
    searches: list[NeighbourSearch] = [NumpyNeighbours()]
    named = {each.name: each for each in (FaissNeighbours(device=device, threads=threads) for device in devices)}
    searches.extend(named.values())  # without its GPU build, faiss answers for a GPU on the CPU
    for search in searches:
        search.nearest(among[:10], among[:1000], 10)  # warms
        taken, rows = timed(search.nearest, among[:queries], among, _KEPT)
        table.add(f"exact neighbours among {vectors:,}", search.name, taken, np.sort(rows.values), count=queries)


def main() -> None:
    """Measure and print."""
    parser = ArgumentParser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[3_600, 20_000], help="sizes of the catalogue")
    parser.add_argument("--numpy-items", type=int, default=6_000, help="numpy only solves up to so many items")
    parser.add_argument("--precision", nargs="+", default=["float64", "float32"], help="of EDLAE on torch")
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--length", type=int, default=100, help="mean length of a history")
    parser.add_argument("--memory-gib", type=float, default=60.0, help="bound of EDLAE's matrix on the device")
    parser.add_argument("--texts", type=int, default=1_000)
    parser.add_argument("--models", type=Path, default=Path(".cache/models"))
    parser.add_argument("--no-texts", action="store_true", help="leave the encoders out")
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    args = parser.parse_args()
    be_reproducible(threads=args.threads)
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    table = Table()
    if not args.no_texts:
        measure_encoders(table, devices, args.texts, args.models, args.threads)
    measure_edlae(table, devices, args)
    measure_neighbours(table, devices, args.vectors, args.queries, args.threads)
    if args.out:
        args.out.write_text(json.dumps([asdict(row) for row in table.rows], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
