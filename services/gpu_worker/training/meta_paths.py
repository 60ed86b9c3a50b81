"""The related items of graph_service, computed here once more to fit their weight in the blend without a leak.

graph_service's own lists know every interaction, the held-out ones too. The formula stands at the top of
graph_service.proto; a test on a small catalogue holds the two against each other.
"""

from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sp

from gpu_worker.domain.training import TrainingItem
from gpu_worker.training.sequences import Sequences
from gpu_worker.training.tables import sparse_of, table_of_sparse

# The defaults of graph_service's settings.
_PERSON_DAMPING, _GENRE_DAMPING, _USER_DAMPING = 0.5, 0.75, 0.75
_PERSON_MAX_DEGREE, _GENRE_MAX_DEGREE = 1_000, 5_000
_RELATED_PER_PATH = 100
_ITEMS_PER_USER = 200

HISTORY_ITEMS = 10
"""History items that graph_service uses of each user."""
HALF_LIFE_ITEMS = 2.0
"""After so many positions a history item counts half in graph_service."""
WEIGHTS = {"item_person_item": 0.05, "item_genre_item": 0.1, "item_user_item": 1.0}
"""How the paths add up."""


def related_items(items: Sequence[TrainingItem], sequences: Sequences) -> dict[str, sp.csr_array]:
    """Give the relatedness [N, N] by meta-path."""
    return {
        "item_person_item": _relate(_incidence(items, lambda item: item.people), _PERSON_DAMPING, _PERSON_MAX_DEGREE),
        "item_genre_item": _relate(_incidence(items, lambda item: item.genres), _GENRE_DAMPING, _GENRE_MAX_DEGREE),
        "item_user_item": _relate(_newest(sequences), _USER_DAMPING),
    }


def graph_matrix(paths: dict[str, sp.csr_array]) -> sp.csr_array:
    """Add the paths up and keep of each row what graph_service composes from."""
    total = sp.csr_array(next(iter(paths.values())).shape, dtype=np.float64)
    for name, matrix in paths.items():
        total = total + WEIGHTS[name] * matrix
    return sparse_of(table_of_sparse(sp.csr_array(total), _RELATED_PER_PATH))


def _incidence(items: Sequence[TrainingItem], names_of: Callable[[TrainingItem], Sequence[str]]) -> sp.csr_array:
    numbers: dict[str, int] = {}
    rows, columns = [], []
    for row, item in enumerate(items):
        for name in dict.fromkeys(names_of(item)):
            rows.append(row)
            columns.append(numbers.setdefault(name, len(numbers)))
    return sp.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(items), max(len(numbers), 1)))


def _newest(sequences: Sequences) -> sp.csr_array:
    ends = np.repeat(sequences.starts[1:], np.diff(sequences.starts))
    newest = ends - np.arange(len(sequences.items)) <= _ITEMS_PER_USER
    return sp.csr_array(
        (np.ones(int(newest.sum())), (sequences.items[newest], sequences.users[newest])),
        shape=(sequences.n_items, max(sequences.n_users, 1)),
    )


def _relate(incidence: sp.csr_array, damping: float, max_degree: int | None = None) -> sp.csr_array:
    degrees = incidence.sum(axis=0)
    damped = np.maximum(degrees, 1.0) ** -damping
    if max_degree is not None:
        damped[degrees > max_degree] = 0.0
    per_item = sp.diags_array(np.maximum(incidence.sum(axis=1), 1.0) ** -0.5)
    related = per_item @ incidence @ sp.diags_array(damped) @ incidence.T @ per_item
    return sparse_of(table_of_sparse(sp.csr_array(related), _RELATED_PER_PATH))
