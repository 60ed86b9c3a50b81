"""Keys never change: everything that is stored depends on them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.identity import item_key, user_key

PARTS = st.text(max_size=20)


@pytest.mark.parametrize(
    ("tenant", "item_type", "item_id", "key"),
    [
        ("default", "film", "1", 6688073392636868728),
        ("default", "film", "2", 601915514722538194),
        ("", "", "", 2283521107298152996),
        ("a", "bc", "d", 5607741926919414597),
        ("ab", "c", "d", 7016968887862176300),
        ("t", "artikel", "größe-漢字-🎬", 4925272115442081372),
        ("x" * 64, "y" * 64, "z" * 255, 3334559426581928784),
    ],
)
def test_the_key_of_an_item_is_forever(tenant: str, item_type: str, item_id: str, key: int) -> None:
    assert item_key(tenant, item_type, item_id) == key


@pytest.mark.parametrize(
    ("tenant", "user_id", "key"),
    [
        ("default", "1", 5353544083433096605),
        ("default", "film", 83372289390265494),
        ("t", "größe", 4253018662856832905),
    ],
)
def test_the_key_of_a_user_is_forever(tenant: str, user_id: str, key: int) -> None:
    assert user_key(tenant, user_id) == key


@given(PARTS, PARTS, PARTS)
def test_a_key_is_a_positive_integer_of_63_bits(tenant: str, item_type: str, item_id: str) -> None:
    assert 0 <= item_key(tenant, item_type, item_id) < 2**63


@given(st.tuples(PARTS, PARTS, PARTS), st.tuples(PARTS, PARTS, PARTS))
def test_different_things_have_different_keys(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    assert (item_key(*one) == item_key(*other)) is (one == other)
