"""One qdrant-edge shard in its folder: how it is made, opened and recognised as whole, and what its errors mean.

A whole folder holds `shard/` and `index.json`, which is written last. Everything that is being made stands under a name
with BUILDING in it and is renamed when it is whole; what a crash leaves behind is removed by `sweep`.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

import qdrant_edge

from servicekit.errors import FailedPreconditionError, ResourceExhaustedError, ServiceError, UnavailableError
from servicekit.folders import bring_to_disk, replace_file
from vector_search.adapters.edge_payload import indexes_of, standing_indexes
from vector_search.adapters.stored_payload import encode
from vector_search.domain.dense import Distance, Points, Space, sample_numbers

BUILDING = ".building-"
EXACT_BELOW = 10_000
"""Fewer points than this are all compared: it takes about a millisecond and finds everything."""

_MAX_INDEXES = 256
_FORMAT = 1
_LINKS, _BUILD_BREADTH = 16, 128  # links of a point in the graph, and how many candidates are looked at to choose them


# The engine raises plain Exceptions: what its message contains, what it means, what to do about it.
_MEANINGS: tuple[tuple[str, type[ServiceError], str], ...] = (
    (
        "Kind(WouldBlock)",
        FailedPreconditionError,
        "another process has it open: stop that one, or give this one another data folder",
    ),
    ("No space left", ResourceExhaustedError, "the disk is full: make room"),
    ("os error 28", ResourceExhaustedError, "the disk is full: make room"),
    ("does not exist", FailedPreconditionError, "it is damaged: remove it, and it is built again from the vectors"),
    ("no segments were loaded", FailedPreconditionError, "it is damaged: remove it, and it is built again"),
    ("not initialized", FailedPreconditionError, "it was closed"),
)


@contextmanager
def edge_errors(folder: Path) -> Iterator[None]:
    """Turn what the engine raises into ServiceErrors; errors that it did not raise pass."""
    try:
        yield
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise _translated(error, folder) from error
    except BaseException as error:
        # A panic of the engine derives from BaseException and its class cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        raise UnavailableError(f"the vectors in {folder} failed inside the engine: {error}") from error


def create(folder: Path, space: Space) -> None:
    """Make an empty, whole shard folder, as if in one step."""
    building = building_folder(folder)
    create_shard(building, space).close()
    finish(building, space, folder)


def building_folder(folder: Path) -> Path:
    """Make a folder for what will become `folder`."""
    building = folder.with_name(f"{folder.name}{BUILDING}{uuid4().hex[:8]}")
    building.mkdir(parents=True)
    return building


def create_shard(building: Path, space: Space, *, exact_below: int = EXACT_BELOW) -> Any:
    """Make and open an empty shard with the indexes that every shard has."""
    kilobytes = max(exact_below * space.dimensions * 4 // 1024, 1)
    if space.distance is Distance.COSINE:
        distance, links = qdrant_edge.Distance.Cosine, _LINKS
        int8 = qdrant_edge.ScalarQuantizationConfig(qdrant_edge.ScalarType.Int8, memory=qdrant_edge.Memory.Pinned)
    else:
        # A graph over products finds a third of the nearest when lengths differ as popularity does, and rounding to
        # int8 loses one in twenty. Factors are short vectors, so all of them are compared.
        distance, links, int8 = qdrant_edge.Distance.Dot, 0, None
    config = qdrant_edge.EdgeConfig(
        vectors=qdrant_edge.EdgeVectorParams(size=space.dimensions, distance=distance),
        hnsw_config=qdrant_edge.HnswIndexConfig(links, _BUILD_BREADTH, full_scan_threshold=kilobytes),
        quantization_config=int8,
        optimizers=qdrant_edge.EdgeOptimizersConfig(default_segment_number=1, indexing_threshold=kilobytes),
    )
    with edge_errors(building):
        shard = qdrant_edge.EdgeShard.create(str(building / "shard"), config)
        add_indexes(shard, standing_indexes(), set())
    return shard


def finish(building: Path, space: Space, folder: Path) -> None:
    """Mark a closed shard as whole and give it its name, durably.

    Raises:
        FailedPreconditionError: There is such a folder already.
    """
    replace_file(building / "index.json", json.dumps({"format": _FORMAT, **asdict(space)}))
    try:
        building.rename(folder)
    except OSError as error:
        raise FailedPreconditionError(f"{folder} exists already: drop it first") from error
    bring_to_disk(folder.parent)


def read_space(folder: Path) -> Space | None:
    """Give what a shard folder's vectors are; None when there is no whole one.

    Raises:
        FailedPreconditionError: It was written by something else, or by a newer program.
    """
    try:
        stored = json.loads((folder / "index.json").read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise FailedPreconditionError(f"{folder}/index.json is damaged: remove the folder") from error
    if stored.get("format") != _FORMAT:
        raise FailedPreconditionError(f"{folder} has the format {stored.get('format')}, this program reads {_FORMAT}")
    return Space(stored["dimensions"], Distance(stored["distance"]))


def load(folder: Path) -> Any:
    """Open the shard of a whole folder; one process at a time can."""
    with edge_errors(folder):
        return qdrant_edge.EdgeShard.load(str(folder / "shard"))


def sweep(parent: Path) -> list[Path]:
    """Remove what was being built under a folder when its process died; call it before anything is built there."""
    left = sorted(parent.glob(f"*{BUILDING}*"))
    for folder in left:
        shutil.rmtree(folder)
    return left


def write(shard: Any, points: Points, indexed: set[str]) -> None:
    """Put checked points into the shard, making the indexes that their attributes want; `indexed` grows by them."""
    samples = sample_numbers(points.keys).tolist()
    payloads = [encode(payload, sample=sample) for payload, sample in zip(points.payloads, samples, strict=True)]
    for payload in payloads:
        add_indexes(shard, indexes_of(payload), indexed)
    stored = [
        qdrant_edge.Point(key, vector.tolist(), payload)
        for key, vector, payload in zip(points.keys.tolist(), points.vectors, payloads, strict=True)
    ]
    if stored:
        shard.update(qdrant_edge.UpdateOperation.upsert_points(stored))


def add_indexes(shard: Any, wanted: dict[str, Any], indexed: set[str]) -> None:
    """Make the payload indexes that are missing, up to a bound; an attribute beyond it is filtered by its values."""
    for path, schema in wanted.items():
        if path not in indexed and len(indexed) < _MAX_INDEXES:
            shard.update(qdrant_edge.UpdateOperation.create_field_index(path, schema))
            indexed.add(path)


def _translated(error: Exception, folder: Path) -> ServiceError:
    message = str(error)
    for part, kind, meaning in _MEANINGS:
        if part in message:
            return kind(f"the vectors in {folder} cannot be used: {meaning} ({message})")
    return UnavailableError(f"the vectors in {folder} cannot be used: {message}")
