"""Filters and payload indexes in the words of a Qdrant server; how payloads are stored stands in `stored_payload`.

Beside what is stored there every payload names its tenant, and every filter asks for it.
"""

from collections.abc import Mapping
from typing import Any

from qdrant_client import grpc as pb
from qdrant_client import models

from servicekit.arrays import Keys
from servicekit.filters import Filter, Operator, Predicate
from vector_search.adapters.stored_payload import (
    NAMES,
    SAMPLE,
    is_absence,
    is_number_path,
    operands_by_path,
    path_of,
)

TENANT = "tenant"

IndexParams = models.KeywordIndexParams | models.FloatIndexParams


def standing_indexes() -> dict[str, IndexParams]:
    """Give the payload indexes that every collection has, by path; the tenant's is made first."""
    return {TENANT: tenant_index(), NAMES: index_params(NAMES), SAMPLE: index_params(SAMPLE)}


def tenant_index() -> IndexParams:
    """Give the payload index by which the server keeps a tenant's points together."""
    return models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)


def index_params(path: str) -> IndexParams:
    """Give the payload index that fits what is stored under a path."""
    if is_number_path(path):
        # Extra links for ranges cost much to build; a narrow range is searched exactly anyway.
        return models.FloatIndexParams(type=models.FloatIndexType.FLOAT, enable_hnsw=False)
    return models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD)


def of_tenant(tenant: str) -> models.Filter:
    """Give the filter that all points of a tenant pass."""
    return models.Filter(must=[models.FieldCondition(key=TENANT, match=models.MatchValue(value=tenant))])


def of_tenant_with(tenant: str, keys: Keys) -> models.Filter:
    """Give the filter that these points pass if they are the tenant's."""
    own = models.FieldCondition(key=TENANT, match=models.MatchValue(value=tenant))
    return models.Filter(must=[own, models.HasIdCondition(has_id=keys.tolist())])


def encode_filter(tenant: str, conditions: Filter, *, exclude: Keys | None = None) -> pb.Filter:
    """Translate a filter and excluded keys."""
    encoded = pb.Filter(must=[_any_word(TENANT, [tenant])])
    for predicate in conditions:
        target = encoded.must_not if is_absence(predicate) else encoded.must
        target.append(_condition(predicate))
    if exclude is not None and len(exclude):
        ids = [pb.PointId(num=key) for key in exclude.tolist()]
        encoded.must_not.append(pb.Condition(has_id=pb.HasIdCondition(has_id=ids)))
    return encoded


def payload_values(payload: Mapping[str, pb.Value]) -> dict[str, Any]:
    """Read the texts and whole numbers of a payload of which only these were asked for."""
    return {
        name: value.integer_value if value.HasField("integer_value") else value.string_value
        for name, value in payload.items()
    }


def _condition(predicate: Predicate) -> pb.Condition:
    if predicate.operator in {Operator.GTE, Operator.LTE}:
        bound = float(predicate.values[0])  # type: ignore[arg-type]  # validated where the filter came in
        half = pb.Range(gte=bound) if predicate.operator is Operator.GTE else pb.Range(lte=bound)
        return pb.Condition(field=pb.FieldCondition(key=path_of(predicate.field, 0.0), range=half))
    words, numbers = operands_by_path(predicate)
    anything = [_any_word(path, several) for path, several in words.items()]
    anything += [
        pb.Condition(field=pb.FieldCondition(key=path, range=pb.Range(gte=number, lte=number)))
        for path, several in numbers.items()
        for number in several
    ]
    return anything[0] if len(anything) == 1 else pb.Condition(filter=pb.Filter(should=anything))


def _any_word(path: str, words: list[str]) -> pb.Condition:
    match = pb.Match(keyword=words[0]) if len(words) == 1 else pb.Match(keywords=pb.RepeatedStrings(strings=words))
    return pb.Condition(field=pb.FieldCondition(key=path, match=match))
