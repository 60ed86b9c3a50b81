"""What embedding and training need from outside."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy.typing as npt

from gpu_worker.domain.items import Item
from gpu_worker.domain.training import HoldOut, Progress, TrainingData
from gpu_worker.domain.versions import Active, Manifest
from servicekit.arrays import Floats, Keys
from servicekit.errors import ServiceError

EncoderKind = Literal["auto", "use", "sentence_transformers"]
LogPosition = Mapping[str, Mapping[str, int]]
"""The next offset to read by topic and partition."""


class Mark(NamedTuple):
    """Which text an item's stored vector was made of, and by which model; both empty when none is stored."""

    model_id: str
    content_hash: str


class Neighbours(NamedTuple):
    """The items nearest to one, best first: int64[n], float32[n]."""

    keys: Keys
    scores: Floats


@dataclass(frozen=True, slots=True)
class Embedding:
    """An item with its vector, float32[D]; None keeps the stored one."""

    item: Item
    mark: Mark
    vector: Floats | None


@dataclass(frozen=True, slots=True)
class EmbeddedItem:
    """What replicas are told of an item whose vector is stored.

    Args:
        event_id: Made of the event that caused it, so that a repetition is known as one.
    """

    event_id: str
    item: Item
    mark: Mark
    neighbours: Neighbours


class InteractionPage(NamedTuple):
    """Some interactions as columns: int64[n], int64[n], float32[n], int64[n]; by user, time and arrival."""

    user_keys: Keys
    item_keys: Keys
    weights: Floats
    times_ms: Keys


class VectorPage(NamedTuple):
    """Some vectors: int64[n], float32[n, D]."""

    keys: Keys
    vectors: Floats


class TextEncoder(Protocol):
    """Makes vectors of texts."""

    @property
    def model_id(self) -> str:
        """Name the model and its version; vectors of different ids are never compared."""
        ...

    @property
    def dimensions(self) -> int:
        """Give the size of a vector."""
        ...

    async def encode(self, texts: Sequence[str]) -> Floats:
        """Give float32[n, D], of length 1; zeros for a text without words. Several callers at once are served."""
        ...


class ClosableEncoder(TextEncoder, Protocol):
    """An encoder with threads of its own."""

    def close(self) -> None:
        """End the threads; what waits is dropped."""
        ...


class VectorIndex(Protocol):
    """vector_search, as far as it is fed from here. Every call may raise UnavailableError."""

    async def marks(self, tenant: str, keys: Keys) -> Sequence[Mark]:
        """Tell which embedding each item has."""
        ...

    async def upsert(
        self, embeddings: Sequence[Embedding], *, neighbours: int
    ) -> Sequence[Neighbours | ServiceError | None]:
        """Store vectors and attributes; None for an item of which a later state is known, or its deletion.

        NotFoundError for an item whose vector was to be kept and is not there.
        """
        ...

    async def delete(self, tenant: str, keys: Keys, times_ms: Keys) -> None:
        """Remove items that were deleted at these times, unless a later state of one is known."""
        ...

    def export(self, tenant: str) -> AsyncIterator[VectorPage]:
        """Give all content vectors."""
        ...

    async def activate(self, tenant: str, version: str) -> None:
        """Switch to a version.

        Raises:
            FailedPreconditionError: It is damaged or fails verification.
        """
        ...


class Catalogue(Protocol):
    """profile_store, as far as training reads it."""

    def export_items(self, tenant: str) -> AsyncIterator[Sequence[Item]]:
        """Give all items."""
        ...

    def export_interactions(self, tenant: str) -> AsyncIterator[InteractionPage]:
        """Give all interactions."""
        ...


class Announcer(Protocol):
    """The event log, as far as it is written from here."""

    async def announce_embedded(self, items: Sequence[EmbeddedItem]) -> None:
        """Tell replicas which items can be found now."""
        ...

    async def announce_model(self, tenant: str, version: str) -> None:
        """Tell replicas which version serves."""
        ...

    async def catalogue_position(self) -> LogPosition:
        """Give a position of the log up to which whatever is exported from now on knows the catalogue."""
        ...


class ModelStore(Protocol):
    """Where versions lie. Blocking; called in a thread or by the training process, by several gpu_workers if need be.

    A version becomes visible as a whole, when all its files are there; its manifest, written last, is the mark. What
    a killed writer left behind is not seen by anybody. `active.json` and `refused.json` are replaced in one step: of
    two who write one at the same time the last wins. Every call may raise UnavailableError or DeadlineExceededError.
    """

    def write(
        self,
        tenant: str,
        version: str,
        *,
        arrays: Mapping[str, npt.NDArray[Any]],
        items: Iterable[bytes],
        manifest: Manifest,
    ) -> None:
        """Write a version: each array as `<name>.npy`, the items as `items.bin`, checksums into the manifest."""
        ...

    def manifest(self, tenant: str, version: str) -> Manifest:
        """Read a manifest.

        Raises:
            NotFoundError: There is no such version, or its manifest is damaged.
        """
        ...

    def versions(self, tenant: str) -> Sequence[str]:
        """List the complete versions, newest first."""
        ...

    def tenants(self) -> Sequence[str]:
        """List the tenants that have versions."""
        ...

    def active(self, tenant: str) -> Active:
        """Read which version serves."""
        ...

    def set_active(self, tenant: str, active: Active) -> None:
        """Write which version serves, in one step."""
        ...

    def refusals(self, tenant: str) -> Mapping[str, str]:
        """Read why versions were not activated."""
        ...

    def set_refusals(self, tenant: str, refusals: Mapping[str, str]) -> None:
        """Write why versions were not activated."""
        ...

    def delete(self, tenant: str, version: str) -> None:
        """Remove a version; harmless when there is none."""
        ...

    def delete_unfinished(self, *, before_ms: int) -> None:
        """Remove what killed writers left, where nothing was written since that Unix time in milliseconds."""
        ...

    def close(self) -> None:
        """Let go of connections; the last call."""
        ...


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """One training.

    Args:
        data: What is learned from.
        items: The packed items, in the order of the item numbers.
        manifest: What the version's manifest says of where it comes from.
    """

    tenant: str
    version: str
    hold_out: HoldOut
    seed: int
    data: TrainingData
    items: Sequence[bytes]
    manifest: Manifest


class Trainer(Protocol):
    """Trains away from the event loop, and leaves a complete version in the model store."""

    async def train(self, job: TrainingJob, progress: Progress) -> None:
        """Train.

        Raises:
            FailedPreconditionError: There is too little data.
            InternalError: The training broke off.
        """
        ...
