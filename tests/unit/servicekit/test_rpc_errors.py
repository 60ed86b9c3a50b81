"""Every error of the tree survives the wire, and every status of gRPC means something."""

from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
import pytest

from servicekit import errors
from servicekit.errors import CircuitOpenError, InternalError, InvalidArgumentError, ServiceError, UnavailableError
from servicekit.rpc.errors import ERROR_BY_STATUS, STATUS_BY_ERROR, error_from_rpc, status_of, trailers_of
from servicekit.testing import served


def all_kinds(kind: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from all_kinds(child)


def test_each_error_has_a_status() -> None:
    assert set(STATUS_BY_ERROR) == set(all_kinds())


def test_each_status_has_an_error() -> None:
    assert set(ERROR_BY_STATUS) == set(grpc.StatusCode)


def test_a_status_and_its_error_agree() -> None:
    for kind, status in STATUS_BY_ERROR.items():
        assert issubclass(kind, ERROR_BY_STATUS[status])


def test_an_unlisted_error_has_the_status_of_its_parent() -> None:
    class StrangerError(UnavailableError):
        """Not in the table."""

    class RootlessError(ServiceError):
        """Neither is its parent."""

    assert status_of(StrangerError("x")) is grpc.StatusCode.UNAVAILABLE
    assert status_of(RootlessError("x")) is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("status", list(grpc.StatusCode))
def test_a_status_without_our_metadata_is_told_in_our_words(status: grpc.StatusCode) -> None:
    raised = grpc.aio.AioRpcError(status, grpc.aio.Metadata(), grpc.aio.Metadata(), details="no route")
    error = error_from_rpc(raised, target="profile_store")
    assert type(error) is ERROR_BY_STATUS[status]
    assert error.message == "profile_store: no route"
    assert error.field == ""


def test_a_status_without_a_word_is_named() -> None:
    raised = grpc.aio.AioRpcError(grpc.StatusCode.ABORTED, grpc.aio.Metadata(), grpc.aio.Metadata())
    assert error_from_rpc(raised, target="t").message == "t: ABORTED"


def test_an_unknown_code_is_an_internal_error() -> None:
    trailers = grpc.aio.Metadata(("error-code", "from_the_future"))
    raised = grpc.aio.AioRpcError(grpc.StatusCode.ABORTED, grpc.aio.Metadata(), trailers, details="what?")
    assert type(error_from_rpc(raised, target="t")) is InternalError


def test_without_a_field_none_is_sent() -> None:
    assert trailers_of(InvalidArgumentError("x")) == (("error-code", "invalid_argument"),)


FIELDS = ["", "limit", "items[3].attributes.größe", "a field, with = odd%20 signs\n", "x" * 5000]
MESSAGES = ["too long; use at most 64", "zu groß: ≤ 3 — naïve 漢字 🎬", "two\nlines", "", "漢" * 5000]


@pytest.mark.parametrize("kind", list(all_kinds()))
async def test_every_error_survives_the_wire(
    kind: type[ServiceError], echo: Any, make_stub: Any, service_name: str
) -> None:
    def fail(request: bytes) -> None:
        field, message = (int(part) for part in request.split())
        raise kind(MESSAGES[message], field=FIELDS[field])

    echo.act = fail
    async with served(echo.register, [service_name]) as (_, channel):
        for field, sent_field in enumerate(FIELDS):
            for message, sent_message in enumerate(MESSAGES):
                with pytest.raises(ServiceError) as raised:
                    await channel.unary(make_stub(channel).Echo, b"%d %d" % (field, message), timeout_s=5.0)
                # Who is behind an open circuit cannot be reached: that is all the next one needs to know.
                assert type(raised.value) is (UnavailableError if kind is CircuitOpenError else kind)
                got_field, got_message = raised.value.field, raised.value.message
                assert got_field == sent_field if len(sent_field) < 300 else sent_field.startswith(got_field)
                assert got_message == sent_message if len(sent_message) < 300 else sent_message.startswith(got_message)
                assert bool(got_field) is bool(sent_field)
                assert bool(got_message) is bool(sent_message)
