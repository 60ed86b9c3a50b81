"""Cuts item-item matrices down to the few hundred best entries of each row."""

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from gpu_worker.domain.training import ItemTable
from servicekit.arrays import Floats, Keys


def table_of_sparse(matrix: sp.csr_array, neighbours: int) -> ItemTable:
    """Keep the largest entries of each row of a sparse [N, N], without the diagonal.

    By signed weight: what speaks for an item decides the top of a list.
    """
    entries = matrix.tocoo()
    off_diagonal = (entries.row != entries.col) & (entries.data != 0.0)
    rows, columns, values = entries.row[off_diagonal], entries.col[off_diagonal], entries.data[off_diagonal]
    order = np.lexsort((columns, -values, rows))
    rows, columns, values = rows[order], columns[order], values[order]
    counts = np.bincount(rows, minlength=matrix.shape[0])
    places = np.arange(len(rows)) - np.repeat(counts.cumsum() - counts, counts)
    keep = places < neighbours
    return ItemTable(
        indptr=np.concatenate([[0], np.minimum(counts, neighbours).cumsum()]).astype(np.int64),
        indices=columns[keep].astype(np.int32),
        weights=values[keep].astype(np.float16),
    )


def best_of_rows(matrix: Floats, count: int) -> tuple[Keys, Floats]:
    """Give the columns int64[M, K] and values of each row's largest entries, in any order."""
    kept = min(count, matrix.shape[1])
    columns = np.argpartition(-matrix, kept - 1, axis=1)[:, :kept]
    return columns, np.take_along_axis(matrix, columns, axis=1)


def table_of_rows(
    rows: Keys, columns: npt.NDArray[np.integer[Any]], values: Floats, *, n_items: int, neighbours: int
) -> ItemTable:
    """Make a table of N items of M rows that are known.

    Args:
        rows: int64[M], distinct item numbers.
        columns: int[M, K], the item numbers of each row's entries.
        values: float32[M, K].
        n_items: N.
        neighbours: How many entries of each row are kept.
    """
    entries = (values.ravel(), (np.repeat(rows, columns.shape[1]), columns.ravel()))
    return table_of_sparse(sp.csr_array(entries, shape=(n_items, n_items)), neighbours)


def sparse_of(table: ItemTable) -> sp.csr_array:
    """Give the table as float32 [N, N] for products."""
    items = len(table.indptr) - 1
    return sp.csr_array((table.weights.astype(np.float32), table.indices, table.indptr), shape=(items, items))
