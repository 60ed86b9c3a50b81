"""What the failures of a Qdrant server mean: one table for gRPC, one for HTTP, by which snapshots are restored."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import grpc.aio
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from servicekit.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    ServiceError,
    UnauthenticatedError,
    UnavailableError,
)

BY_STATUS: dict[grpc.StatusCode, type[ServiceError]] = {
    grpc.StatusCode.OK: InternalError,  # an error that says it is none
    grpc.StatusCode.CANCELLED: UnavailableError,
    grpc.StatusCode.UNKNOWN: UnavailableError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    # A search that is late is done without, as when nobody answers.
    grpc.StatusCode.DEADLINE_EXCEEDED: UnavailableError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.PERMISSION_DENIED: UnauthenticatedError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.ABORTED: UnavailableError,  # a conflict: the same call may succeed
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgumentError,
    grpc.StatusCode.UNIMPLEMENTED: FailedPreconditionError,  # an older server
    grpc.StatusCode.INTERNAL: UnavailableError,  # such as too few replicas for a write
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DATA_LOSS: InternalError,
}
BY_HTTP: dict[int, type[ServiceError]] = {
    400: InvalidArgumentError,
    401: UnauthenticatedError,
    403: UnauthenticatedError,
    404: NotFoundError,
    409: AlreadyExistsError,
    422: InvalidArgumentError,
    429: ResourceExhaustedError,
}
NOT_ITS_PART = frozenset(
    status for status, kind in BY_STATUS.items() if kind is UnavailableError and status is not grpc.StatusCode.ABORTED
)
"""The statuses of a server that did not do its part; all others are answers."""


@contextmanager
def qdrant_errors(what: str) -> Iterator[None]:
    """Turn what the client raises into ServiceErrors; `what` says what was being done."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        kind = BY_STATUS.get(error.code(), UnavailableError)
        raise kind(f"{what}: Qdrant says {error.code().name}: {error.details()}") from error
    except UnexpectedResponse as error:
        kind = BY_HTTP.get(error.status_code or 0, UnavailableError)
        raise kind(f"{what}: Qdrant says {error.status_code}: {error.content.decode(errors='replace')}") from error
    except ApiException as error:
        raise UnavailableError(f"{what}: Qdrant cannot be reached over HTTP") from error
    except QdrantException as error:
        raise ResourceExhaustedError(f"{what}: Qdrant is asked too much at once: {error}") from error
    except TimeoutError as error:
        raise UnavailableError(f"{what}: Qdrant did not answer in time") from error
    except grpc.aio.UsageError as error:
        raise UnavailableError(f"{what}: the connection to Qdrant is closed") from error
    except (ValueError, KeyError) as error:
        # Without a server, in the client's memory, everything that is refused is one of these.
        kind = NotFoundError if "not found" in str(error) else InvalidArgumentError
        raise kind(f"{what}: {error}") from error
