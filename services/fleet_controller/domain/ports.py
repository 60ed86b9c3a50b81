"""What the controller asks of the world outside. All raise UnavailableError when it cannot be reached."""

from typing import Protocol

from fleet_controller.domain.replicas import ReplicaState
from fleet_controller.domain.shards import ClusterState, Move


class Measurements(Protocol):
    """What has been measured."""

    async def value(self, query: str) -> float | None:
        """Give one number; None when there is none."""
        ...


class ReplicaSet(Protocol):
    """The processes of the read replicas."""

    async def state(self) -> ReplicaState:
        """Tell how many there are; the latency is left out."""
        ...

    async def scale(self, replicas: int) -> None:
        """Change their number, and remember when."""
        ...


class GraphCluster(Protocol):
    """The members of the graph's cluster."""

    async def admit_new(self) -> int:
        """Let servers in that have started and wait for it; tell how many."""
        ...

    async def set_secondaries(self, count: int) -> None:
        """Have the database kept on so many secondaries."""
        ...

    async def leaving(self) -> frozenset[int]:
        """Give the numbers of the secondaries that were told to leave; none of them can be kept any more."""
        ...

    async def release(self, count: int) -> bool:
        """Begin to empty the secondaries with the number `count` and higher, drop those that are empty.

        Tell whether all are out, so that their processes may stop; it takes several runs.
        """
        ...


class VectorCluster(Protocol):
    """Qdrant's peers and shards."""

    async def state(self) -> ClusterState:
        """Tell where everything is."""
        ...

    async def begin(self, move: Move) -> None:
        """Begin a move; it goes on by itself."""
        ...
