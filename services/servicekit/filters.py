"""Conditions on attributes: what they mean, wherever they are evaluated in Python."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from servicekit.errors import InvalidArgumentError

AttributeValue = str | float | bool | tuple[str, ...]
"""One value of an attribute: a text, a finite number, a truth value, or several texts."""

MAX_OPERANDS = 1_000
MAX_PREDICATES = 20


class Operator(StrEnum):
    """How a predicate compares."""

    EQ = "eq"
    IN = "in"
    NOT_IN = "not_in"
    GTE = "gte"
    LTE = "lte"
    EXISTS = "exists"


_SEVERAL_OPERANDS = (Operator.IN, Operator.NOT_IN)


@dataclass(frozen=True, slots=True)
class Predicate:
    """One condition on one attribute."""

    field: str
    operator: Operator
    values: tuple[AttributeValue, ...]


Filter = tuple[Predicate, ...]
"""All predicates must hold; an empty filter lets everything pass."""


def validate(predicate: Predicate) -> None:
    """Check that a predicate can be evaluated.

    Raises:
        InvalidArgumentError: The number or the type of the operands does not fit the operator; names the field.
    """
    operator, values = predicate.operator, predicate.values
    if not predicate.field:
        raise InvalidArgumentError("a predicate needs the name of an attribute", field="field")
    most = MAX_OPERANDS if operator in _SEVERAL_OPERANDS else 1
    if not 1 <= len(values) <= most:
        wanted = f"1 to {most} values" if most > 1 else "exactly one value"
        raise InvalidArgumentError(
            f"{operator} on {predicate.field} takes {wanted}, not {len(values)}", field=predicate.field
        )
    for value in values:
        _validate_operand(predicate.field, operator, value)


def validate_filter(conditions: Filter) -> None:
    """Check all predicates of a filter and their number.

    Raises:
        InvalidArgumentError: There are too many predicates, or one is wrong.
    """
    if len(conditions) > MAX_PREDICATES:
        raise InvalidArgumentError(f"a filter has at most {MAX_PREDICATES} conditions", field="filter")
    for predicate in conditions:
        validate(predicate)


def matches(conditions: Filter, get: Callable[[str], AttributeValue | None]) -> bool:
    """Tell whether the thing whose attributes `get` looks up passes; None means that it has no such attribute.

    Texts compare exactly, numbers as floats, truth values only with truth values. A comparison of different types is
    false, never an error.
    """
    return all(_holds(predicate, get(predicate.field)) for predicate in conditions)


def _validate_operand(field: str, operator: Operator, value: AttributeValue) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if operator is Operator.EXISTS and not isinstance(value, bool):
        raise InvalidArgumentError(f"exists on {field} takes true or false", field=field)
    if operator in {Operator.GTE, Operator.LTE} and not is_number:
        raise InvalidArgumentError(f"{operator} on {field} takes a number", field=field)
    if is_number and not math.isfinite(float(value)):  # type: ignore[arg-type]
        raise InvalidArgumentError(f"{operator} on {field} takes a finite number", field=field)
    if isinstance(value, tuple):
        raise InvalidArgumentError(f"{operator} on {field} takes single values, not lists", field=field)


def _holds(predicate: Predicate, actual: AttributeValue | None) -> bool:
    operator, values = predicate.operator, predicate.values
    if operator is Operator.EXISTS:
        return (actual is not None) is values[0]
    if operator is Operator.NOT_IN:
        return actual is None or not _is_any(actual, values)
    if actual is None:
        return False
    if operator in {Operator.EQ, Operator.IN}:
        return _is_any(actual, values)
    bound = values[0]
    if isinstance(actual, str | bool | tuple) or isinstance(bound, str | bool | tuple):
        return False
    return actual >= bound if operator is Operator.GTE else actual <= bound


def _is_any(actual: AttributeValue, values: tuple[AttributeValue, ...]) -> bool:
    if isinstance(actual, tuple):
        return any(value in actual for value in values)
    # In Python True equals 1; here it must not.
    is_flag = isinstance(actual, bool)
    return any(actual == value and isinstance(value, bool) is is_flag for value in values)
