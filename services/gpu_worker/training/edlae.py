"""EDLAE: the closed-form item-item model, on plain co-occurrence and on co-occurrence within a session.

Harald Steck, "Autoencoders that don't overfit towards the Identity", NeurIPS 2020. With the Gram matrix G the weights
are B = I - P diag(P)^-1, P = (G + L)^-1, where L = lambda + p/(1-p) diag(G) is the ridge that dropout of rate p amounts
to. Here the Gram matrix may be any kernel that says how often two items go together.
"""

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse as sp

from gpu_worker.domain.training import ItemTable
from gpu_worker.training.sequences import Sequences, tied_positions
from gpu_worker.training.tables import best_of_rows, table_of_rows
from servicekit.arrays import Floats, Keys

LONGEST_SESSION_HISTORY = 500
"""A user's newest items that enter the session kernel, whose cost is quadratic in them."""

Gram = npt.NDArray[np.float64]


def dense_items(sequences: Sequences, most: int) -> Keys:
    """Give the sorted numbers of the items that take part: those with users, the most popular `most` of them."""
    popularity = sequences.popularity()
    most_popular = np.argsort(-popularity, kind="stable")[:most]
    return np.sort(most_popular[popularity[most_popular] > 0.0])


def cooccurrence_gram(sequences: Sequences, members: Keys) -> Gram:
    """Count for each two of the members the users who took to both: float64[M, M]."""
    users = sp.csr_array(
        (np.ones(len(sequences.items)), (sequences.users, sequences.items)),
        shape=(sequences.n_users, sequences.n_items),
    )[:, members]
    gram: Gram = (users.T @ users).toarray()
    return gram


def session_gram(sequences: Sequences, members: Keys, *, half_life_items: float) -> Gram:
    """Count pairs by how close they stand in a user's history: sum over users of 0.5^(|p - q| / half-life).

    Items of one moment share their mean position. The kernel is positive definite, so the closed form still holds.
    """
    place = np.full(sequences.n_items, -1)
    place[members] = np.arange(len(members))
    positions = tied_positions(sequences.times_s, sequences.users)
    gram = np.zeros((len(members), len(members)))
    for begin, end in zip(sequences.starts[:-1], sequences.starts[1:], strict=True):
        begin = max(begin, end - LONGEST_SESSION_HISTORY)  # noqa: PLW2901 - the newest part of the same history
        rows = place[sequences.items[begin:end]]
        known = rows >= 0
        rows, where = rows[known], positions[begin:end][known]
        gram[np.ix_(rows, rows)] += 0.5 ** (np.abs(where[:, None] - where[None, :]) / half_life_items)
    return gram


def edlae(gram: Gram, *, ridge: float, dropout: float) -> Floats:
    """Solve for the weights: float32[M, M], zero diagonal; column j predicts item j from the others."""
    counts = np.diag(gram).copy()
    system = gram.copy()
    system[np.diag_indices_from(system)] += dropout / (1.0 - dropout) * counts + ridge
    factor, info = scipy.linalg.lapack.dpotrf(system, lower=1, overwrite_a=1)
    if info:
        raise ArithmeticError(f"the Gram matrix is not positive definite (dpotrf: {info})")
    inverse, _ = scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    weights: Floats = (-inverse / np.diag(inverse)).astype(np.float32)
    np.fill_diagonal(weights, 0.0)
    return weights


def table_of_members(weights: Floats, members: Keys, n_items: int, neighbours: int) -> ItemTable:
    """Cut the members' weights down and number them by the whole catalogue."""
    columns, values = best_of_rows(weights, neighbours)
    return table_of_rows(members, members[columns], values, n_items=n_items, neighbours=neighbours)
