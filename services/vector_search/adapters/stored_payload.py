"""How payloads are stored in Qdrant's engine: one stored field per attribute and type, so that an index fits it.

A payload is {"attributes": {"t_genres": ["a", "b"], "n_year": 1995.0, "b_new": "true", "names": ["genres", "year",
"new"]}, "sample": 0.37, "model_id": …, "content_hash": …, "updated_at_ms": …}; older points lack the last.
Truth values are stored as words, because the embedded engine's match on a bool finds nothing; "names" answers whether
an attribute exists, because it takes an empty list for absent.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from servicekit.filters import AttributeValue, Operator, Predicate
from vector_search.domain.dense import SAMPLE_FIELD, Mark, Payload

NAMES = "attributes.names"
SAMPLE = "sample"
MARK_FIELDS = ("model_id", "content_hash", "updated_at_ms")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_]+")


def encode(payload: Payload, *, sample: float) -> dict[str, Any]:
    """Write a payload as the engine stores it."""
    return {
        **encode_state(payload.attributes, payload.mark.updated_at_ms),
        SAMPLE: sample,
        "model_id": payload.mark.model_id,
        "content_hash": payload.mark.content_hash,
    }


def encode_state(attributes: Mapping[str, AttributeValue], updated_at_ms: int) -> dict[str, Any]:
    """Write attributes and their time alone, as the part of a payload that can be replaced by itself."""
    fields: dict[str, Any] = {_stored_name(name, value): _stored(value) for name, value in attributes.items()}
    return {"attributes": {**fields, "names": list(attributes)}, "updated_at_ms": updated_at_ms}


def decode(stored: Mapping[str, Any]) -> Payload:
    """Read back what `encode` wrote."""
    attributes = {
        _name_of(name): _value_of(name, value) for name, value in stored["attributes"].items() if name != "names"
    }
    return Payload(attributes, decode_mark(stored))


def decode_mark(stored: Mapping[str, Any]) -> Mark:
    """Read the mark alone."""
    return Mark(stored["model_id"], stored["content_hash"], int(stored.get("updated_at_ms", 0)))


def attribute_paths(stored: Mapping[str, Any]) -> Iterator[str]:
    """Give the paths of the fields of a stored payload that an index is for."""
    return (f"attributes.{name}" for name in stored["attributes"] if name != "names")


def is_number_path(path: str) -> bool:
    """Tell whether numbers are stored there, words otherwise."""
    return path == SAMPLE or (path.startswith("attributes.n") and path != NAMES)


def is_absence(predicate: Predicate) -> bool:
    """Tell whether a predicate holds where what `operands_by_path` looks for is not there."""
    asks_for_none = predicate.operator is Operator.EXISTS and predicate.values[0] is False
    return predicate.operator is Operator.NOT_IN or asks_for_none


def operands_by_path(predicate: Predicate) -> tuple[dict[str, list[str]], dict[str, list[float]]]:
    """Give which words and which numbers a predicate that compares for equality looks for, by path."""
    words: dict[str, list[str]] = {}
    numbers: dict[str, list[float]] = {}
    if predicate.operator is Operator.EXISTS:
        return {NAMES: [predicate.field]}, numbers
    for value in predicate.values:
        path = path_of(predicate.field, value)
        if isinstance(value, str | bool):
            words.setdefault(path, []).append(str(_stored(value)))
        elif not isinstance(value, tuple):
            numbers.setdefault(path, []).append(float(value))
    return words, numbers


def path_of(field: str, value: AttributeValue) -> str:
    """Give where a value of an attribute is stored."""
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
