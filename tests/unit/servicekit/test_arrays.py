"""Packed arrays survive the way there and back, and refuse what is none."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.arrays import pack_floats, pack_ints, pack_keys, unpack_floats, unpack_ints, unpack_keys
from servicekit.errors import InvalidArgumentError


@given(st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_keys_survive(keys: list[int]) -> None:
    assert unpack_keys(pack_keys(keys), field="keys").tolist() == keys


@given(st.lists(st.integers(-(2**31), 2**31 - 1)))
def test_integers_survive(values: list[int]) -> None:
    assert unpack_ints(pack_ints(values), field="values").tolist() == values


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_numbers_survive(values: list[float]) -> None:
    assert unpack_floats(pack_floats(values), field="values").tolist() == values


def test_the_bytes_are_little_endian() -> None:
    assert pack_keys([1]) == b"\x01" + b"\0" * 7
    assert pack_ints([1]) == b"\x01\0\0\0"
    assert pack_floats([1.0]) == b"\0\0\x80\x3f"


def test_a_matrix_goes_row_by_row_whatever_its_layout() -> None:
    matrix = np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3))
    assert unpack_floats(pack_floats(matrix), field="m").tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("unpack", "packed"), [(unpack_keys, b"1234567"), (unpack_floats, b"12345"), (unpack_ints, b"123")]
)
def test_a_broken_length_names_the_field(unpack: Callable[..., Any], packed: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match="no multiple") as raised:
        unpack(packed, field="weights")
    assert raised.value.field == "weights"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_names_the_field(value: float) -> None:
    with pytest.raises(InvalidArgumentError, match="not finite") as raised:
        unpack_floats(pack_floats([1.0, value]), field="weights")
    assert raised.value.field == "weights"


def test_nothing_is_copied_and_nothing_can_be_changed() -> None:
    keys = unpack_keys(pack_keys([1, 2]), field="keys")
    assert not keys.flags.writeable
    assert not keys.flags.owndata
