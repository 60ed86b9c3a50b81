"""The event log in SQLite files: several processes on one machine append and read at once."""

from servicekit.eventlog.sqlite.log import SqliteEventLog

__all__ = ["SqliteEventLog"]
