"""Cursors: where a page ended, as a text that only means something to us."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence

from profile_store.domain.episodes import RecordPosition
from profile_store.domain.interactions import Position
from profile_store.domain.policies import PolicyPosition
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


def policy_cursor(position: PolicyPosition) -> str:
    """Write where a page of policies ended."""
    return _write([position.user_id, position.state])


def policy_position(cursor: str) -> PolicyPosition | None:
    """Read it; None for the first page.

    Raises:
        InvalidArgumentError: It is none of ours.
    """
    match _read(cursor):
        case None:
            return None
        case [str(user_id), str(state)] if _is_text(user_id) and _is_text(state):
            return PolicyPosition(user_id, state)
    raise _unknown()


def record_cursor(position: RecordPosition) -> str:
    """Write where a page of episodes or rewards ended."""
    return _write([position.occurred_at_ms, position.record_id])


def record_position(cursor: str) -> RecordPosition | None:
    """Read it; None for the first page.

    Raises:
        InvalidArgumentError: It is none of ours.
    """
    match _read(cursor):
        case None:
            return None
        case [int(occurred_at_ms), str(record_id)] if 0 < occurred_at_ms < 2**63 and _is_text(record_id):
            return RecordPosition(occurred_at_ms, record_id)
    raise _unknown()


def _write(parts: Sequence[str | int]) -> str:
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
