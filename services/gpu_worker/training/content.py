"""Nearest neighbours by text embedding, as a table, and what of it looks like one item twice."""

from collections.abc import Sequence

import numpy as np

from gpu_worker.domain.training import ItemTable
from gpu_worker.training.methods import NeighbourSearch
from gpu_worker.training.tables import table_of_rows
from servicekit.arrays import Floats, Keys

NEAR_DUPLICATE = 0.98
"""From this cosine on, two texts say the same in all but a word or two."""


def content_table(
    item_keys: Keys, vector_keys: Keys, vectors: Floats, neighbours: int, search: NeighbourSearch
) -> ItemTable:
    """Give each embedded item its exact nearest ones by cosine; an item without a vector has an empty row."""
    numbers = np.minimum(np.searchsorted(item_keys, vector_keys), len(item_keys) - 1)
    known = item_keys[numbers] == vector_keys
    numbers, vectors = numbers[known], np.ascontiguousarray(vectors[known], np.float32)
    columns, values = search.nearest(vectors, vectors, min(neighbours + 1, len(numbers)))
    return table_of_rows(numbers, numbers[columns], values, n_items=len(item_keys), neighbours=neighbours)


def near_duplicates(table: ItemTable) -> Sequence[tuple[int, int, float]]:
    """Give the pairs of item numbers that are nearer than NEAR_DUPLICATE, nearest first, each once."""
    rows = np.repeat(np.arange(len(table.indptr) - 1), np.diff(table.indptr))
    near = table.weights >= NEAR_DUPLICATE
    pairs = np.sort(np.stack([rows[near], table.indices[near]], axis=1), axis=1)
    pairs, first = np.unique(pairs, axis=0, return_index=True)
    similarities = table.weights[near][first].astype(np.float64)
    order = np.argsort(-similarities, kind="stable")
    return [(int(pairs[n, 0]), int(pairs[n, 1]), float(similarities[n])) for n in order]
