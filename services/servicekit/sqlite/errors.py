"""Says in our words what SQLite said: one table, one function."""

import sqlite3

from servicekit.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
)

# SQLite's primary result codes, for the exceptions whose class says too little.
_ERROR_BY_RESULT: dict[int, type[ServiceError]] = {
    sqlite3.SQLITE_BUSY: UnavailableError,
    sqlite3.SQLITE_LOCKED: UnavailableError,
    sqlite3.SQLITE_FULL: UnavailableError,
    sqlite3.SQLITE_IOERR: UnavailableError,
    sqlite3.SQLITE_CANTOPEN: UnavailableError,
    sqlite3.SQLITE_READONLY: UnavailableError,
    sqlite3.SQLITE_PROTOCOL: UnavailableError,
    sqlite3.SQLITE_INTERRUPT: UnavailableError,
    sqlite3.SQLITE_NOMEM: ResourceExhaustedError,
    sqlite3.SQLITE_TOOBIG: InvalidArgumentError,
}
_ERROR_BY_CONSTRAINT: dict[int, type[ServiceError]] = {
    sqlite3.SQLITE_CONSTRAINT_UNIQUE: AlreadyExistsError,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: AlreadyExistsError,
    sqlite3.SQLITE_CONSTRAINT_ROWID: AlreadyExistsError,
    sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY: FailedPreconditionError,
}
ERROR_BY_CLASS: dict[type[sqlite3.Error], type[ServiceError]] = {
    sqlite3.InterfaceError: InternalError,
    sqlite3.DatabaseError: InternalError,  # a damaged file among others
    sqlite3.DataError: InvalidArgumentError,
    sqlite3.OperationalError: InternalError,  # wrong SQL, unless its result code says otherwise
    sqlite3.IntegrityError: InvalidArgumentError,  # CHECK and NOT NULL, unless the constraint says otherwise
    sqlite3.InternalError: InternalError,
    sqlite3.ProgrammingError: InternalError,
    sqlite3.NotSupportedError: InternalError,
    sqlite3.Error: InternalError,
}


def error_from_sqlite(error: sqlite3.Error) -> ServiceError:
    """Say in our words what SQLite said."""
    extended = getattr(error, "sqlite_errorcode", None) or 0
    kind = _ERROR_BY_CONSTRAINT.get(extended) or _ERROR_BY_RESULT.get(extended & 0xFF)
    if kind is None:
        kind = next(ERROR_BY_CLASS[each] for each in type(error).__mro__ if each in ERROR_BY_CLASS)
    return kind(f"database: {error}")
