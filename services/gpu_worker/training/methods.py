"""What a training computes with, and the methods that need nothing but numpy, scipy and implicit."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from gpu_worker.training.edlae import cooccurrence_gram, edlae, session_gram
from gpu_worker.training.factors import item_factors
from gpu_worker.training.recipe import Recipe
from gpu_worker.training.sequences import Sequences
from gpu_worker.training.tables import best_of_rows
from servicekit.arrays import Floats, Keys

_CHUNK = 1024


class Rows(NamedTuple):
    """The best entries of each row, in any order: int64[M, K] columns, float32[M, K] values."""

    columns: Keys
    values: Floats


class EdlaeSolver(Protocol):
    """Solves EDLAE for the co-occurrence kernel and the session kernel; see gpu_worker.training.edlae."""

    @property
    def name(self) -> str:
        """Say for the manifest what computed."""
        ...

    def cooccurrence(
        self, sequences: Sequences, members: Keys, *, ridge: float, dropout: float, neighbours: int
    ) -> Rows:
        """Give the largest weights of each member's row; columns are positions in `members`."""
        ...

    def session(
        self,
        sequences: Sequences,
        members: Keys,
        *,
        half_life_items: float,
        ridge: float,
        dropout: float,
        neighbours: int,
    ) -> Rows:
        """Give the same on the kernel that counts pairs by how close they stand."""
        ...


class NeighbourSearch(Protocol):
    """Finds exact neighbours."""

    @property
    def name(self) -> str:
        """Say for the manifest what computed."""
        ...

    def nearest(self, queries: Floats, vectors: Floats, count: int) -> Rows:
        """Give of `vectors`, float32[M, D], the `count` with the largest dot product for each of `queries`."""
        ...


class FactorModel(Protocol):
    """Learns item factors with a linear fold-in."""

    @property
    def name(self) -> str:
        """Name the model; recipe.alternatives knows what can be tried with it."""
        ...

    def factors(self, sequences: Sequences, recipe: Recipe, *, seed: int) -> tuple[Floats, Floats]:
        """Give (items float32[N, F], fold-in float32[N, F]); the same seed gives the same."""
        ...


@dataclass(frozen=True, slots=True)
class Methods:
    """The methods of one training.

    Args:
        max_dense_items: EDLAE's Gram matrix is dense. Of a larger catalogue so many items take part, the most popular
            ones; the others are reached through transitions, factors and content.
    """

    edlae: EdlaeSolver
    neighbours: NeighbourSearch
    factors: FactorModel
    max_dense_items: int


class NumpyEdlae:
    """See EdlaeSolver."""

    name = "numpy"

    def cooccurrence(
        self, sequences: Sequences, members: Keys, *, ridge: float, dropout: float, neighbours: int
    ) -> Rows:
        """See EdlaeSolver."""
        weights = edlae(cooccurrence_gram(sequences, members), ridge=ridge, dropout=dropout)
        return Rows(*best_of_rows(weights, neighbours))

    def session(
        self,
        sequences: Sequences,
        members: Keys,
        *,
        half_life_items: float,
        ridge: float,
        dropout: float,
        neighbours: int,
    ) -> Rows:
        """See EdlaeSolver."""
        gram = session_gram(sequences, members, half_life_items=half_life_items)
        return Rows(*best_of_rows(edlae(gram, ridge=ridge, dropout=dropout), neighbours))


class NumpyNeighbours:
    """See NeighbourSearch."""

    name = "numpy"

    def nearest(self, queries: Floats, vectors: Floats, count: int) -> Rows:
        """See NeighbourSearch."""
        columns = np.empty((len(queries), count), np.int64)
        values = np.empty((len(queries), count), np.float32)
        for begin in range(0, len(queries), _CHUNK):
            part = slice(begin, begin + _CHUNK)
            columns[part], values[part] = best_of_rows(queries[part] @ vectors.T, count)
        return Rows(columns, values)


class IalsFactors:
    """iALS by the library `implicit`; see FactorModel."""

    name = "ials"

    def __init__(self, *, threads: int) -> None:
        self._threads = threads

    def factors(self, sequences: Sequences, recipe: Recipe, *, seed: int) -> tuple[Floats, Floats]:
        """See FactorModel."""
        return item_factors(
            sequences,
            regularization=recipe.factors_regularization,
            alpha=recipe.factors_alpha,
            seed=seed,
            threads=self._threads,
        )


def numpy_methods(*, threads: int, max_dense_items: int) -> Methods:
    """Give the methods of a machine without a GPU."""
    return Methods(NumpyEdlae(), NumpyNeighbours(), IalsFactors(threads=threads), max_dense_items)
