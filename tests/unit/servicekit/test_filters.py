"""What conditions mean."""

import math
import operator
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.errors import InvalidArgumentError
from servicekit.filters import (
    MAX_OPERANDS,
    MAX_PREDICATES,
    AttributeValue,
    Operator,
    Predicate,
    matches,
    validate,
    validate_filter,
)

FILM: Mapping[str, AttributeValue] = {
    "country": "fr",
    "genres": ("drama", "crime"),
    "year": 1995.0,
    "rating": 4,
    "colour": True,
    "empty": (),
}


@pytest.mark.parametrize(
    ("field", "op", "values", "expected"),
    [
        ("country", "eq", ("fr",), True),
        ("country", "eq", ("FR",), False),
        ("country", "eq", (1.0,), False),
        ("genres", "eq", ("crime",), True),
        ("genres", "eq", ("cri",), False),
        ("year", "eq", (1995,), True),
        ("year", "eq", ("1995",), False),
        ("colour", "eq", (True,), True),
        ("colour", "eq", (False,), False),
        ("colour", "eq", (1.0,), False),
        ("absent", "eq", ("fr",), False),
        ("country", "in", ("us", "fr"), True),
        ("country", "in", ("us", "de"), False),
        ("genres", "in", ("comedy", "drama"), True),
        ("rating", "in", (True, 4.0), True),
        ("absent", "in", ("fr",), False),
        ("country", "not_in", ("fr",), False),
        ("country", "not_in", ("us",), True),
        ("genres", "not_in", ("drama",), False),
        ("empty", "not_in", ("drama",), True),
        ("absent", "not_in", ("fr",), True),
        ("year", "gte", (1995,), True),
        ("year", "gte", (1995.5,), False),
        ("year", "lte", (1995,), True),
        ("year", "lte", (1994,), False),
        ("country", "gte", (1.0,), False),
        ("colour", "gte", (0.0,), False),
        ("genres", "lte", (9.0,), False),
        ("absent", "gte", (0.0,), False),
        ("absent", "exists", (False,), True),
        ("absent", "exists", (True,), False),
        ("country", "exists", (True,), True),
        ("empty", "exists", (True,), True),
        ("country", "exists", (False,), False),
    ],
)
def test_a_condition_means(field: str, op: str, values: tuple[AttributeValue, ...], expected: bool) -> None:
    predicate = Predicate(field, Operator(op), values)
    validate(predicate)
    assert matches((predicate,), FILM.get) is expected


def test_one_is_not_true() -> None:
    one: Mapping[str, AttributeValue] = {"n": 1}
    assert not matches((Predicate("n", Operator.EQ, (True,)),), one.get)
    assert not matches((Predicate("n", Operator.IN, (True, False)),), one.get)


def test_all_conditions_must_hold() -> None:
    french = Predicate("country", Operator.EQ, ("fr",))
    old = Predicate("year", Operator.LTE, (1950.0,))
    assert matches((french,), FILM.get)
    assert not matches((french, old), FILM.get)


def test_no_condition_lets_everything_pass() -> None:
    assert matches((), FILM.get)


@pytest.mark.parametrize(
    ("op", "values"),
    [
        ("eq", ()),
        ("eq", ("a", "b")),
        ("eq", (("a", "b"),)),
        ("eq", (math.nan,)),
        ("in", ()),
        ("in", ("x",) * (MAX_OPERANDS + 1)),
        ("in", (("a",),)),
        ("gte", ("1",)),
        ("gte", (True,)),
        ("gte", (math.inf,)),
        ("lte", (1.0, 2.0)),
        ("exists", (1.0,)),
        ("exists", ()),
    ],
)
def test_a_wrong_condition_is_refused_and_named(op: str, values: tuple[AttributeValue, ...]) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        validate(Predicate("year", Operator(op), values))
    assert refused.value.field == "year"
    assert "year" in refused.value.message


def test_a_condition_needs_a_field() -> None:
    with pytest.raises(InvalidArgumentError):
        validate(Predicate("", Operator.EQ, ("a",)))


def test_a_filter_is_bounded() -> None:
    predicate = Predicate("year", Operator.EQ, (1.0,))
    validate_filter((predicate,) * MAX_PREDICATES)
    with pytest.raises(InvalidArgumentError, match="at most 20"):
        validate_filter((predicate,) * (MAX_PREDICATES + 1))


VALUES = st.one_of(
    st.text(max_size=3),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.lists(st.text(max_size=2), max_size=3).map(tuple),
)
OPERANDS = st.one_of(st.text(max_size=2), st.integers(-3, 3), st.booleans())


@given(actual=VALUES, values=st.lists(OPERANDS, min_size=1, max_size=4).map(tuple))
def test_not_in_is_the_opposite_of_in(actual: AttributeValue, values: tuple[AttributeValue, ...]) -> None:
    inside = matches((Predicate("f", Operator.IN, values),), {"f": actual}.get)
    outside = matches((Predicate("f", Operator.NOT_IN, values),), {"f": actual}.get)
    assert inside is not outside


@given(actual=VALUES, values=st.lists(OPERANDS, min_size=1, max_size=4).map(tuple))
def test_in_is_any_eq(actual: AttributeValue, values: tuple[AttributeValue, ...]) -> None:
    equal = [matches((Predicate("f", Operator.EQ, (value,)),), {"f": actual}.get) for value in values]
    assert matches((Predicate("f", Operator.IN, values),), {"f": actual}.get) is any(equal)


@given(actual=st.floats(allow_nan=False), bound=st.integers(-1000, 1000))
def test_ranges_compare_numbers(actual: float, bound: int) -> None:
    for op, compare in ((Operator.GTE, operator.ge), (Operator.LTE, operator.le)):
        assert matches((Predicate("f", op, (bound,)),), {"f": actual}.get) is compare(actual, bound)
