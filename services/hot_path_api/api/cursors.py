"""Cursors of lists that are made anew for each request: they say how much was shown, and keep no state here."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error

from hot_path_api.domain.recommendations import MAX_DEPTH
from servicekit.errors import InvalidArgumentError

_PREFIX = b"o:"


def write_cursor(offset: int) -> str:
    """Give the cursor of the page that begins after this many items."""
    return urlsafe_b64encode(_PREFIX + str(offset).encode()).decode().rstrip("=")


def read_cursor(cursor: str) -> int:
    """Give how many items were shown before; 0 for the empty cursor.

    Raises:
        InvalidArgumentError: It is no cursor of ours.
    """
    if not cursor:
        return 0
    try:
        plain = urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
        offset = int(plain.removeprefix(_PREFIX)) if plain.startswith(_PREFIX) else -1
    except (Base64Error, ValueError):
        offset = -1
    if not 0 <= offset < MAX_DEPTH:
        raise InvalidArgumentError("this is not a next_cursor that an answer gave", field="cursor")
    return offset
