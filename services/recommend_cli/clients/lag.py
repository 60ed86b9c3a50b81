"""Reads how far the services are behind the event log, from their metrics."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import httpx

from recommend_cli.clients.metrics import read_metric
from recommend_cli.stack.folder import ServiceState

_LAG_METRIC: Final = "kafka_consumer_lag"
_MEASURED_EVERY_S: Final = 1.0  # by each consumer
_POLL_S: Final = 0.2


async def wait_until_caught_up(
    services: Mapping[str, ServiceState], *, on_lag: Callable[[Mapping[str, int]], None] = lambda _: None
) -> None:
    """Return when every consumer has read what was in the log when this was called.

    Args:
        services: Whose metrics to read.
        on_lag: Takes the events that each service still has to read.
    """
    # Whatever the metrics say now may be from before the last write.
    await asyncio.sleep(2 * _MEASURED_EVERY_S)
    async with httpx.AsyncClient(trust_env=False) as client:
        while True:
            lags = {name: round(await read_metric(client, process, _LAG_METRIC)) for name, process in services.items()}
            on_lag(lags)
            if not any(lags.values()):
                return
            await asyncio.sleep(_POLL_S)
