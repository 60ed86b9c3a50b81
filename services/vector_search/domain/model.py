"""A model version as the serving path sees it: sources, factors, item columns and what the manifest says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from servicekit.arrays import Floats, Keys
from servicekit.errors import FailedPreconditionError
from servicekit.newcomers import IN_MODEL
from vector_search.domain.catalogue import NO_ITEMS, VersionItems
from vector_search.domain.tables import NO_TABLE, ItemTable, SourceParameters

CONTENT = "content"
NEAREST = "nearest"
FACTORS = "factors"
# Before anything was trained: the last few items by their text.
UNTRAINED = SourceParameters(half_life_items=5.0, max_history=50)


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A table and how the history is weighed when it is read."""

    name: str
    table: ItemTable
    parameters: SourceParameters
    weight: float = 1.0
    """What its share counts in the choice of candidates unless the caller says otherwise."""


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """Behaviour factors: a user is the weighted sum of the fold-in vectors of the history."""

    fold_in: Floats
    """[items, dimensions]."""
    items: Floats
    """[items, dimensions]."""
    parameters: SourceParameters

    def verify(self, items: int) -> None:
        """Check everything that the kernel relies on.

        Raises:
            FailedPreconditionError: The factors are not those of `items` items.
        """
        for name, matrix in (("fold_in", self.fold_in), ("factors", self.items)):
            if matrix.dtype != np.float32 or matrix.ndim != 2 or not matrix.flags.c_contiguous:
                raise FailedPreconditionError(f"{name} must be a float32 matrix in C order")
            if len(matrix) != items or matrix.shape != self.items.shape:
                raise FailedPreconditionError(f"{name} has the shape {matrix.shape}, which does not fit {items} items")
            if not np.isfinite(matrix).all():
                raise FailedPreconditionError(f"{name} holds a value that is not finite")


NO_FACTORS = Factors(np.empty((0, 0), np.float32), np.empty((0, 0), np.float32), SourceParameters())


@dataclass(frozen=True, eq=False)
class ModelVersion:
    """Everything immutable that one version serves from; its arrays may be memory-mapped."""

    name: str
    items: VersionItems
    sources: tuple[Source, ...]
    """In the order of the feature rows; one of them is `content`, to which the overlay belongs."""
    factors: Factors = NO_FACTORS
    columns: Mapping[str, Floats] = field(default_factory=dict)
    """[items] each: what travels as features."""
    encoder: str = ""
    """The model id of the text encoder; empty when the version has no content vectors."""
    content_keys: Keys = field(default_factory=lambda: NO_ITEMS.keys)
    """[vectors]: the items that have a content vector."""
    content_vectors: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))
    """[vectors, dimensions]."""
    trained_at_ms: int = 0
    log_position: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    """By topic and partition, the next offset whose record the version does not know."""
    serving_json: str = ""

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """The rows of a features matrix."""
        return (*(source.name for source in self.sources), NEAREST, FACTORS, *self._columns())

    @cached_property
    def share_names(self) -> tuple[str, ...]:
        """The rows of a features matrix that are shares of sources."""
        return self.feature_names[: len(self.sources) + 1]

    @cached_property
    def content_source(self) -> int:
        """The place of the source to which the overlay belongs."""
        return [source.name for source in self.sources].index(CONTENT)

    def column_matrix(self) -> Floats:
        """Give the item columns as one matrix [columns, items]."""
        columns = self._columns()
        return np.array(list(columns.values()), np.float32).reshape(len(columns), len(self.items.keys))

    def _columns(self) -> Mapping[str, Floats]:
        """Give what travels of each item: the model's columns, and that it is one of the model's."""
        return {**self.columns, IN_MODEL: np.ones(len(self.items.keys), np.float32)} if self.name else self.columns

    def verify(self) -> None:
        """Check what every query relies on.

        Raises:
            FailedPreconditionError: Something does not fit.
        """
        items = len(self.items.keys)
        if (np.diff(self.items.keys) <= 0).any() or (items and self.items.keys[0] < 0):
            raise FailedPreconditionError("item_keys are not positive, ascending and distinct")
        for source in self.sources:
            if source.table is not NO_TABLE:
                source.table.verify(source.name, items)
        if self.factors is not NO_FACTORS:
            self.factors.verify(items)
        for name, column in self.columns.items():
            if column.shape != (items,) or not np.isfinite(column).all():
                raise FailedPreconditionError(f"item column {name} is not {items} finite numbers")


UNTRAINED_MODEL = ModelVersion("", NO_ITEMS, (Source(CONTENT, NO_TABLE, UNTRAINED),))
