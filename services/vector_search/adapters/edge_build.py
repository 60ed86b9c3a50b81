"""Builds a shard folder beside the serving ones, in a process of its own, because the engine's optimiser holds the GIL.

The caller writes the points down as plain files in a folder that is recognisable as unfinished; the process
`python -m vector_search.adapters.edge_build FOLDER` makes an optimised shard of them; then the folder gets its name.
"""

import asyncio
import json
import os
import shutil
import sys
from argparse import ArgumentParser
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np

from servicekit.arrays import Floats, Keys
from servicekit.errors import UnavailableError
from vector_search.adapters import edge_folder
from vector_search.adapters.edge_folder import EXACT_BELOW, edge_errors
from vector_search.adapters.stored_payload import decode, encode
from vector_search.domain.dense import Distance, Payload, Points, Space

_BATCH = 500
_KEYS, _VECTORS, _PAYLOADS, _ORDER = "keys.i8", "vectors.f4", "payloads.jsonl", "order.json"


async def build(
    folder: Path, space: Space, pages: AsyncIterable[Points], *, timeout_s: float, exact_below: int = EXACT_BELOW
) -> int:
    """Make the whole shard folder `folder` of these points and give their number; open it with EdgeVectorIndex.

    Of several points with one key the last one stays. When it fails or is cancelled, nothing is left.

    Args:
        folder: Must not exist; its parent is swept by `edge_folder.sweep` after a crash.
        space: What the vectors are.
        pages: The points, such as `paged` or `DenseIndex.scroll` give them.
        timeout_s: How long the optimiser may take.
        exact_below: Fewer points than this get no graph.

    Raises:
        InvalidArgumentError: As `Space.check_points`.
        UnavailableError: The process failed, or took too long.
        FailedPreconditionError: There is such a folder already.
    """
    building = edge_folder.building_folder(folder)
    try:
        await _spool(building, space, pages)
        order = {"dimensions": space.dimensions, "distance": space.distance, "exact_below": exact_below}
        (building / _ORDER).write_text(json.dumps(order))
        points = await _optimised(building, timeout_s)
        edge_folder.finish(building, space, folder)
    except BaseException:
        await asyncio.to_thread(shutil.rmtree, building, ignore_errors=True)
        raise
    return points


async def paged(
    keys: Keys, vectors: Floats, payloads: Iterable[Payload] | None = None, *, page_size: int = 1_000
) -> AsyncIterator[Points]:
    """Give arrays (memory-mapped ones too) and an iterator of payloads as pages; no payloads means empty ones."""
    rest = iter(payloads) if payloads is not None else None
    for start in range(0, len(keys), page_size):
        part = slice(start, start + page_size)
        page_keys = np.asarray(keys[part])
        page_payloads = [Payload()] * len(page_keys) if rest is None else list(islice(rest, len(page_keys)))
        yield Points(page_keys, np.asarray(vectors[part]), page_payloads)


async def _spool(building: Path, space: Space, pages: AsyncIterable[Points]) -> None:
    """Write checked points into plain files."""
    with (
        (building / _KEYS).open("wb") as keys,
        (building / _VECTORS).open("wb") as vectors,
        (building / _PAYLOADS).open("w", encoding="utf-8") as payloads,
    ):
        async for page in pages:
            await asyncio.to_thread(_append, space.check_points(page), keys, vectors, payloads)


def _append(points: Points, keys: IO[bytes], vectors: IO[bytes], payloads: IO[str]) -> None:
    keys.write(points.keys.tobytes())
    vectors.write(points.vectors.tobytes())
    # The sample is drawn again from the key when the point is written.
    payloads.writelines(f"{json.dumps(encode(payload, sample=0.0))}\n" for payload in points.payloads)


async def _optimised(building: Path, timeout_s: float) -> int:
    """Let a process of its own make the shard, and give the number of points that it counted."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "vector_search.adapters.edge_build",
        str(building),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        output, errors = await asyncio.wait_for(process.communicate(), timeout_s)
    except TimeoutError as error:
        raise UnavailableError(f"building {building} took over {timeout_s:g} s: give it more time") from error
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode != 0:
        told = errors.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise UnavailableError(f"building {building} failed with code {process.returncode}: {told[-1]}")
    return int(output)


def make_shard(building: Path) -> int:
    """Make the optimised shard of the files in an unfinished folder, remove these, and give the number of points."""
    order = json.loads((building / _ORDER).read_text())
    space = Space(order["dimensions"], Distance(order["distance"]))
    shard = edge_folder.create_shard(building, space, exact_below=order["exact_below"])
    with edge_errors(building):
        indexed = set(shard.info().payload_schema)
        for points in _read(building, space.dimensions):
            edge_folder.write(shard, space.check_points(points), indexed)
        # The indexes exist before the graph is made, so that it is linked along them.
        shard.optimize()
        shard.flush()
        count = int(shard.info().points_count)
        shard.close()
    for name in (_KEYS, _VECTORS, _PAYLOADS, _ORDER):
        (building / name).unlink()
    return count


def _read(building: Path, dimensions: int) -> Iterator[Points]:
    keys = np.fromfile(building / _KEYS, dtype=np.int64)
    with (building / _VECTORS).open("rb") as vectors, (building / _PAYLOADS).open(encoding="utf-8") as payloads:
        for start in range(0, len(keys), _BATCH):
            page = keys[start : start + _BATCH]
            rows = np.frombuffer(vectors.read(len(page) * dimensions * 4), dtype=np.float32)
            lines = [decode(json.loads(line)) for line in islice(payloads, len(page))]
            yield Points(page, rows.reshape(len(page), dimensions), lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Build what FOLDER asks for, with less claim to the processor than the serving process, and print the count."""
    parser = ArgumentParser(description="Make an optimised shard of the points written down in an unfinished folder.")
    parser.add_argument("folder", type=Path)
    os.nice(10)
    sys.stdout.write(f"{make_shard(parser.parse_args(arguments).folder)}\n")


if __name__ == "__main__":
    main()
