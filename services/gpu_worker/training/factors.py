"""iALS: item factors from implicit feedback, with a fold-in that is linear in the history.

Hu, Koren, Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008, by the library `implicit`.
The exact fold-in solves a system for each user; leaving the user's own confidence out of that system makes it one
matrix for all, u = (sum of w_i v_i)(V'V + reg I)^-1, so that a user is a weighted sum of rows, like everything else
that serves.
"""

import numpy as np
import scipy.sparse as sp
from implicit.cpu.als import AlternatingLeastSquares
from threadpoolctl import threadpool_limits

from gpu_worker.training.sequences import Sequences
from servicekit.arrays import Floats

_DIMENSIONS = 64
_ITERATIONS = 10


def item_factors(
    sequences: Sequences, *, regularization: float, alpha: float, seed: int, threads: int
) -> tuple[Floats, Floats]:
    """Learn the factors: (items float32[N, F], fold-in float32[N, F]). The same seed gives the same factors."""
    matrix = sp.csr_matrix(
        (np.ones(len(sequences.items), np.float32), (sequences.users, sequences.items)),
        shape=(sequences.n_users, sequences.n_items),
    )
    with threadpool_limits(1, "blas"):  # the library has threads of its own, and many tiny systems to solve
        model = AlternatingLeastSquares(
            factors=_DIMENSIONS,
            regularization=regularization,
            alpha=alpha,
            iterations=_ITERATIONS,
            random_state=seed,
            num_threads=threads,
        )
        model.fit(matrix, show_progress=False)
    items = np.asarray(model.item_factors, np.float32)
    items[sequences.popularity() == 0.0] = 0.0  # nobody touched them, so what they hold is chance
    system = items.T @ items + regularization * np.eye(_DIMENSIONS, dtype=np.float32)
    fold_in = np.linalg.solve(system, items.T).T
    return items, np.ascontiguousarray(fold_in, np.float32)
