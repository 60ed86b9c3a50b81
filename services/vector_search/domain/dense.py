"""The port of one collection of dense vectors, with the rules that every vector passes before it is stored."""

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

import numpy as np

from servicekit.arrays import Floats, Keys
from servicekit.errors import InvalidArgumentError
from servicekit.filters import AttributeValue, Filter

SAMPLE_FIELD = "\x00sample"
"""A field of every point: a number drawn from its key, uniform in [0, 1), under whose filters recall is measured."""

MAX_LIMIT = 10_000
_MAX_LENGTH = 1e18  # the product of two such vectors is still a float32


class Distance(StrEnum):
    """How near two vectors are; higher is nearer."""

    COSINE = "cosine"
    DOT = "dot"


@dataclass(frozen=True, slots=True)
class Mark:
    """Which embedding a point holds, so that an unchanged text is not embedded again."""

    model_id: str = ""
    content_hash: str = ""
    updated_at_ms: int = 0
    """When the item's state came to be that is stored; 0 where nobody kept it."""

    def is_of_same_text(self, other: "Mark") -> bool:
        """Tell whether both are of one text by one encoder."""
        return (self.model_id, self.content_hash) == (other.model_id, other.content_hash)


@dataclass(frozen=True, slots=True)
class Payload:
    """What a point carries beside its vector: the attributes that filters look at, and the embedding's mark."""

    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    mark: Mark = Mark()


@dataclass(frozen=True, slots=True)
class Points:
    """Some points: keys int64[n], vectors float32[n, dimensions], one payload for each."""

    keys: Keys
    vectors: Floats
    payloads: Sequence[Payload]


class Neighbours(NamedTuple):
    """The nearest points of one query: keys int64[m], scores float32[m], by falling score, ties by rising key."""

    keys: Keys
    scores: Floats


@dataclass(frozen=True, slots=True)
class Space:
    """The size of a collection's vectors and how they are compared."""

    dimensions: int
    distance: Distance

    def check_points(self, points: Points) -> Points:
        """Give the points as they are stored: distinct keys (the last one wins), under cosine vectors of length one.

        Raises:
            InvalidArgumentError: A key is negative; a vector is of another size, not finite or, under cosine, zero; an
                attribute is a number that is not finite; the numbers of keys, vectors and payloads differ.
        """
        keys = np.ascontiguousarray(points.keys, dtype=np.int64)
        vectors = self.check_queries(points.vectors)
        if keys.ndim != 1 or not len(keys) == len(vectors) == len(points.payloads):
            raise InvalidArgumentError(
                f"{keys.size} keys, {len(vectors)} vectors and {len(points.payloads)} payloads do not go together",
                field="keys",
            )
        if keys.size and keys.min() < 0:
            raise InvalidArgumentError("an item key is never negative", field="keys")
        if self.distance is Distance.COSINE and not vectors.any(axis=1).all():
            raise InvalidArgumentError("a zero vector has no direction to compare", field="vector")
        check_attributes([payload.attributes for payload in points.payloads])
        last = list({key: row for row, key in enumerate(keys.tolist())}.values())
        if len(last) < keys.size:
            return Points(keys[last], vectors[last], [points.payloads[row] for row in last])
        return Points(keys, vectors, points.payloads)

    def check_queries(self, vectors: Floats) -> Floats:
        """Give the vectors as contiguous float32[n, dimensions], under cosine of length one (or zero, as they were).

        Raises:
            InvalidArgumentError: They are of another size, or a value is not finite, or too large for a dot product.
        """
        matrix = np.ascontiguousarray(vectors, dtype=np.float32)
        if matrix.ndim != 2 or matrix.shape[1] != self.dimensions:
            raise InvalidArgumentError(
                f"a vector of this collection has {self.dimensions} numbers, not the shape {matrix.shape}",
                field="vector",
            )
        if not np.isfinite(matrix).all():
            raise InvalidArgumentError("a vector holds a value that is not finite", field="vector")
        # In double precision no float32 over- or underflows when it is squared.
        lengths = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
        if self.distance is Distance.COSINE:
            unit: Floats = (matrix / np.where(lengths > 0, lengths, 1.0)[:, None]).astype(np.float32)
            return unit
        if matrix.size and lengths.max() > _MAX_LENGTH:
            raise InvalidArgumentError(f"a vector is longer than {_MAX_LENGTH:g}", field="vector")
        return matrix


