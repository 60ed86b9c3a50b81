"""The event log of a stack as the command sees it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from recommend_cli.clients.services import errors_told
from recommend_cli.stack.stores import Stores
from servicekit.eventlog.open import event_log_of
from servicekit.eventlog.port import EventLog
from servicekit.settings import ServiceSettings


@asynccontextmanager
async def opened_log(stores: Stores) -> AsyncIterator[EventLog]:
    """Open the log of these stores; what it says against a call becomes an error for people."""
    told: dict[str, Any] = {name.lower(): value for name, value in stores.settings.items() if value}
    settings = ServiceSettings(**told | {"event_log_url": stores.event_log_url})
    with errors_told():
        log = event_log_of(settings)
        try:
            yield log
        finally:
            await log.close()
