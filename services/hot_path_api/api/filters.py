"""Reads filters, exclusions and weights from query strings and bodies."""

from collections.abc import Sequence
from functools import lru_cache
from math import isfinite

from hot_path_api.api.schemas import DEFAULT_ITEM_TYPE, MAX_NUMBER, ItemRefBody, PredicateBody
from hot_path_api.domain.items import ID_PATTERN, TYPE_PATTERN
from servicekit.errors import InvalidArgumentError
from servicekit.filters import AttributeValue, Filter, Operator, Predicate, validate, validate_filter
from servicekit.identity import item_key

_OPERATORS = ", ".join(Operator)


@lru_cache(maxsize=1_000)
def read_filter(conditions: tuple[str, ...], item_type: str | None) -> Filter:
    """Read `field:op:value` from a query string; the values of in and not_in are separated by commas.

    A query string does not say which type a value has, so eq, in and not_in compare with each that it can be read as:
    1957 is the text "1957" and the number, true the text and the truth value.

    Raises:
        InvalidArgumentError: A condition is malformed; names the parameter.
    """
    predicates = [_read_condition(text, f"filter[{at}]") for at, text in enumerate(conditions)]
    return _complete(predicates, item_type)


def convert_filter(conditions: Sequence[PredicateBody], item_type: str | None) -> Filter:
    """Convert the conditions of a body, whose values have types.

    Raises:
        InvalidArgumentError: A condition is malformed; names the field.
    """
    predicates = []
    for at, each in enumerate(conditions):
        operator = _operator(each.op, f"filter[{at}].op")
        predicates.append(_checked(Predicate(each.field, operator, each.value), f"filter[{at}].value"))
    return _complete(predicates, item_type)


def read_excluded(tenant: str, values: Sequence[str], item_type: str | None) -> list[int]:
    """Read item ids, or TYPE/ID where no item_type is given, into keys.

    Raises:
        InvalidArgumentError: One is too long or malformed.
    """
    keys = []
    for value in values:
        kind, slash, item_id = value.partition("/")
        if item_type is not None or not slash:
            kind, item_id = item_type or DEFAULT_ITEM_TYPE, value
        if not TYPE_PATTERN.fullmatch(kind) or not ID_PATTERN.fullmatch(item_id):
            raise InvalidArgumentError("exclude takes an item_id, or ITEM_TYPE/ITEM_ID", field="exclude")
        keys.append(item_key(tenant, kind, item_id))
    return keys


def convert_refs(tenant: str, refs: Sequence[ItemRefBody]) -> list[int]:
    """Convert identities to keys."""
    return [item_key(tenant, ref.item_type, ref.item_id) for ref in refs]


@lru_cache(maxsize=1_000)
def read_weights(text: str) -> dict[str, float]:
    """Read `source:weight,source:weight`.

    Raises:
        InvalidArgumentError: It is malformed.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, colon, number = part.partition(":")
        try:
            weight = float(number) if colon else float("nan")
        except ValueError:
            weight = float("nan")
        if not name or not abs(weight) <= MAX_NUMBER or name in weights:
            raise InvalidArgumentError(
                f"weights are written as source:weight,source:weight with numbers of at most {MAX_NUMBER:,.0f}",
                field="weights",
            )
        weights[name] = weight
    return weights


def _read_condition(text: str, field: str) -> Predicate:
    name, colon, rest = text.partition(":")
    op, second, value = rest.partition(":")
    if not name or not colon or not second:
        raise InvalidArgumentError(f"a condition is written as field:op:value, not {text[:100]!r}", field=field)
    operator = _operator(op, field)
    texts = value.split(",") if operator in {Operator.IN, Operator.NOT_IN} else [value]
    if operator in {Operator.EQ, Operator.IN, Operator.NOT_IN}:
        operator = Operator.NOT_IN if operator is Operator.NOT_IN else Operator.IN
        operands = tuple(reading for each in texts for reading in _readings(each))
    elif operator is Operator.EXISTS:
        if value not in {"true", "false"}:
            raise InvalidArgumentError(f"{name}:exists takes true or false", field=field)
        operands = (value == "true",)
    else:
        number = _number(value)
        if number is None:
            raise InvalidArgumentError(f"{name}:{op} takes a number, not {value[:100]!r}", field=field)
        operands = (number,)
    return _checked(Predicate(name, operator, operands), field)


def _readings(text: str) -> list[AttributeValue]:
    readings: list[AttributeValue] = [text]
    number = _number(text)
    if number is not None:
        readings.append(number)
    if text in {"true", "false"}:
        readings.append(text == "true")
    return readings


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) else None


def _operator(op: str, field: str) -> Operator:
    try:
        return Operator(op)
    except ValueError as error:
        raise InvalidArgumentError(f"there is no operator {op[:100]!r}; there are {_OPERATORS}", field=field) from error


def _checked(predicate: Predicate, field: str) -> Predicate:
    try:
        validate(predicate)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(error.message, field=field) from error
    return predicate


def _complete(predicates: list[Predicate], item_type: str | None) -> Filter:
    if item_type is not None:
        predicates.append(Predicate("item_type", Operator.EQ, (item_type,)))
    conditions = tuple(predicates)
    validate_filter(conditions)
    return conditions
