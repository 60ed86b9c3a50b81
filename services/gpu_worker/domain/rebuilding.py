"""What a rebuild of the content vectors needs from outside, and how one is told about."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from gpu_worker.domain.items import Item
from gpu_worker.domain.ports import Embedding, Mark
from servicekit.arrays import Floats, Keys
from servicekit.errors import ServiceError


class Source(StrEnum):
    """Where the items are read."""

    PROFILE_STORE = "profile_store"
    LOG = "log"


class RebuildState(StrEnum):
    """Where a rebuild stands."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Rebuild:
    """How a rebuild is going.

    Args:
        items: Items with a text that were read in the last pass.
        encoded: Texts that were embedded, since no vector of them was stored.
        vectors: What the new collection holds when it is switched to.
        previous_vectors: What the one before holds.
        sampled: How many items were embedded again and compared with what is stored.
        differing: How many of these have another vector, or none.
        message: Why it failed.
    """

    rebuild_id: str
    tenant: str
    state: RebuildState = RebuildState.RUNNING
    stage: str = "waiting"
    progress: float = 0.0
    items: int = 0
    encoded: int = 0
    vectors: int = 0
    previous_vectors: int = 0
    recall_at_10: float = 0.0
    sampled: int = 0
    differing: int = 0
    message: str = ""


class Begun(NamedTuple):
    """A new collection, and how many vectors the serving one has."""

    collection: str
    serving_vectors: int


class Finished(NamedTuple):
    """What was switched to."""

    vectors: int
    previous_vectors: int
    recall_at_10: float


class ItemSource(Protocol):
    """Gives the state of a catalogue."""

    def export_items(self, tenant: str) -> AsyncIterator[Sequence[Item]]:
        """Give all items, each once."""
        ...


class RebuiltIndex(Protocol):
    """vector_search, as far as a rebuild goes. Every call may raise UnavailableError.

    Calls that name a collection raise NotFoundError when another rebuild has taken its place.
    """

    async def begin(self, tenant: str, model_id: str, dimensions: int) -> Begun:
        """Make an empty collection beside the one that serves; from now on every write goes to both."""
        ...

    async def marks(self, tenant: str, keys: Keys, *, collection: str) -> Sequence[Mark]:
        """Tell which embedding each item has in the new collection."""
        ...

    async def fill(self, embeddings: Sequence[Embedding], *, collection: str) -> Sequence[ServiceError | None]:
        """Store vectors in the new collection; NotFoundError at one without a vector of whose text none is stored."""
        ...

    async def delete(self, tenant: str, keys: Keys) -> None:
        """Remove items from all collections."""
        ...

    async def finish(self, tenant: str, collection: str, *, least_vectors: int) -> Finished:
        """Verify the new collection and switch to it.

        Raises:
            FailedPreconditionError: It has fewer vectors, or its search finds too little.
        """
        ...

    async def stored(self, tenant: str, keys: Keys) -> Sequence[tuple[Mark, Floats | None]]:
        """Give mark and vector of each item in the serving collection."""
        ...

    async def gaps(self) -> Mapping[str, int]:
        """Tell of which tenants how many vectors are lost."""
        ...
