"""Nearest neighbours by text embedding, as a table."""

import numpy as np
import scipy.sparse as sp

from gpu_worker.domain.training import ItemTable
from gpu_worker.training.tables import table_of_sparse
from servicekit.arrays import Floats, Keys

_CHUNK = 1024


def content_table(item_keys: Keys, vector_keys: Keys, vectors: Floats, neighbours: int) -> ItemTable:
    """Give each embedded item its exact nearest ones by cosine; an item without a vector has an empty row."""
    numbers = np.searchsorted(item_keys, vector_keys)
    numbers = np.minimum(numbers, len(item_keys) - 1)
    known = item_keys[numbers] == vector_keys
    numbers, vectors = numbers[known], np.ascontiguousarray(vectors[known], np.float32)
    shape = (len(item_keys), len(item_keys))
    kept = min(neighbours + 1, len(numbers))
    if not kept:
        return table_of_sparse(sp.csr_array(sp.coo_array(shape, dtype=np.float32)), neighbours)
    rows, columns, values = [], [], []
    for begin in range(0, len(numbers), _CHUNK):
        similarities = vectors[begin : begin + _CHUNK] @ vectors.T
        nearest = np.argpartition(-similarities, kept - 1, axis=1)[:, :kept]
        rows.append(np.repeat(numbers[begin : begin + _CHUNK], kept))
        columns.append(numbers[nearest.ravel()])
        values.append(np.take_along_axis(similarities, nearest, axis=1).ravel())
    matrix = sp.csr_array((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape=shape)
    return table_of_sparse(matrix, neighbours)
