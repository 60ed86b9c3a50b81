"""One qdrant-edge shard in its folder: how it is made, opened and recognised as whole, and what its errors mean.

A whole folder holds `shard/` and `index.json`, which is written last. Everything that is being made stands under a name
with BUILDING in it and is renamed when it is whole; what a crash leaves behind is removed by `sweep`.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import qdrant_edge

from servicekit.arrays import Floats
from servicekit.errors import FailedPreconditionError, ResourceExhaustedError, ServiceError, UnavailableError
from vector_search.adapters.edge_payload import encode, indexes_of, standing_indexes
from vector_search.domain.dense import Distance, Points, Space, sample_numbers

BUILDING = ".building-"
EXACT_BELOW = 10_000
"""Fewer points than this are all compared: it takes about a millisecond and finds everything."""

_MAX_INDEXES = 256
_LINKS = {
    # Links of a point, and how many candidates are looked at to choose them.
    Distance.COSINE: (16, 128),
    # The products of factors have no clear neighbourhoods: more links, or recall falls.
    Distance.DOT: (32, 256),
}


@dataclass(frozen=True, slots=True)
class ShardForm:
    """What cannot change in a shard's life; stands in its `index.json`."""

    dimensions: int
    distance: Distance
    max_length: float = 0.0
    """The length of the longest vector when it was built; 0 when it began empty."""
    format: int = 1

    @property
    def space(self) -> Space:
        """The size of the vectors and their distance."""
        return Space(self.dimensions, self.distance)

    @property
    def stored_dimensions(self) -> int:
        """The size of a vector as it is stored, with the extra dimension that lifts products onto a sphere."""
        return self.dimensions + (1 if self.distance is Distance.DOT else 0)

    def stored_vectors(self, vectors: Floats) -> Floats:
        """Give vectors as they are stored.

        Under DOT one more dimension makes all of them equally long, so that the nearest by product are the nearest by
        angle and the graph finds them (Bachrach et al. 2014, "Speeding up the Xbox recommender system").
        """
        if self.distance is Distance.COSINE:
            return vectors
        squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
        lift = np.sqrt(np.maximum(self.max_length**2 - squares, 0.0)).astype(np.float32)
        return np.concatenate([vectors, lift[:, None]], axis=1)

    def stored_queries(self, vectors: Floats) -> Floats:
        """Give queries in the stored size: the extra dimension says nothing."""
        if self.distance is Distance.COSINE:
            return vectors
        return np.concatenate([vectors, np.zeros((len(vectors), 1), dtype=np.float32)], axis=1)


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


def create(folder: Path, form: ShardForm) -> None:
    """Make an empty, whole shard folder, as if in one step."""
    building = building_folder(folder)
    shard = create_shard(building, form)
    shard.close()
    finish(building, form, folder)


def building_folder(folder: Path) -> Path:
    """Make a folder for what will become `folder`."""
    building = folder.with_name(f"{folder.name}{BUILDING}{uuid4().hex[:8]}")
    building.mkdir(parents=True)
    return building


def create_shard(building: Path, form: ShardForm, *, exact_below: int = EXACT_BELOW) -> Any:
    """Make and open an empty shard with the indexes that every shard has."""
    distance = qdrant_edge.Distance.Cosine if form.distance is Distance.COSINE else qdrant_edge.Distance.Dot
    kilobytes = max(exact_below * form.stored_dimensions * 4 // 1024, 1)
    config = qdrant_edge.EdgeConfig(
        vectors=qdrant_edge.EdgeVectorParams(size=form.stored_dimensions, distance=distance),
        hnsw_config=qdrant_edge.HnswIndexConfig(*_LINKS[form.distance], full_scan_threshold=kilobytes),
        quantization_config=qdrant_edge.ScalarQuantizationConfig(
            qdrant_edge.ScalarType.Int8, memory=qdrant_edge.Memory.Pinned
        ),
        optimizers=qdrant_edge.EdgeOptimizersConfig(default_segment_number=1, indexing_threshold=kilobytes),
    )
    with edge_errors(building):
        shard = qdrant_edge.EdgeShard.create(str(building / "shard"), config)
        add_indexes(shard, standing_indexes(), set())
    return shard


def finish(building: Path, form: ShardForm, folder: Path) -> None:
    """Mark a closed shard as whole and give it its name, durably.

    Raises:
        FailedPreconditionError: There is such a folder already.
    """
    _write_durably(building / "index.json", json.dumps(asdict(form)))
    try:
        building.rename(folder)
    except OSError as error:
        raise FailedPreconditionError(f"{folder} exists already: drop it first") from error
    _sync_folder(folder.parent)


def read_form(folder: Path) -> ShardForm | None:
    """Give a shard folder's form; None when there is no whole one.

    Raises:
        FailedPreconditionError: It was written by something else, or by a newer program.
    """
    try:
        stored = json.loads((folder / "index.json").read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise FailedPreconditionError(f"{folder}/index.json is damaged: remove the folder") from error
    if stored.get("format") != 1:
        raise FailedPreconditionError(f"{folder} has the format {stored.get('format')}, this program reads 1")
    return ShardForm(stored["dimensions"], Distance(stored["distance"]), stored["max_length"])


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


def write(shard: Any, form: ShardForm, points: Points, indexed: set[str]) -> None:
    """Put checked points into the shard, making the indexes that their attributes want; `indexed` grows by them."""
    samples = sample_numbers(points.keys).tolist()
    payloads = [encode(payload, sample=sample) for payload, sample in zip(points.payloads, samples, strict=True)]
    for payload in payloads:
        add_indexes(shard, indexes_of(payload), indexed)
    vectors = form.stored_vectors(points.vectors)
    stored = [
        qdrant_edge.Point(key, vector.tolist(), payload)
        for key, vector, payload in zip(points.keys.tolist(), vectors, payloads, strict=True)
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


def _write_durably(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
