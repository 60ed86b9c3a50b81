"""The event log of a stack as the command sees it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from recommend_cli.clients.services import errors_told
from recommend_cli.stack.stores import Stores
from servicekit.eventlog.open import open_event_log
from servicekit.eventlog.port import EventLog


@asynccontextmanager
async def opened_log(stores: Stores) -> AsyncIterator[EventLog]:
    """Open the log of these stores; what it says against a call becomes an error for people."""
    with errors_told():
        log = open_event_log(stores.event_log_url)
        try:
            yield log
        finally:
            await log.close()
