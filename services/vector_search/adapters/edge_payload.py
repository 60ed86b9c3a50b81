"""How payloads and filters look in qdrant-edge: one stored field per attribute and type, so that an index fits it.

A payload is {"attributes": {"t_genres": ["a", "b"], "n_year": 1995.0, "b_new": "true", "names": ["genres", "year",
"new"]}, "sample": 0.37, "model_id": …, "content_hash": …}. Truth values are stored as words, because the engine's match
on a bool finds nothing; "names" answers whether an attribute exists, because it takes an empty list for absent.
"""

import re
from collections.abc import Mapping
from typing import Any

import qdrant_edge

from servicekit.arrays import Keys
from servicekit.filters import AttributeValue, Filter, Operator, Predicate
from vector_search.domain.dense import SAMPLE_FIELD, Mark, Payload

NAMES = "attributes.names"
SAMPLE = "sample"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_]+")


def encode(payload: Payload, *, sample: float) -> dict[str, Any]:
    """Write a payload as the engine stores it."""
    return {
        **encode_attributes(payload.attributes),
        SAMPLE: sample,
        "model_id": payload.mark.model_id,
        "content_hash": payload.mark.content_hash,
    }


def encode_attributes(attributes: Mapping[str, AttributeValue]) -> dict[str, Any]:
    """Write the attributes alone, as the part of a payload that can be replaced by itself."""
    fields: dict[str, Any] = {_stored_name(name, value): _stored(value) for name, value in attributes.items()}
    return {"attributes": {**fields, "names": list(attributes)}}


def decode(stored: Mapping[str, Any]) -> Payload:
    """Read back what `encode` wrote."""
    attributes = {
        _name_of(name): _value_of(name, value) for name, value in stored["attributes"].items() if name != "names"
    }
    return Payload(attributes, decode_mark(stored))


def decode_mark(stored: Mapping[str, Any]) -> Mark:
    """Read the mark alone."""
    return Mark(stored["model_id"], stored["content_hash"])


def indexes_of(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Give the payload indexes that the fields of a stored payload want, by path."""
    return {f"attributes.{name}": _index(name) for name in stored["attributes"] if name != "names"}


def standing_indexes() -> dict[str, Any]:
    """Give the payload indexes that every shard has, by path."""
    return {NAMES: qdrant_edge.KeywordIndexParams(), SAMPLE: _index("n_")}


def encode_filter(conditions: Filter, *, exclude: Keys | None = None) -> Any:
    """Translate a filter and excluded keys; None when everything passes."""
    must: list[Any] = []
    must_not: list[Any] = []
    for predicate in conditions:
        target = must_not if _is_negative(predicate) else must
        target.append(_condition(predicate))
    if exclude is not None and len(exclude):
        must_not.append(qdrant_edge.HasIdCondition(set(exclude.tolist())))
    return qdrant_edge.Filter(must=must, must_not=must_not) if must or must_not else None


def _is_negative(predicate: Predicate) -> bool:
    is_absence = predicate.operator is Operator.EXISTS and predicate.values[0] is False
    return predicate.operator is Operator.NOT_IN or is_absence


def _condition(predicate: Predicate) -> Any:
    field, operator, values = predicate.field, predicate.operator, predicate.values
    if operator is Operator.EXISTS:
        return qdrant_edge.FieldCondition(NAMES, match=qdrant_edge.MatchAny([field]))
    if operator in {Operator.GTE, Operator.LTE}:
        bound = float(values[0])  # type: ignore[arg-type]  # validated where the filter came in
        of_one = {"gte": bound} if operator is Operator.GTE else {"lte": bound}
        return qdrant_edge.FieldCondition(_path(field, 0.0), range=qdrant_edge.RangeFloat(**of_one))
    words: dict[str, list[str]] = {}
    anything: list[Any] = []
    for value in values:
        path = _path(field, value)
        if isinstance(value, str | bool):
            words.setdefault(path, []).append(str(_stored(value)))
        elif not isinstance(value, tuple):
            equal = qdrant_edge.RangeFloat(gte=float(value), lte=float(value))
            anything.append(qdrant_edge.FieldCondition(path, range=equal))
    anything.extend(
        qdrant_edge.FieldCondition(path, match=qdrant_edge.MatchAny(any_of)) for path, any_of in words.items()
    )
    return anything[0] if len(anything) == 1 else qdrant_edge.Filter(should=anything)


def _path(field: str, value: AttributeValue) -> str:
    return SAMPLE if field == SAMPLE_FIELD else f"attributes.{_stored_name(field, value)}"


def _stored_name(name: str, value: AttributeValue) -> str:
    kind = "b" if isinstance(value, bool) else "n" if isinstance(value, int | float) else "t"
    if _PLAIN_NAME.fullmatch(name):
        return f"{kind}_{name}"
    # Dots, brackets and quotes mean something in the engine's paths.
    return f"{kind}x{name.encode().hex()}"


def _name_of(stored_name: str) -> str:
    rest = stored_name[2:]
    return rest if stored_name[1] == "_" else bytes.fromhex(rest).decode()


def _stored(value: AttributeValue) -> str | float | list[str]:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, str) else float(value)


def _value_of(stored_name: str, stored: Any) -> AttributeValue:
    if stored_name[0] == "b":
        return bool(stored == "true")
    if isinstance(stored, list):
        return tuple(stored)
    return stored if isinstance(stored, str) else float(stored)


def _index(stored_name: str) -> Any:
    if stored_name[0] == "n":
        # Extra links for ranges cost much to build; a narrow range is searched exactly anyway.
        return qdrant_edge.FloatIndexParams(enable_hnsw=False)
    return qdrant_edge.KeywordIndexParams()
