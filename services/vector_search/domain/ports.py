"""What the use cases need from outside besides the dense index: model versions, collections, the tail of the log."""

from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from vector_search.domain.changes import Change
from vector_search.domain.dense import DenseIndex, Points, Space
from vector_search.domain.items import Fields
from vector_search.domain.model import ModelVersion

Position = Mapping[str, Mapping[int, int]]
"""By topic and partition, the next offset to read; a partition that is not named is read from its beginning."""


class ModelStore(Protocol):
    """Where model versions lie; what was not written to the end is not there.

    Every call may raise UnavailableError or DeadlineExceededError: then try again later.
    """

    async def tenants(self) -> Sequence[str]:
        """Give the tenants that have any."""
        ...

    async def active(self, tenant: str) -> str:
        """Give the version that shall serve, empty when none shall."""
        ...

    async def load(self, tenant: str, version: str, *, verify: bool) -> ModelVersion:
        """Give a version, its arrays memory-mapped.

        Raises:
            NotFoundError: There is no such version.
            FailedPreconditionError: It is damaged; with `verify` every file is compared with its checksum.
            ResourceExhaustedError: This machine's disk has no room for it.
        """
        ...

    def fields(self, tenant: str, version: str) -> Iterator[Fields]:
        """Give the fields of the items of a version that was loaded, by item number; blocking."""
        ...

    async def close(self) -> None:
        """Break off what is going on, and let go of connections; the last call."""
        ...


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection of content vectors: those of one encoder."""

    name: str
    model_id: str
    indexed: int = 0
    """How many points it had when it was built."""


class DenseStore(Protocol):
    """The collections of dense vectors of all tenants."""

    async def current(self, tenant: str) -> Sequence[Collection]:
        """Give the content collections that count, the latest last."""
        ...

    async def set_current(self, tenant: str, collections: Sequence[Collection]) -> None:
        """Say durably and in one step which content collections count."""
        ...

    async def tenants(self) -> Sequence[str]:
        """Give the tenants that have collections."""
        ...

    async def names(self, tenant: str) -> Sequence[str]:
        """Give the complete collections."""
        ...

    async def open(self, tenant: str, name: str) -> DenseIndex:
        """Open a complete collection; the store closes it.

        Raises:
            NotFoundError: There is none of that name.
        """
        ...

    async def create(self, tenant: str, name: str, space: Space) -> DenseIndex:
        """Make an empty collection; the store closes it."""
        ...

    async def build(self, tenant: str, name: str, space: Space, pages: AsyncIterable[Points]) -> DenseIndex:
        """Make an indexed collection beside those that serve; of points with one key the last counts."""
        ...

    async def drop(self, tenant: str, name: str) -> None:
        """Close and remove a collection; harmless when there is none."""
        ...

    async def close(self) -> None:
        """Close everything that was opened."""
        ...


class Tail(Protocol):
    """The changes since some position."""

    def replay(self, tenant: str, position: Position) -> AsyncIterator[Sequence[Change]]:
        """Give a tenant's changes from a position to the end that the log has now."""
        ...
