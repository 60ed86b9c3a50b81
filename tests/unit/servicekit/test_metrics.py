"""The catalogue is complete, and served."""

import inspect
import re
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.metrics import MetricWrapperBase

from servicekit import metrics
from servicekit.errors import FailedPreconditionError
from servicekit.testing import free_port

NAMES_OF_THE_DEPLOYMENTS = (
    "recommendations_total",
    "recommendation_latency_seconds",
    "vector_search_latency_seconds",
    "gpu_utilization_percent",
    "cache_hits_total",
    "cache_misses_total",
    "http_requests_total",
    "http_request_duration_seconds",
    "stage_latency_seconds",
    "candidates_total",
    "degraded_total",
    "kafka_consumer_lag",
    "model_age_seconds",
    "compute_cost_usd_per_hour",
    "storage_cost_usd_per_month",
)
SERVICES = Path(metrics.__file__).parents[1]


def test_metrics_are_served_until_closed() -> None:
    port = free_port()
    metrics.DEGRADED.labels("graph", "late").inc()

    with metrics.serve_metrics(port), urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()

    assert 'degraded_total{reason="late",source="graph"}' in text
    with pytest.raises(OSError, match="refused"):
        urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5)


def test_a_taken_port_is_told() -> None:
    port = free_port()
    with metrics.serve_metrics(port), pytest.raises(FailedPreconditionError, match=f"{port} .*choose another"):
        metrics.serve_metrics(port)


def test_port_zero_serves_nothing() -> None:
    server = metrics.serve_metrics(0)
    server.close()


def test_closing_twice_is_harmless() -> None:
    server = metrics.serve_metrics(free_port())
    server.close()
    server.close()


@pytest.mark.parametrize("name", NAMES_OF_THE_DEPLOYMENTS)
def test_the_names_that_deployments_rely_on_exist(name: str) -> None:
    families = {family.name for each in _catalogue().values() for family in each.collect()}
    assert name.removesuffix("_total") in families or name in families


def test_each_metric_has_a_comment() -> None:
    source = inspect.getsource(metrics)
    for variable in _catalogue():
        assert re.search(rf"^# .+\n{variable} = ", source, re.MULTILINE), variable


def test_each_metric_is_used_by_somebody() -> None:
    sources = [path.read_text() for path in SERVICES.rglob("*.py") if path != Path(metrics.__file__)]
    assert [name for name in _catalogue() if not any(re.search(rf"\b{name}\b", each) for each in sources)] == []


def test_an_answer_has_a_bucket_at_each_promise() -> None:
    assert metrics.ANSWER_BUCKETS_S == (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.5, 1.0)


def _catalogue() -> dict[str, MetricWrapperBase]:
    return {name: value for name, value in vars(metrics).items() if isinstance(value, MetricWrapperBase)}
