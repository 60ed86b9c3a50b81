"""What a graph can be built from again."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from graph_service.domain.graph import Mutation

Position = Mapping[tuple[str, int], int]
"""For each topic and partition the next offset."""


class Catalogue(Protocol):
    """The source of truth for items and interactions.

    Its iterators raise UnavailableError or DeadlineExceededError when it cannot be read to its end.
    """

    def items(self, tenant: str) -> AsyncIterator[Sequence[Mutation]]:
        """Give all items, page by page."""
        ...

    def interactions(self, tenant: str) -> AsyncIterator[Sequence[Mutation]]:
        """Give all interactions, page by page."""
        ...


class ChangeLog(Protocol):
    """The event log, as far as changes of the graph are concerned.

    Its iterators end where the log ended when they began, and leave out what cannot be read.
    """

    async def applied(self) -> Position:
        """Tell up to where the graph that serves has applied the log."""
        ...

    def described(self) -> AsyncIterator[Sequence[Mutation]]:
        """Give what the log keeps for ever: the items with their deletions, and the erasures of users."""
        ...

    def since(self, position: Position) -> AsyncIterator[Sequence[Mutation]]:
        """Give everything from a position on; all that is there from an empty one."""
        ...

    async def tenants(self) -> frozenset[str]:
        """Give the tenants that the items in the log belong to."""
        ...
