"""Every error as a problem document (RFC 9457): one table from our errors to HTTP."""

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus

import orjson
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from hot_path_api.api.answers import Answer
from hot_path_api.domain.limits import RateLimitedError, Verdict
from servicekit.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    ServiceError,
    UnauthenticatedError,
    UnavailableError,
)

MEDIA_TYPE = "application/problem+json"
BODY = "body"
"""Names the whole body, where no field of it is at fault."""
_MAX_ERRORS = 100
_MAX_MESSAGE_CHARACTERS = 500


class MalformedBodyError(InvalidArgumentError):
    """The body is no JSON."""

    code = "malformed_json"


class BodyTooLargeError(ResourceExhaustedError):
    """The body is longer than the route takes."""

    code = "body_too_large"


class UnsupportedEncodingError(InvalidArgumentError):
    """The body is compressed."""

    code = "unsupported_encoding"


class WriteFencedError(UnavailableError):
    """This region answers, and another one takes the writes."""

    code = "write_fenced"


class InvalidRequestError(InvalidArgumentError):
    """The request has one or several fields that are wrong."""

    def __init__(self, errors: Sequence["FieldError"]) -> None:
        first = errors[0]
        super().__init__(f"{first.field}: {first.message}" if first.field else first.message, field=first.field)
        self.errors = tuple(errors)


class FieldError:
    """What is wrong with one field."""

    __slots__ = ("code", "field", "message")

    def __init__(self, field: str, message: str, code: str = InvalidArgumentError.code) -> None:
        self.field = field
        self.message = message[:_MAX_MESSAGE_CHARACTERS]
        self.code = code

    def as_json(self) -> dict[str, str]:
        """Give it as it stands in `errors`."""
        return {"field": self.field, "code": self.code, "message": self.message}


STATUS_BY_ERROR: Mapping[type[ServiceError], HTTPStatus] = {
    MalformedBodyError: HTTPStatus.BAD_REQUEST,
    UnsupportedEncodingError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    BodyTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    InvalidArgumentError: HTTPStatus.UNPROCESSABLE_ENTITY,
    UnauthenticatedError: HTTPStatus.UNAUTHORIZED,
    NotFoundError: HTTPStatus.NOT_FOUND,
    AlreadyExistsError: HTTPStatus.CONFLICT,
    FailedPreconditionError: HTTPStatus.CONFLICT,
    ResourceExhaustedError: HTTPStatus.TOO_MANY_REQUESTS,
    DeadlineExceededError: HTTPStatus.GATEWAY_TIMEOUT,
    WriteFencedError: HTTPStatus.SERVICE_UNAVAILABLE,
    UnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    InternalError: HTTPStatus.INTERNAL_SERVER_ERROR,
}
_RETRY_AFTER_S = b"1"


def status_of(error: ServiceError) -> HTTPStatus:
    """Give the status of an error, or that of its nearest ancestor in the table."""
    for kind in type(error).__mro__:
        status = STATUS_BY_ERROR.get(kind)
        if status is not None:
            return status
    return HTTPStatus.INTERNAL_SERVER_ERROR


def problem_of(error: ServiceError, *, request_id: str) -> Answer:
    """Give the problem document of an error."""
    status = status_of(error)
    answer = problem(
        status,
        code=error.code,
        detail=error.message,
        request_id=request_id,
        field=error.field,
        errors=error.errors if isinstance(error, InvalidRequestError) else (),
    )
    if isinstance(error, RateLimitedError):
        wait_s = max(math.ceil(error.verdict.wait_s), 1)  # the header knows whole seconds only
        answer.headers += [(b"retry-after", b"%d" % wait_s), *limit_headers(error.verdict)]
    elif status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}:
        answer.headers.append((b"retry-after", _RETRY_AFTER_S))
    elif status is HTTPStatus.UNAUTHORIZED:
        answer.headers.append((b"www-authenticate", b'Bearer realm="recommendation"'))
    return answer


def limit_headers(verdict: Verdict) -> list[tuple[bytes, bytes]]:
    """Give the fields of draft-ietf-httpapi-ratelimit-headers: the policy, and what is left of it."""
    budget = verdict.budget
    more_s = verdict.wait_s or (budget.burst - verdict.remaining) / budget.rate_per_s
    policy = f'"{budget.name}";q={budget.burst};w={math.ceil(budget.window_s)}'
    left = f'"{budget.name}";r={verdict.remaining};t={math.ceil(more_s)}'
    return [(b"ratelimit-policy", policy.encode()), (b"ratelimit", left.encode())]


def problem(
    status: HTTPStatus,
    *,
    code: str,
    detail: str,
    request_id: str,
    field: str = "",
    errors: Sequence[FieldError] = (),
) -> Answer:
    """Write a problem document."""
    document: dict[str, object] = {
        "type": f"urn:problem:recommendation:{code}",
        "title": status.phrase,
        "status": status.value,
        "code": code,
        "detail": detail,
        "request_id": request_id,
    }
    if field:
        document["field"] = field
    if errors:
        document["errors"] = [error.as_json() for error in errors[:_MAX_ERRORS]]
    return Answer(orjson.dumps(document), status=status.value, media_type=MEDIA_TYPE)


def field_errors(error: ValidationError, *, prefix: str = "", whole: str = "") -> list[FieldError]:
    """Say what pydantic found, field by field, in the caller's words; `whole` names what has no such fields at all."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [_field_error(each, prefix, whole) for each in found]


def _field_error(error: ErrorDetails, prefix: str, whole: str) -> FieldError:
    field = prefix
    for part in error["loc"]:
        if isinstance(part, int):
            field += f"[{part}]"
        else:
            field += f".{part}" if field else part
    message = error["msg"]
    if error["type"] == "extra_forbidden":
        message = "there is no such field"
    return FieldError(field or whole, message)
