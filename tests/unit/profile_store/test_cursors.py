import pytest

from profile_store.domain.cursors import history_cursor, history_position, item_cursor, item_position
from profile_store.domain.interactions import Position
from servicekit.errors import InvalidArgumentError


def test_cursors_are_read_back() -> None:
    assert item_position(item_cursor("film", "é☼\0")) == ("film", "é☼\0")
    assert history_position(history_cursor(Position(5, 7))) == Position(5, 7)
    assert item_position("") is None
    assert history_position("") is None


@pytest.mark.parametrize(
    "cursor", ["?", "e30=", "bnVsbA==", "WzFd", "Ww==", "é", "x" * 9_999, "WzAsIDBd", "WzEsIDFlOTlaXQ=="]
)
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        history_position(cursor)
    assert error.value.field == "cursor"
    with pytest.raises(InvalidArgumentError):
        item_position(cursor)


def test_one_kind_of_cursor_is_not_the_other() -> None:
    with pytest.raises(InvalidArgumentError):
        item_position(history_cursor(Position(5, 7)))
    with pytest.raises(InvalidArgumentError):
        history_position(item_cursor("film", "a"))
