"""An SQLite file for one service: group commit on one writer thread, reads beside it, migrations, our errors."""

from servicekit.sqlite.database import Database
from servicekit.sqlite.errors import ERROR_BY_CLASS, error_from_sqlite
from servicekit.sqlite.schema import Synchronous

__all__ = ["ERROR_BY_CLASS", "Database", "Synchronous", "error_from_sqlite"]
