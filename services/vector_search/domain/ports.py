"""What the use cases need from outside besides the dense index: model versions, collections, the tail of the log."""

from collections.abc import AsyncIterable, AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol
from urllib.parse import quote

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


class Role(StrEnum):
    """What a collection of content vectors is for."""

    SERVING = "serving"
    """It is searched."""
    PREVIOUS = "previous"
    """It served before a rebuild; it is written along, so that one can go back to it."""
    BUILDING = "building"
    """A rebuild fills it; what happens meanwhile is written along."""


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection of content vectors: those of one encoder."""

    name: str
    model_id: str
    indexed: int = 0
    """How many points it had when it was built."""
    role: Role = Role.SERVING

    @property
    def place(self) -> tuple[str, Role]:
        """Give the place it has: there is one for each encoder and role."""
        return self.model_id, self.role


def name_collection(model_id: str, generation: int) -> str:
    """Name a collection of an encoder. Generation 0 is what a tenant begins with, each rebuild makes the next one."""
    return f"content.{quote(model_id, safe='').replace('.', '%2E').replace('~', '%7E')}.{generation}"


def generation_of(name: str) -> int:
    """Give the generation of a collection by its name."""
    return int(name.rpartition(".")[2])


class DenseStore(Protocol):
    """The collections of dense vectors of all tenants. Any method may raise UnavailableError: it cannot be reached."""

    @property
    def is_shared(self) -> bool:
        """Tell whether all replicas have the same collections, which then also index what is added by themselves."""
        ...

    async def current(self, tenant: str) -> Sequence[Collection]:
        """Give the content collections that count, the latest last."""
        ...

    async def assign(
        self, tenant: str, collections: Sequence[Collection], *, vacate: Sequence[Collection] = ()
    ) -> None:
        """Give complete collections their places, durably and in one step; what had a place before has lost it.

        Args:
            tenant: Whose they are.
            collections: Each takes its place.
            vacate: Their places are empty then, unless somebody has taken them.

        Raises:
            NotFoundError: One of them does not exist; nothing has changed.
        """
        ...

    async def survey(self) -> Mapping[str, Sequence[Collection]]:
        """Give what `current` gives, for all tenants that have any."""
        ...

    async def names(self, tenant: str) -> Sequence[str]:
        """Give the complete collections, whether they count or not."""
        ...

    async def open(self, tenant: str, name: str) -> DenseIndex:
        """Open a complete collection; the store closes it.

        Raises:
            NotFoundError: There is none of that name.
        """
        ...

    async def create(self, tenant: str, name: str, space: Space) -> DenseIndex:
        """Make an empty collection, or open the one of that name that somebody else has made; the store closes it.

        Raises:
            FailedPreconditionError: There is one of that name, with other vectors.
        """
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
