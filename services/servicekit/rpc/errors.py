"""Carries the error tree over gRPC: one table there, one table back, and the trailing metadata between them."""

from urllib.parse import quote, unquote

import grpc
import grpc.aio

from servicekit.errors import (
    AlreadyExistsError,
    CircuitOpenError,
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    ServiceError,
    UnauthenticatedError,
    UnavailableError,
    error_from_code,
)

CODE_KEY = "error-code"
FIELD_KEY = "error-field"
# gRPC refuses more than 8 KiB of metadata, and a byte may become three on the wire.
_MAX_MESSAGE_BYTES = 2_000
_MAX_FIELD_BYTES = 300

STATUS_BY_ERROR: dict[type[ServiceError], grpc.StatusCode] = {
    InvalidArgumentError: grpc.StatusCode.INVALID_ARGUMENT,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    FailedPreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    ResourceExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
    CircuitOpenError: grpc.StatusCode.UNAVAILABLE,
    InternalError: grpc.StatusCode.INTERNAL,
}

# What a status means when no service of ours sent it, but gRPC itself or a proxy did.
ERROR_BY_STATUS: dict[grpc.StatusCode, type[ServiceError]] = {
    grpc.StatusCode.OK: InternalError,  # an error that says it is none
    grpc.StatusCode.CANCELLED: UnavailableError,  # the other side gave up, we did not
    grpc.StatusCode.UNKNOWN: InternalError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.PERMISSION_DENIED: UnauthenticatedError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.ABORTED: UnavailableError,  # a conflict: the same call may succeed
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgumentError,
    grpc.StatusCode.UNIMPLEMENTED: InternalError,  # the two sides speak different versions
    grpc.StatusCode.INTERNAL: InternalError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DATA_LOSS: InternalError,
}


def status_of(error: ServiceError) -> grpc.StatusCode:
    """Give the status of an error, or that of its nearest ancestor in the table."""
    for kind in type(error).__mro__:
        status = STATUS_BY_ERROR.get(kind)
        if status is not None:
            return status
    return grpc.StatusCode.INTERNAL


def details_of(error: ServiceError) -> str:
    """Give the message as it may travel: cut where metadata would grow too large."""
    return _cut(error.message, _MAX_MESSAGE_BYTES)


def trailers_of(error: ServiceError) -> tuple[tuple[str, str], ...]:
    """Give the trailing metadata that lets `error_from_rpc` rebuild the error."""
    if error.field:
        return ((CODE_KEY, error.code), (FIELD_KEY, quote(_cut(error.field, _MAX_FIELD_BYTES), safe="[]./_-")))
    return ((CODE_KEY, error.code),)


def error_from_rpc(error: grpc.aio.AioRpcError, *, target: str) -> ServiceError:
    """Rebuild the error that the other side raised, or say in our words what gRPC said."""
    code = field = ""
    for key, value in error.trailing_metadata():
        if key == CODE_KEY:
            code = str(value)
        elif key == FIELD_KEY:
            field = unquote(str(value))
    message = error.details() or ""
    if code:
        return error_from_code(code, message, field=field)
    kind = ERROR_BY_STATUS.get(error.code(), InternalError)
    return kind(f"{target}: {message or error.code().name}")


def _cut(text: str, max_bytes: int) -> str:
    if len(text) * 4 <= max_bytes:
        return text
    encoded = text.encode()
    return text if len(encoded) <= max_bytes else encoded[:max_bytes].decode(errors="ignore")
