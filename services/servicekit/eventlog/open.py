"""Opens the event log that a URL names."""

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from servicekit.clock import Clock, SystemClock
from servicekit.errors import InvalidArgumentError
from servicekit.eventlog.memory import MemoryEventLog
from servicekit.eventlog.port import EventLog
from servicekit.eventlog.sqlite import SqliteEventLog


def open_event_log(url: str, *, clock: Clock | None = None) -> EventLog:
    """Open `sqlite:///ABSOLUTE_FOLDER`, with `?sync=normal` to trade power-loss safety for speed, or `memory://`.

    Nothing is read or made before the log is used.

    Raises:
        InvalidArgumentError: The URL names no log that we know.
    """
    parts = urlsplit(url)
    clock = clock or SystemClock()
    if parts.scheme == "memory":
        return MemoryEventLog(clock=clock)
    sync = parse_qs(parts.query).get("sync", ["full"])[-1]
    if parts.scheme == "sqlite" and not parts.netloc and parts.path.startswith("/") and sync in {"full", "normal"}:
        return SqliteEventLog(Path(parts.path), sync="full" if sync == "full" else "normal", clock=clock)
    raise InvalidArgumentError(
        f"event_log_url {url!r} is none of sqlite:///ABSOLUTE_FOLDER, sqlite:///ABSOLUTE_FOLDER?sync=normal, memory://",
        field="event_log_url",
    )
