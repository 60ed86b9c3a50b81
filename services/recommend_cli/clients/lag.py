"""Reads how far the services are behind the event log, from their metrics."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from recommend_cli.stack.folder import ServiceState
from recommend_cli.stack.ports import LOOPBACK

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
            lags = {name: await _lag(client, service) for name, service in services.items()}
            on_lag(lags)
            if not any(lags.values()):
                return
            await asyncio.sleep(_POLL_S)


async def _lag(client: httpx.AsyncClient, service: ServiceState) -> int:
    answer = await client.get(f"http://{LOOPBACK}:{service.metrics_port}/metrics")
    answer.raise_for_status()
    return round(
        sum(
            sample.value
            for family in text_string_to_metric_families(answer.text)
            if family.name == _LAG_METRIC
            for sample in family.samples
        )
    )
