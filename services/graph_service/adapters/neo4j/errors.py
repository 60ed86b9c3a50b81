"""Says in our words what Neo4j's driver said: one table, one function, one context manager."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from neo4j import exceptions

from servicekit.errors import (
    DeadlineExceededError,
    InternalError,
    ResourceExhaustedError,
    ServiceError,
    StartupError,
    UnavailableError,
)

# What may pass by itself, or by a person's help, is unavailable: then the consumer waits and puts no record aside.
ERROR_BY_CLASS: Final[dict[type[Exception], type[ServiceError]]] = {
    exceptions.ClientError: InternalError,
    exceptions.CypherSyntaxError: InternalError,
    exceptions.CypherTypeError: InternalError,
    exceptions.ConstraintError: UnavailableError,  # two replicas made the same thing at once; the next try finds it
    exceptions.AuthError: UnavailableError,  # at the start it is a StartupError, later the password has been changed
    exceptions.TokenExpired: UnavailableError,
    exceptions.Forbidden: UnavailableError,
    exceptions.DatabaseError: UnavailableError,  # a full disk among others
    exceptions.TransientError: UnavailableError,
    exceptions.DatabaseUnavailable: UnavailableError,
    exceptions.NotALeader: UnavailableError,
    exceptions.ForbiddenOnReadOnlyDatabase: UnavailableError,
    exceptions.Neo4jError: InternalError,
    exceptions.SessionError: InternalError,
    exceptions.TransactionError: InternalError,
    exceptions.TransactionNestingError: InternalError,
    exceptions.ResultError: InternalError,
    exceptions.ResultFailedError: InternalError,
    exceptions.ResultConsumedError: InternalError,
    exceptions.ResultNotSingleError: InternalError,
    exceptions.BrokenRecordError: InternalError,
    exceptions.SessionExpired: UnavailableError,
    exceptions.ServiceUnavailable: UnavailableError,
    exceptions.RoutingServiceUnavailable: UnavailableError,
    exceptions.WriteServiceUnavailable: UnavailableError,
    exceptions.ReadServiceUnavailable: UnavailableError,
    exceptions.IncompleteCommit: UnavailableError,  # it may be there; doing it again changes nothing more
    exceptions.ConfigurationError: InternalError,
    exceptions.AuthConfigurationError: InternalError,
    exceptions.CertificateConfigurationError: InternalError,
    exceptions.UnsupportedServerProduct: InternalError,
    exceptions.ConnectionPoolError: ResourceExhaustedError,
    exceptions.ConnectionAcquisitionTimeoutError: ResourceExhaustedError,
    exceptions.DriverError: InternalError,
}
# The server's codes, for the exceptions whose class says too little.
_ERROR_BY_CODE: Final[dict[str, type[ServiceError]]] = {
    "Neo.ClientError.Transaction.TransactionTimedOut": DeadlineExceededError,
    "Neo.ClientError.Transaction.TransactionTimedOutClientConfiguration": DeadlineExceededError,
    "Neo.ClientError.Transaction.LockClientStopped": DeadlineExceededError,
    "Neo.TransientError.Transaction.LockAcquisitionTimeout": DeadlineExceededError,
    "Neo.TransientError.General.MemoryPoolOutOfMemoryError": ResourceExhaustedError,
    "Neo.TransientError.General.TransactionMemoryLimit": ResourceExhaustedError,
    "Neo.ClientError.Database.DatabaseNotFound": UnavailableError,
    "Neo.ClientError.Statement.EntityNotFound": UnavailableError,  # deleted by another replica in this moment
    "Neo.ClientError.Security.AuthenticationRateLimit": UnavailableError,
}
# What no waiting mends when a service starts, and what to do about it.
_REMEDY_BY_CODE: Final[dict[str, str]] = {
    "Neo.ClientError.Security.Unauthorized": "check NEO4J_USERNAME and NEO4J_PASSWORD",
    "Neo.ClientError.Security.AuthenticationRateLimit": "check NEO4J_USERNAME and NEO4J_PASSWORD, then wait a moment",
    "Neo.ClientError.Security.CredentialsExpired": "change the password in Neo4j, then set NEO4J_PASSWORD",
    "Neo.ClientError.Security.Forbidden": "give NEO4J_USERNAME the right to read and write the database",
    "Neo.ClientError.Database.DatabaseNotFound": "check NEO4J_DATABASE",
}
_REMEDY_BY_CLASS: Final[dict[type[Exception], str]] = {
    exceptions.AuthError: "check NEO4J_USERNAME and NEO4J_PASSWORD",
    exceptions.ConfigurationError: "check GRAPH_STORE_URL",
    exceptions.UnsupportedServerProduct: "check GRAPH_STORE_URL",
}


def error_from_neo4j(error: Exception) -> ServiceError:
    """Say in our words what the driver said."""
    kind = _ERROR_BY_CODE.get(_code(error))
    if kind is None:
        kind = next(ERROR_BY_CLASS[each] for each in type(error).__mro__ if each in ERROR_BY_CLASS)
    return kind(f"Neo4j: {_said(error)}")


def startup_error_from_neo4j(error: BaseException | None, url: str) -> StartupError | None:
    """Say what a person has to change; None for what waiting may mend."""
    remedy = _REMEDY_BY_CODE.get(_code(error)) or next(
        (_REMEDY_BY_CLASS[each] for each in type(error).__mro__ if each in _REMEDY_BY_CLASS), None
    )
    return None if remedy is None else StartupError(f"Neo4j at {url} refuses us ({_said(error)}): {remedy}")


@contextmanager
def our_words() -> Iterator[None]:
    """Turn the driver's exceptions, and a time-out of our own, into ours.

    Raises:
        ServiceError: As the table says.
    """
    try:
        yield
    except (exceptions.Neo4jError, exceptions.DriverError) as error:
        raise error_from_neo4j(error) from error
    except TimeoutError as error:
        raise DeadlineExceededError("Neo4j did not answer in time") from error


def _code(error: BaseException | None) -> str:
    return (error.code or "") if isinstance(error, exceptions.Neo4jError) else ""


def _said(error: BaseException | None) -> str:
    """Give the first line of a message, without the dot at its end."""
    said = (error.message or "") if isinstance(error, exceptions.Neo4jError) else str(error)
    return (said or type(error).__name__).splitlines()[0].rstrip(".")