class DenseIndex(Protocol):
    """The points of one collection of one tenant.

    One owner opens it, calls it from one event loop and closes it once, after which nothing may be called. Any method
    may raise UnavailableError: the store behind it failed.
    """

    @property
    def space(self) -> Space:
        """The size of the vectors and their distance."""
        ...

    async def upsert(self, points: Points) -> None:
        """Store the points, replacing vectors and payloads of those that exist; durable when it returns.

        Raises:
            InvalidArgumentError: As `Space.check_points`; nothing was stored then.
        """
        ...

    async def set_attributes(
        self, keys: Keys, attributes: Sequence[Mapping[str, AttributeValue]], updated_at_ms: Sequence[int]
    ) -> None:
        """Replace all attributes of points and the times of their states, keeping vectors and what these are of.

        A key that is not stored is passed over.

        Raises:
            InvalidArgumentError: As many attributes and times as keys are needed, with finite numbers; nothing was
                changed.
        """
        ...

    async def delete(self, keys: Keys) -> None:
        """Remove points; a key that is not stored is passed over. Durable when it returns."""
        ...

    async def search(
        self,
        vectors: Floats,
        *,
        limit: int,
        conditions: Filter = (),
        exclude: Sequence[Keys] = (),
        exact: bool = False,
    ) -> list[Neighbours]:
        """Find the nearest points of each row of float32[q, dimensions], in order.

        Args:
            vectors: The queries.
            limit: How many neighbours at most, 1 to MAX_LIMIT.
            conditions: Only points that pass, as `servicekit.filters.matches` says.
            exclude: Empty, or for each query the keys that must not come back.
            exact: Compare with every point.

        Raises:
            InvalidArgumentError: A query, the limit or the number of exclusions does not fit. A zero query under cosine
                is no error: it finds nothing.
        """
        ...

    async def vectors(self, keys: Keys) -> tuple[Keys, Floats]:
        """Give the stored ones of these keys in the order asked with their vectors; under cosine of length one."""
        ...

    async def marks(self, keys: Keys) -> list[Mark | None]:
        """Give each key's mark, None where there is no such point."""
        ...

    def scroll(self, page_size: int) -> AsyncIterator[Points]:
        """Give all points in pages by rising key; what is written meanwhile may or may not be in it."""
        ...

    async def count(self) -> int:
        """Give the number of points."""
        ...

    async def close(self) -> None:
        """Write everything down and let the store go. Called once."""
        ...


def check_attributes(attributes: Sequence[Mapping[str, AttributeValue]]) -> None:
    """Check that filters can look at these attributes.

    Raises:
        InvalidArgumentError: A number is not finite; names the attribute.
    """
    for mapping in attributes:
        for name, value in mapping.items():
            if isinstance(value, int | float) and not math.isfinite(value):
                raise InvalidArgumentError(f"the attribute {name} is not a finite number", field=name)


def check_attributes_of(
    keys: Keys, attributes: Sequence[Mapping[str, AttributeValue]], updated_at_ms: Sequence[int]
) -> None:
    """Check the attributes that are to replace those of points, with the times of the states.

    Raises:
        InvalidArgumentError: There are not as many as keys, or a number is not finite.
    """
    if not len(keys) == len(attributes) == len(updated_at_ms):
        raise InvalidArgumentError(
            f"{len(keys)} keys, attributes of {len(attributes)} points and {len(updated_at_ms)} times", field="keys"
        )
    check_attributes(attributes)


def nothing_near() -> Neighbours:
    """The answer to a query that nothing can be near to."""
    return Neighbours(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))


def check_search(vectors: Floats, *, limit: int, exclude: Sequence[Keys]) -> None:
    """Check what every adapter is asked for.

    Raises:
        InvalidArgumentError: The limit is out of range, or there are exclusions but not one for each query.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidArgumentError(f"the limit is 1 to {MAX_LIMIT}, not {limit}", field="limit")
    if exclude and len(exclude) != len(vectors):
        raise InvalidArgumentError(f"{len(exclude)} exclusions for {len(vectors)} queries", field="exclude")


def sample_numbers(keys: Keys) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Draw the SAMPLE_FIELD of each key: float64[n], uniform in [0, 1) whatever the keys are (splitmix64's mixer)."""
    mixed = keys.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53
