"""Content neighbours of items newer than the model, as edges that can be added one by one.

A new item is linked both ways: a history that contains it leads to its neighbours, and a history that contains one of
its neighbours leads to it. The edges of a row are a linked list in growing arrays, which the kernel reads beside the
model's own rows; when enough was added they are grouped again, so that a row lies together in memory.
"""

from typing import Any, NamedTuple

import numpy as np

from servicekit.arrays import Floats, Ints
from servicekit.compiled import compiled

_LEAST_ROOM = 1_024
_WORTH_GROUPING = 8_192


class Edges(NamedTuple):
    """The lists: `heads` by item number, the others by edge; -1 ends a list, weight 0 marks a dead edge."""

    heads: Ints
    next_edges: Ints
    targets: Ints
    weights: Floats
    owners: Ints


class Overlay:
    """The edges of one model version's newcomers; one thread changes it, others may read `edges` meanwhile.

    Args:
        capacity: How many item numbers there are; `grow` before using a greater one.
        max_edges: What does not fit any more is refused and counted: the next training takes the new items in.
    """

    def __init__(self, capacity: int, *, max_edges: int = 4_000_000) -> None:
        self._max_edges = max_edges
        self._used = 0
        self._dead = 0
        self._grouped = 0
        self.refused = 0
        self.edges = _empty(capacity, _LEAST_ROOM)

    @property
    def edge_count(self) -> int:
        """How many edges live."""
        return self._used - self._dead

    def grow(self, capacity: int) -> None:
        """Make room for item numbers below this; whoever reads the old arrays never meets a number beyond them."""
        if capacity > len(self.edges.heads):
            self._move(capacity, len(self.edges.targets))

    def link(self, item: int, neighbours: Ints, weights: Floats) -> None:
        """Replace an item's neighbours; both arrays of the same length, a weight of 0 links nothing."""
        self.unlink(item)
        wanted = 2 * len(neighbours)
        if self.edge_count + wanted > self._max_edges:
            self.refused += 1
            return
        if self._used + wanted > len(self.edges.targets):
            self._move(len(self.edges.heads), max(2 * self.edge_count, self.edge_count + wanted, _LEAST_ROOM))
        others, near = np.array(neighbours, np.int32), np.array(weights, np.float32)
        self._used = _add_edges(*self.edges, self._used, item, others, near)
        if self._used - self._grouped > max(self._grouped, _WORTH_GROUPING):
            self.regroup()

    def regroup(self) -> None:
        """Lay the edges of each row together and forget the dead ones."""
        self._move(len(self.edges.heads), len(self.edges.targets))

    def unlink(self, item: int) -> None:
        """Take back what was linked for an item; what others linked it with stays."""
        self._dead += _cut_edges(*self.edges, item)

    def row(self, item: int) -> tuple[Ints, Floats]:
        """Give the items that an item is linked with, and the weights."""
        edges, found = self.edges, []
        edge = int(edges.heads[item]) if item < len(edges.heads) else -1
        while edge >= 0:
            found.append(edge)
            edge = int(edges.next_edges[edge])
        living = [each for each in found if edges.weights[each] != 0.0]
        return edges.targets[living], edges.weights[living]

    def _move(self, capacity: int, room: int) -> None:
        moved = _empty(capacity, room)
        self._used = self._grouped = _group_edges(*self.edges, *moved)
        self._dead = 0
        self.edges = moved  # in one step: a reader has either all of the old arrays or all of the new


def _empty(capacity: int, room: int) -> Edges:
    return Edges(
        np.full(capacity, -1, np.int32),
        np.zeros(room, np.int32),
        np.zeros(room, np.int32),
        np.zeros(room, np.float32),
        np.zeros(room, np.int32),
    )


@compiled
def _cut_edges(heads: Any, next_edges: Any, targets: Any, weights: Any, owners: Any, item: Any) -> Any:
    """Kill the edges that an item owns, those of its row and their mirrors; give how many died."""
    cut = 0
    edge = heads[item]
    while edge >= 0:
        if owners[edge] == item and weights[edge] != 0.0:
            weights[edge] = 0.0
            cut += 1
            mirror = heads[targets[edge]]
            while mirror >= 0:
                if owners[mirror] == item and targets[mirror] == item and weights[mirror] != 0.0:
                    weights[mirror] = 0.0
                    cut += 1
                mirror = next_edges[mirror]
        edge = next_edges[edge]
    return cut


@compiled
def _add_edges(
    heads: Any, next_edges: Any, targets: Any, weights: Any, owners: Any, used: Any, item: Any, others: Any, near: Any
) -> Any:
    """Link an item with others in both directions, but for those it is linked with; give the edges used then."""
    for i in range(len(others)):
        edge = heads[item]
        while edge >= 0 and (targets[edge] != others[i] or weights[edge] == 0.0):
            edge = next_edges[edge]
        if edge >= 0 or others[i] == item or near[i] == 0.0:
            continue
        for back in range(2):
            row = others[i] if back else item
            targets[used] = item if back else others[i]
            weights[used] = near[i]
            owners[used] = item
            next_edges[used] = heads[row]
            heads[row] = used  # last: a reader in another thread sees a whole edge or none
            used += 1
    return used


@compiled
def _group_edges(
    heads: Any,
    next_edges: Any,
    targets: Any,
    weights: Any,
    owners: Any,
    new_heads: Any,
    new_next: Any,
    new_targets: Any,
    new_weights: Any,
    new_owners: Any,
) -> Any:
    """Copy the living edges so that those of a row lie together; give how many there are."""
    count = 0
    for row in range(len(heads)):
        new_heads[row] = -1
        edge = heads[row]
        while edge >= 0:
            if weights[edge] != 0.0:
                new_targets[count] = targets[edge]
                new_weights[count] = weights[edge]
                new_owners[count] = owners[edge]
                new_next[count] = new_heads[row]
                new_heads[row] = count
                count += 1
            edge = next_edges[edge]
    return count
