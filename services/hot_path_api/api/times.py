"""Times as clients give them."""

from datetime import datetime

from servicekit.errors import InvalidArgumentError

MAX_AHEAD_MS = 5 * 60 * 1000


def unix_ms(moment: datetime) -> int:
    """Give a time as Unix milliseconds."""
    return round(moment.timestamp() * 1000)


def occurred_at_ms(moment: datetime | None, now_ms: int, *, field: str) -> int:
    """Give when something happened: now when the client does not say.

    Raises:
        InvalidArgumentError: It is more than five minutes ahead.
    """
    return now_ms if moment is None else max(past_ms(moment, now_ms, field=field), 1)  # 0 is how a missing time travels


def past_ms(moment: datetime, now_ms: int, *, field: str) -> int:
    """Give a time that cannot be in the future, as Unix milliseconds.

    Raises:
        InvalidArgumentError: It is more than five minutes ahead.
    """
    given_ms = unix_ms(moment)
    if given_ms > now_ms + MAX_AHEAD_MS:
        raise InvalidArgumentError("it is more than five minutes ahead of the server's clock", field=field)
    return given_ms
