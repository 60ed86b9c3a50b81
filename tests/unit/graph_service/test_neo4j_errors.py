"""Every exception of Neo4j's driver has its place in our table."""

import pytest
from neo4j import exceptions

from graph_service.adapters.neo4j.errors import (
    ERROR_BY_CLASS,
    error_from_neo4j,
    our_words,
    startup_error_from_neo4j,
)
from servicekit.errors import (
    DeadlineExceededError,
    InternalError,
    ResourceExhaustedError,
    ServiceError,
    StartupError,
    UnavailableError,
)


def family(kind: type[Exception]) -> list[type[Exception]]:
    return [kind, *(each for child in kind.__subclasses__() for each in family(child))]


def said(code: str) -> exceptions.Neo4jError:
    """Give what the driver makes of a server's code."""
    error = exceptions.Neo4jError._hydrate_neo4j(code=code, message="what the server says\nin two lines")
    assert isinstance(error, exceptions.Neo4jError)
    return error


EVERY_CLASS = sorted({*family(exceptions.Neo4jError), *family(exceptions.DriverError)}, key=lambda kind: kind.__name__)


def test_no_class_is_missing_and_none_is_there_in_vain() -> None:
    assert set(ERROR_BY_CLASS) == set(EVERY_CLASS)


@pytest.mark.parametrize("kind", EVERY_CLASS)
def test_each_class_becomes_one_of_ours(kind: type[Exception]) -> None:
    with pytest.raises(ServiceError) as caught, our_words():
        raise kind("gone")
    assert type(caught.value) is ERROR_BY_CLASS[kind]
    assert caught.value.message


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("Neo.ClientError.Transaction.TransactionTimedOut", DeadlineExceededError),
        ("Neo.ClientError.Transaction.TransactionTimedOutClientConfiguration", DeadlineExceededError),
        ("Neo.TransientError.Transaction.DeadlockDetected", UnavailableError),
        ("Neo.TransientError.General.MemoryPoolOutOfMemoryError", ResourceExhaustedError),
        ("Neo.ClientError.Schema.ConstraintValidationFailed", UnavailableError),
        ("Neo.ClientError.Statement.EntityNotFound", UnavailableError),
        ("Neo.ClientError.Statement.SyntaxError", InternalError),
        ("Neo.ClientError.Security.Unauthorized", UnavailableError),
        ("Neo.DatabaseError.General.UnknownError", UnavailableError),
    ],
)
def test_what_the_server_says_decides(code: str, kind: type[ServiceError]) -> None:
    error = error_from_neo4j(said(code))
    assert type(error) is kind
    assert error.message == "Neo4j: what the server says"


def test_our_own_time_out_is_a_deadline() -> None:
    with pytest.raises(DeadlineExceededError), our_words():
        raise TimeoutError


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (said("Neo.ClientError.Security.Unauthorized"), "NEO4J_PASSWORD"),
        (said("Neo.ClientError.Security.AuthenticationRateLimit"), "NEO4J_PASSWORD"),
        (said("Neo.ClientError.Database.DatabaseNotFound"), "NEO4J_DATABASE"),
        (said("Neo.ClientError.Security.Forbidden"), "NEO4J_USERNAME"),
        (exceptions.ConfigurationError("no such scheme"), "GRAPH_STORE_URL"),
    ],
)
def test_what_a_person_must_mend_is_said_in_one_line(error: Exception, remedy: str) -> None:
    told = startup_error_from_neo4j(error, "bolt://there")
    assert isinstance(told, StartupError)
    assert remedy in str(told)
    assert "bolt://there" in str(told)
    assert len(str(told).splitlines()) == 1


@pytest.mark.parametrize("error", [exceptions.ServiceUnavailable("gone"), TimeoutError(), None])
def test_what_may_pass_is_waited_for(error: Exception | None) -> None:
    assert startup_error_from_neo4j(error, "bolt://there") is None
