"""Health and metrics over HTTP."""

from http import HTTPStatus

import orjson
from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from hot_path_api.api.answers import Answer
from hot_path_api.api.requests import Call
from hot_path_api.api.routing import add_route
from hot_path_api.application.health import Health
from hot_path_api.application.models import ServingModels

_TAG = "health"


class HealthRoutes:
    """The endpoints that need no key."""

    def __init__(self, *, health: Health, models: ServingModels, tenant: str, with_metrics: bool) -> None:
        self._health = health
        self._with_metrics = with_metrics
        self._models = models
        self._tenant = tenant

    def add_to(self, app: FastAPI) -> None:
        """Declare the routes."""
        for path, endpoint, summary in (
            ("/health/live", self.get_live, "The process runs"),
            ("/health/ready", self.get_ready, "Traffic may come; 503 before the start is done and while draining"),
            ("/ready", self.get_ready_too, "The same as /health/ready"),
            ("/health", self.get_health, "What the gateway sees of the other services"),
            *((("/metrics", self.get_metrics, "Prometheus metrics"),) if self._with_metrics else ()),
        ):
            add_route(app, "GET", path, endpoint, summary=summary, tag=_TAG, answers={200: summary})

    async def get_live(self, call: Call) -> Answer:  # noqa: ARG002 - the shape of an endpoint
        """Answer from the event loop, which is the proof."""
        return Answer(b'{"status":"ok"}')

    async def get_ready(self, call: Call) -> Answer:  # noqa: ARG002 - the shape of an endpoint
        """Say whether traffic may come."""
        status = HTTPStatus.OK if self._health.is_ready else HTTPStatus.SERVICE_UNAVAILABLE
        return Answer(orjson.dumps({"status": self._health.state}), status=status)

    async def get_ready_too(self, call: Call) -> Answer:
        """Say whether traffic may come."""
        return await self.get_ready(call)

    async def get_health(self, call: Call) -> Answer:  # noqa: ARG002 - the shape of an endpoint
        """Say what is seen of the others."""
        document = {
            "status": self._health.state,
            "services": self._health.services(),
            "model_version": self._models.current(self._tenant).version,
        }
        status = HTTPStatus.OK if self._health.is_ready else HTTPStatus.SERVICE_UNAVAILABLE
        return Answer(orjson.dumps(document), status=status)

    async def get_metrics(self, call: Call) -> Answer:  # noqa: ARG002 - the shape of an endpoint
        """Write all metrics of this process."""
        return Answer(generate_latest(), media_type=CONTENT_TYPE_LATEST)
