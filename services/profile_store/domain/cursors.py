"""Cursors: where a page ended, as a text that only means something to us."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode

from profile_store.domain.interactions import Position
from servicekit.errors import InvalidArgumentError

_MAX_CURSOR = 4_096


def item_cursor(item_type: str, item_id: str) -> str:
    """Write where a page of the catalogue ended."""
    return _write([item_type, item_id])


def item_position(cursor: str) -> tuple[str, str] | None:
    """Read it; None for the first page.

    Raises:
        InvalidArgumentError: It is none of ours.
    """
    match _read(cursor):
        case None:
            return None
        case [str(item_type), str(item_id)] if _is_text(item_type) and _is_text(item_id):
            return item_type, item_id
    raise _unknown()


def history_cursor(position: Position) -> str:
    """Write where a page of a history ended."""
    return _write([position.occurred_at_ms, position.arrival])


def history_position(cursor: str) -> Position | None:
    """Read it; None for the first page.

    Raises:
        InvalidArgumentError: It is none of ours.
    """
    match _read(cursor):
        case None:
            return None
        case [int(occurred_at_ms), int(arrival)] if 0 < occurred_at_ms < 2**63 and 0 < arrival < 2**63:
            return Position(occurred_at_ms, arrival)
    raise _unknown()


def _write(parts: list[str] | list[int]) -> str:
    return urlsafe_b64encode(json.dumps(parts).encode()).decode()


def _read(cursor: str) -> object:
    if not cursor:
        return None
    if len(cursor) > _MAX_CURSOR:
        raise _unknown()
    try:
        return json.loads(urlsafe_b64decode(cursor.encode())) or ()
    except (ValueError, RecursionError) as error:
        raise _unknown() from error


def _is_text(part: str) -> bool:
    """Tell whether UTF-8 can write it; JSON can say half of a surrogate pair."""
    return part.encode(errors="replace").decode() == part


def _unknown() -> InvalidArgumentError:
    return InvalidArgumentError("cursor is not one that this call gave", field="cursor")
