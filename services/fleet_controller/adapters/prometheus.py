"""The Measurements of a Prometheus."""

import math

import httpx

from fleet_controller.adapters.http import ask


class PrometheusMeasurements:
    """Asks for instant values."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def value(self, query: str) -> float | None:
        """Give the largest of the values that the query gives now; None when it gives none."""
        answer = await ask(self._client, "GET", "/api/v1/query", parameters={"query": query})
        values = [float(sample["value"][1]) for sample in answer["data"]["result"]]
        return max((value for value in values if math.isfinite(value)), default=None)
