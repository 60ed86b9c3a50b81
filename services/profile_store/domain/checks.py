"""The checks that several kinds of input share."""

from servicekit.errors import InvalidArgumentError

MAX_AHEAD_MS = 5 * 60 * 1000
"""How far a clock may run ahead of ours before its times are refused: a state from the future would win for ever."""


def check_id(value: str, field: str, longest: int) -> None:
    """Refuse a name that is empty or too long.

    Raises:
        InvalidArgumentError: Names the field.
    """
    if not 1 <= len(value) <= longest:
        raise InvalidArgumentError(f"{field} must have 1 to {longest} characters, not {len(value)}", field=field)


def check_length(value: str, field: str, longest: int) -> None:
    """Refuse a text that is too long.

    Raises:
        InvalidArgumentError: Names the field.
    """
    if len(value) > longest:
        raise InvalidArgumentError(f"{field} must have at most {longest} characters, not {len(value)}", field=field)


def check_not_future(time_ms: int, field: str, now_ms: int) -> None:
    """Refuse a time that is missing or more than five minutes ahead.

    Raises:
        InvalidArgumentError: Names the field.
    """
    if time_ms <= 0:
        raise InvalidArgumentError(f"{field} is missing: give Unix milliseconds", field=field)
    if time_ms > now_ms + MAX_AHEAD_MS:
        raise InvalidArgumentError(f"{field} lies more than five minutes in the future", field=field)


def check_count(count: int, field: str, most: int) -> None:
    """Refuse a batch that is empty or too large.

    Raises:
        InvalidArgumentError: Names the field.
    """
    if not 1 <= count <= most:
        raise InvalidArgumentError(f"{field} must have 1 to {most:,} elements, not {count:,}", field=field)


def check_at_most(count: int, field: str, most: int) -> None:
    """Refuse a batch that is too large; an empty one is right.

    Raises:
        InvalidArgumentError: Names the field.
    """
    if count > most:
        raise InvalidArgumentError(f"{field} must have at most {most:,} elements, not {count:,}", field=field)


def limit_or_default(limit: int, field: str, *, default: int, most: int) -> int:
    """Give the limit asked for, the default for 0.

    Raises:
        InvalidArgumentError: It is above the maximum.
    """
    if not 0 <= limit <= most:
        raise InvalidArgumentError(f"{field} must be at most {most:,}, not {limit:,}", field=field)
    return limit or default
