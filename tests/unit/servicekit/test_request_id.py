"""Request ids are taken when usable, made otherwise."""

import contextvars

import pytest

from servicekit.request_id import begin_request, current_request_id


def test_a_usable_id_is_kept() -> None:
    def begin() -> tuple[str, str]:
        return begin_request("abc-1"), current_request_id()

    assert contextvars.copy_context().run(begin) == ("abc-1", "abc-1")


@pytest.mark.parametrize("given", ["", "a\nb", "é", "x" * 129, "\x7f"])
def test_an_unusable_id_is_replaced(given: str) -> None:
    made = contextvars.copy_context().run(begin_request, given)

    assert len(made) == 16
    assert made != given


def test_without_a_request_it_is_empty() -> None:
    assert current_request_id() == ""


def test_made_ids_differ() -> None:
    assert len({contextvars.copy_context().run(begin_request) for _ in range(100)}) == 100
