"""Filters and payload indexes in the words of qdrant-edge; how payloads are stored stands in `stored_payload`."""

from collections.abc import Mapping
from typing import Any

import qdrant_edge

from servicekit.arrays import Keys
from servicekit.filters import Filter, Operator, Predicate
from vector_search.adapters.stored_payload import (
    NAMES,
    SAMPLE,
    attribute_paths,
    is_absence,
    is_number_path,
    operands_by_path,
    path_of,
)


def indexes_of(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Give the payload indexes that the fields of a stored payload want, by path."""
    return {path: _index(path) for path in attribute_paths(stored)}


def standing_indexes() -> dict[str, Any]:
    """Give the payload indexes that every shard has, by path."""
    return {path: _index(path) for path in (NAMES, SAMPLE)}


def encode_filter(conditions: Filter, *, exclude: Keys | None = None) -> Any:
    """Translate a filter and excluded keys; None when everything passes."""
    must: list[Any] = []
    must_not: list[Any] = []
    for predicate in conditions:
        target = must_not if is_absence(predicate) else must
        target.append(_condition(predicate))
    if exclude is not None and len(exclude):
        must_not.append(qdrant_edge.HasIdCondition(set(exclude.tolist())))
    return qdrant_edge.Filter(must=must, must_not=must_not) if must or must_not else None


def _condition(predicate: Predicate) -> Any:
    if predicate.operator in {Operator.GTE, Operator.LTE}:
        bound = float(predicate.values[0])  # type: ignore[arg-type]  # validated where the filter came in
        of_one = {"gte": bound} if predicate.operator is Operator.GTE else {"lte": bound}
        return qdrant_edge.FieldCondition(path_of(predicate.field, 0.0), range=qdrant_edge.RangeFloat(**of_one))
    words, numbers = operands_by_path(predicate)
    anything: list[Any] = [
        qdrant_edge.FieldCondition(path, range=qdrant_edge.RangeFloat(gte=number, lte=number))
        for path, several in numbers.items()
        for number in several
    ]
    anything.extend(
        qdrant_edge.FieldCondition(path, match=qdrant_edge.MatchAny(any_of)) for path, any_of in words.items()
    )
    return anything[0] if len(anything) == 1 else qdrant_edge.Filter(should=anything)


def _index(path: str) -> Any:
    if is_number_path(path):
        # Extra links for ranges cost much to build; a narrow range is searched exactly anyway.
        return qdrant_edge.FloatIndexParams(enable_hnsw=False)
    return qdrant_edge.KeywordIndexParams()
