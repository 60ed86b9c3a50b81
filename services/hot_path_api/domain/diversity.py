"""Maximal marginal relevance (Carbonell & Goldstein 1998) over what items are like, and caps by attribute."""

from collections.abc import Mapping, Sequence

import numpy as np

from hot_path_api.domain.items import Item, tags
from servicekit.arrays import Floats, Ints


def diversify(
    items: Sequence[Item], scores: Floats, *, diversity: float, caps: Mapping[str, int], want: int
) -> list[int]:
    """Choose up to `want` places, one by one: argmax of (1 - d) * relevance - d * similarity to what was chosen.

    Relevance is the score, scaled to 0..1 over the items given; similarity is the greatest Jaccard index of the tags.

    Args:
        items: The candidates, best first.
        scores: float32[N].
        diversity: d, from 0 to 1.
        caps: For an attribute, how many items that share a value of it may be chosen.
        want: How many.
    """
    if not items:
        return []
    lowest, highest = float(scores.min()), float(scores.max())
    relevance = (scores - lowest) / ((highest - lowest) or 1.0)
    likeness = similarities(items) if diversity else None
    sharing = [_Cap(items, attribute, most) for attribute, most in caps.items()]
    closest = np.zeros(len(items), np.float32)
    open_ = np.ones(len(items), np.bool_)
    chosen: list[int] = []
    while len(chosen) < want and open_.any():
        value = np.where(open_, (1.0 - diversity) * relevance - diversity * closest, -np.inf)
        best = int(value.argmax())
        chosen.append(best)
        open_[best] = False
        if likeness is not None:
            np.maximum(closest, likeness[best], out=closest)
        for cap in sharing:
            open_[cap.closed_by(best)] = False
    return chosen


def similarities(items: Sequence[Item]) -> Floats:
    """Give float32[N, N], the Jaccard index of each two items' tags; 0 where neither has any."""
    numbers: dict[str, int] = {}
    rows: list[int] = []
    columns: list[int] = []
    for row, item in enumerate(items):
        for tag in tags(item):
            rows.append(row)
            columns.append(numbers.setdefault(tag, len(numbers)))
    has = np.zeros((len(items), len(numbers)), np.float32)
    has[rows, columns] = 1.0
    shared = has @ has.T
    counts = np.diagonal(shared)
    either = counts[:, np.newaxis] + counts[np.newaxis, :] - shared
    jaccard: Floats = shared / np.maximum(either, 1.0)
    return jaccard


class _Cap:
    """Counts how many chosen items share each value of one attribute."""

    def __init__(self, items: Sequence[Item], attribute: str, most: int) -> None:
        self._most = most
        self._values = [_values(item, attribute) for item in items]
        self._members: dict[object, list[int]] = {}
        self._counts: dict[object, int] = {}
        for place, values in enumerate(self._values):
            for value in values:
                self._members.setdefault(value, []).append(place)

    def closed_by(self, place: int) -> Ints:
        """Count a chosen item, and give the places that may no longer be chosen."""
        closed: list[int] = []
        for value in self._values[place]:
            self._counts[value] = self._counts.get(value, 0) + 1
            if self._counts[value] >= self._most:
                closed += self._members[value]
        return np.array(closed, np.int32)


def _values(item: Item, attribute: str) -> tuple[object, ...]:
    value = item.attributes.get(attribute)
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)
