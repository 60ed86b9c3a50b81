"""The error tree is what its drawing says."""

import re

import pytest

from servicekit import errors
from servicekit.errors import InternalError, NotFoundError, ServiceError, UnavailableError, error_from_code


def test_the_drawing_shows_every_error_in_the_order_of_the_file() -> None:
    drawn = re.findall(r"^(?:[├│└ ]+── )?(\w+Error)\b", errors.__doc__ or "", re.MULTILINE)
    defined = [
        name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, ServiceError)
    ]
    assert drawn == defined


@pytest.mark.parametrize("kind", ServiceError.__subclasses__())
def test_an_error_is_rebuilt_from_its_code(kind: type[ServiceError]) -> None:
    if kind.__module__ != errors.__name__:
        return
    rebuilt = error_from_code(kind.code, "what", field="where")
    assert (type(rebuilt), rebuilt.message, rebuilt.field) == (kind, "what", "where")


def test_an_open_circuit_is_told_as_unavailable() -> None:
    assert type(error_from_code(errors.CircuitOpenError.code, "x")) is UnavailableError


def test_an_unknown_code_is_our_fault() -> None:
    assert type(error_from_code("unheard_of", "x")) is InternalError


def test_an_error_reads_as_its_message() -> None:
    assert str(NotFoundError("no item 7", field="item_id")) == "no item 7"
