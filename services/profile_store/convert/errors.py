"""Errors of single elements as messages."""

from recommendation.common.v1 import common_pb2
from servicekit.errors import ServiceError


def element_error(error: ServiceError) -> common_pb2.ElementError:
    """Write why one element has no answer."""
    return common_pb2.ElementError(code=error.code, message=error.message, field=error.field)
