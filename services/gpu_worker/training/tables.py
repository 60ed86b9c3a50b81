"""Cuts item-item matrices down to the few hundred best entries of each row."""

import numpy as np
import scipy.sparse as sp

from gpu_worker.domain.training import ItemTable


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


def sparse_of(table: ItemTable) -> sp.csr_array:
    """Give the table as float32 [N, N] for products."""
    items = len(table.indptr) - 1
    return sp.csr_array((table.weights.astype(np.float32), table.indices, table.indptr), shape=(items, items))
