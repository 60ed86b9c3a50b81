"""The relatedness formula over arrays: from the edges around some items to the best related items of each.

The formula stands at the top of the proto. For one meta-path it is a product of two sparse matrices, items x middle
nodes and middle nodes x items, with the damped degrees between them and the norms outside.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from graph_service.domain.graph import Floats, Keys

Indices = npt.NDArray[np.intp]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The edges of one meta-path around Q items, over M middle nodes.

    Args:
        start_item: intp[E1], the item (0 to Q - 1) of each edge from an item to a middle node.
        start_middle: intp[E1], its middle node (0 to M - 1).
        degrees: float64[Q], how many middle nodes each item really has; 0 where it has none.
        damping: float64[M], 1 / d(m)^damping of each middle node.
        fan_middle: intp[E2], the middle node of each edge from there to an item.
        fan_item: int64[E2], that item's key.
        fan_degree: float64[E2], how many middle nodes that item has.
    """

    start_item: Indices
    start_middle: Indices
    degrees: Doubles
    damping: Doubles
    fan_middle: Indices
    fan_item: Keys
    fan_degree: Doubles


def relate(item_keys: Keys, paths: Sequence[Surroundings], *, kept_per_path: int) -> list[tuple[Keys, Floats]]:
    """Give for each item its related items' keys, ascending, and their scores by path, float32[n, paths].

    The items are the best `kept_per_path` of each path, ties by key, with all of their scores.
    """
    reached, columns = np.unique(np.concatenate([path.fan_item for path in paths]), return_inverse=True)
    bounds = np.cumsum([0, *(len(path.fan_item) for path in paths)])
    products = [
        _multiply(path, columns[start:stop], len(item_keys), len(reached))
        for path, start, stop in zip(paths, bounds[:-1], bounds[1:], strict=True)
    ]
    itself = np.searchsorted(reached, item_keys)
    return [_pick(row, int(itself[row]), key, products, reached, kept_per_path) for row, key in enumerate(item_keys)]


def _multiply(path: Surroundings, columns: Indices, items: int, reached: int) -> sp.csr_array:
    middles = len(path.damping)
    start = sp.csr_array(
        (path.damping[path.start_middle], (path.start_item, path.start_middle)), shape=(items, middles)
    )
    fan = sp.csr_array((1.0 / np.sqrt(path.fan_degree), (path.fan_middle, columns)), shape=(middles, reached))
    product = start @ fan
    product.sort_indices()
    # The middle nodes that were read stand for all that the item has: the sum grows by degree / read.
    read = np.bincount(path.start_item, minlength=items)
    scale = np.sqrt(path.degrees) / np.maximum(read, 1)
    product.data *= np.repeat(scale, np.diff(product.indptr))
    return product


def _pick(
    row: int, itself: int, key: np.int64, products: Sequence[sp.csr_array], reached: Keys, kept: int
) -> tuple[Keys, Floats]:
    entries = []
    for product in products:
        begin, end = product.indptr[row : row + 2]
        columns, values = product.indices[begin:end], product.data[begin:end].astype(np.float32)
        if itself < len(reached) and reached[itself] == key:
            others = columns != itself
            columns, values = columns[others], values[others]
        entries.append((columns, values))
    best = [columns[best_of(values, kept)] for columns, values in entries]
    chosen = np.unique(np.concatenate(best))
    scores = np.zeros((len(chosen), len(products)), dtype=np.float32)
    for path, (columns, values) in enumerate(entries):
        if len(columns):
            places = np.minimum(np.searchsorted(columns, chosen), len(columns) - 1)
            scores[:, path] = np.where(columns[places] == chosen, values[places], 0.0)
    return reached[chosen], scores


def best_of(values: Floats, kept: int) -> Indices:
    """Give the indices, ascending, of the `kept` largest values; of equal ones those that come first."""
    if len(values) <= kept:
        return np.arange(len(values))
    threshold = np.partition(values, len(values) - kept)[len(values) - kept]
    above = values > threshold
    ties = np.flatnonzero(values == threshold)[: kept - np.count_nonzero(above)]
    above[ties] = True
    return np.flatnonzero(above)
