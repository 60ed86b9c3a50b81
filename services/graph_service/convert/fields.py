"""What questions and changes have in common: ids and attribute values."""

import math
from typing import Final

from recommendation.common.v1 import common_pb2
from servicekit.errors import InvalidArgumentError
from servicekit.filters import AttributeValue

MAX_TENANT: Final = 64
MAX_ITEM_TYPE: Final = 64
MAX_ID: Final = 255


def checked_id(value: str, field: str, longest: int) -> str:
    """Give an id back, or refuse one that is empty or too long.

    Raises:
        InvalidArgumentError: Names the field.
    """
    if not 1 <= len(value) <= longest:
        raise InvalidArgumentError(f"{field} must have 1 to {longest} characters, not {len(value)}", field=field)
    return value


def attribute_value(message: common_pb2.AttributeValue, field: str) -> AttributeValue:
    """Read the value of an attribute or of a filter.

    Raises:
        InvalidArgumentError: There is none, or it is no finite number.
    """
    match message.WhichOneof("kind"):
        case "text":
            return message.text
        case "number":
            if not math.isfinite(message.number):
                raise InvalidArgumentError(f"{field} is not finite", field=field)
            return message.number
        case "flag":
            return message.flag
        case "texts":
            return tuple(message.texts.values)
        case _:
            raise InvalidArgumentError(f"{field} has no value", field=field)
