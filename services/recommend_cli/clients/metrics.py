"""Reads the metrics that the services export."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

from recommend_cli.stack.folder import ServiceState
from recommend_cli.stack.ports import LOOPBACK


async def read_metric(client: httpx.AsyncClient, process: ServiceState, name: str, **labels: str) -> float:
    """Give the sum of a metric's samples that have these labels, as they are now; 0 where there are none.

    Raises:
        httpx.HTTPError: The process does not answer.
    """
    answer = await client.get(f"http://{LOOPBACK}:{process.metrics_port}/metrics")
    answer.raise_for_status()
    return sum(
        sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
