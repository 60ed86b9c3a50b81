"""One table from the driver's exceptions to ours."""

from cassandra import (
    AuthenticationFailed,
    DriverException,
    OperationTimedOut,
    RequestExecutionException,
    RequestValidationException,
)
from cassandra.cluster import NoHostAvailable, QueryExhausted
from cassandra.connection import ConnectionBusy, ConnectionException, CrcException, ProtocolError
from cassandra.pool import NoConnectionsAvailable
from cassandra.protocol import ErrorMessage, NotSupportedError
from cassandra.protocol import InternalError as DriverError

from servicekit.errors import DeadlineExceededError, InternalError, ServiceError, UnavailableError

ERRORS: tuple[tuple[type[Exception], type[ServiceError]], ...] = (
    (OperationTimedOut, DeadlineExceededError),  # by the deadline that we gave
    (AuthenticationFailed, InternalError),  # at start it is a StartupError, see connection.py
    (RequestValidationException, InternalError),  # a statement of ours is wrong, or a right was taken away
    (RequestExecutionException, UnavailableError),  # too few replicas answered, in time or at all
    (NoHostAvailable, UnavailableError),
    (NoConnectionsAvailable, UnavailableError),
    (ConnectionException, UnavailableError),
    (ConnectionBusy, UnavailableError),
    (ProtocolError, UnavailableError),  # what came over the connection was no answer; the driver opens another
    (CrcException, UnavailableError),
    (ErrorMessage, UnavailableError),  # overloaded, bootstrapping and the like, as the server put it
    (NotSupportedError, InternalError),
    (QueryExhausted, InternalError),
    (DriverError, InternalError),
    (DriverException, InternalError),
)
"""The first row that fits counts."""


def translated(error: BaseException) -> BaseException:
    """Give our error for one of the driver's; anything else as it is."""
    for theirs, ours in ERRORS:
        if isinstance(error, theirs):
            told = ours(f"the store: {_first_line(error)}")
            told.__cause__ = error
            return told
    return error


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
