"""The bounded cache of related lists, and the rule when one has to be computed again."""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from graph_service.domain.composition import Packed, pack
from graph_service.domain.graph import Floats, Ints
from graph_service.domain.relatedness import best_of

PathWeights = tuple[float, float, float]
"""The multiplier of each of CANDIDATE_PATHS."""

_REMEMBERED = 2
"""Usually there is one set of weights, for which the best entries are wanted or all."""


@dataclass(frozen=True, slots=True)
class FreshnessRule:
    """When a list has to be computed again.

    Args:
        max_age_s: After this time, if anything changed in the graph meanwhile.
        max_new_edges: After so many interactions with the item; earlier when it has few: after a tenth of its users.
        min_age_s: Not before this time, whatever happens.
    """

    max_age_s: float = 300.0
    max_new_edges: int = 20
    min_age_s: float = 2.0


@dataclass(slots=True)
class RelatedList:
    """The related items of one item.

    Args:
        positions: int32[n] in the item table.
        scores: float32[n, 3], a column for each of CANDIDATE_PATHS.
        nodes: The keys of the item's people and genres.
        users: How many users had an edge to the item.
        computed_at_s: When, on a monotonic clock.
        changes: How many changes the graph had seen.
    """

    positions: Ints
    scores: Floats
    nodes: tuple[int, ...]
    users: int
    computed_at_s: float
    changes: int
    new_edges: int = 0
    outdated: bool = False
    _packed: dict[tuple[PathWeights, int | None], Packed] = field(default_factory=dict)

    def packed(self, weights: PathWeights, kept: int | None) -> Packed:
        """Give the best `kept` entries, or all, under these weights of the meta-paths; the last few are remembered."""
        packed = self._packed.get((weights, kept))
        if packed is None:
            scores = self.combined(weights)
            best = best_of(scores, len(scores) if kept is None else kept)
            best = best[scores[best] > 0]
            if len(self._packed) == _REMEMBERED:
                self._packed.clear()
            packed = self._packed[weights, kept] = pack(self.positions[best], scores[best])
        return packed

    def combined(self, weights: PathWeights) -> Floats:
        """Give float32[n], the weighted sum over the meta-paths."""
        return self.scores @ np.array(weights, dtype=np.float32)


class RelatedLists:
    """Keeps the lists used last.

    Args:
        capacity: The most lists; one has 8 KiB at most.
        rule: When a list has to be computed again.
    """

    def __init__(self, capacity: int, rule: FreshnessRule) -> None:
        self._capacity = capacity
        self._rule = rule
        self._lists: OrderedDict[int, RelatedList] = OrderedDict()
        self._keys_of_node: defaultdict[int, set[int]] = defaultdict(set)
        self.changes = 0

    def __len__(self) -> int:
        return len(self._lists)

    def __contains__(self, key: int) -> bool:
        return key in self._lists

    def find(self, key: int) -> RelatedList | None:
        """Give an item's list, if there is one, without counting it as used."""
        return self._lists.get(key)

    def use(self, keys: Iterable[int]) -> dict[int, RelatedList]:
        """Give the lists of those items that have one, and count them as used."""
        found = {key: each for key in keys if (each := self._lists.get(key)) is not None}
        if len(self._lists) > self._capacity // 2:  # before that none has to go soon, and who was used last matters not
            for key in found:
                self._lists.move_to_end(key)
        return found

    def put(self, key: int, computed: RelatedList) -> None:
        """Keep a list; the one used longest ago may have to go."""
        self.drop(key)
        self._lists[key] = computed
        for node in computed.nodes:
            self._keys_of_node[node].add(key)
        if len(self._lists) > self._capacity:
            self.drop(next(iter(self._lists)))

    def drop(self, key: int) -> None:
        """Forget a list, if there is one."""
        dropped = self._lists.pop(key, None)
        for node in dropped.nodes if dropped is not None else ():
            keys = self._keys_of_node[node]
            keys.discard(key)
            if not keys:
                del self._keys_of_node[node]

    def note_changed_nodes(self, nodes: Iterable[int]) -> None:
        """Outdate the lists of all items that have one of these nodes."""
        for node in nodes:
            for key in self._keys_of_node.get(node, ()):
                self._lists[key].outdated = True

    def note_new_edges(self, key: int, count: int) -> None:
        """Count interactions with an item."""
        found = self._lists.get(key)
        if found is not None:
            found.new_edges += count

    def is_due(self, found: RelatedList, now_s: float) -> bool:
        """Say whether a list should be computed again."""
        if found.changes == self.changes:
            return False
        age_s = now_s - found.computed_at_s
        if age_s < self._rule.min_age_s:
            return False
        enough = max(1, min(self._rule.max_new_edges, found.users // 10))
        return found.outdated or found.new_edges >= enough or age_s >= self._rule.max_age_s
