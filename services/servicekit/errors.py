"""The error tree that all services raise; edges turn it into gRPC codes or HTTP statuses.

ServiceError
├── InvalidArgumentError      the caller's fault: fix the request
├── UnauthenticatedError      no or a wrong key
├── NotFoundError             what was named does not exist
├── AlreadyExistsError        it exists and must not
├── FailedPreconditionError   right request, wrong state: do something else first
├── ResourceExhaustedError    too much at once: a full queue, a rate limit; try again later
├── DeadlineExceededError     too little time was left
├── UnavailableError          the other side cannot be reached or is not ready; try again
│   └── CircuitOpenError      we did not even try, because it failed too often just now
└── InternalError             our fault

Beside the tree, for nobody but the person who starts a service: StartupError.
"""

from typing import ClassVar


class ServiceError(Exception):
    """Any failure that a caller may be told about.

    Args:
        message: What is wrong and what to do about it, for people.
        field: The request field at fault, empty when none is.
    """

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class InvalidArgumentError(ServiceError):
    """The caller's fault: the request must be fixed."""

    code = "invalid_argument"


class UnauthenticatedError(ServiceError):
    """The request carries no key, or a wrong one."""

    code = "unauthenticated"


class NotFoundError(ServiceError):
    """What was named does not exist."""

    code = "not_found"


class AlreadyExistsError(ServiceError):
    """What was to be made exists already."""

    code = "already_exists"


class FailedPreconditionError(ServiceError):
    """The request is right, the state is not."""

    code = "failed_precondition"


class ResourceExhaustedError(ServiceError):
    """A bound was reached: a queue, a rate; try again later."""

    code = "resource_exhausted"


class DeadlineExceededError(ServiceError):
    """Too little time was left to do it."""

    code = "deadline_exceeded"


class UnavailableError(ServiceError):
    """The other side cannot be reached or is not ready; try again."""

    code = "unavailable"


class CircuitOpenError(UnavailableError):
    """The call was not tried, because the other side failed too often just now."""


class InternalError(ServiceError):
    """Our fault."""

    code = "internal"


def error_from_code(code: str, message: str, *, field: str = "") -> ServiceError:
    """Rebuild the error that another process sent as its code; an unknown code is an InternalError."""
    return _BY_CODE.get(code, InternalError)(message, field=field)


_BY_CODE: dict[str, type[ServiceError]] = {
    kind.code: kind for kind in ServiceError.__subclasses__() if kind is not ServiceError
}


class StartupError(Exception):
    """A service cannot start as it is configured; trying again would not help.

    Args:
        message: One line: what is wrong and what to do about it.
    """
