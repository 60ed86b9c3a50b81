"""Rules, autoscalers and adapters ask for metrics that somebody exports."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from deploy_support.builds import REGIONS, ROOT, WHOLE, build, texts
from deploy_support.metric_names import adapter, exported, from_cloudwatch, recorded, unknown_in, unknown_metrics
from deploy_support.pods import pod_of
from deploy_support.told import SETTINGS


@pytest.mark.parametrize("name", WHOLE)
def test_every_metric_is_exported(name: str) -> None:
    assert unknown_metrics(build(name)) == []


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("sum(rate(http_request_total[5m]))", "nobody exports http_request_total"),
        ('rate(http_requests_total{code=~"5.."}[5m])', "http_requests_total has no label code"),
        ("sum by (cause) (rate(degraded_total[5m]))", "have no label cause"),
        (
            "histogram_quantile(0.99, rate(recommendation_latency_bucket[5m]))",
            "nobody exports recommendation_latency_bucket",
        ),
    ],
)
def test_a_wrong_name_is_found(expression: str, found: str) -> None:
    broken = copy.deepcopy(build("production"))
    broken.get("PrometheusRule", "recommendation")["spec"]["groups"][0]["rules"][0]["expr"] = expression
    assert any(found in problem for problem in unknown_metrics(broken))


def test_an_autoscaler_without_an_adapter_is_found() -> None:
    broken = copy.deepcopy(build("production"))
    broken.get("HorizontalPodAutoscaler", "hot-path-api")["spec"]["metrics"][2]["pods"]["metric"]["name"] = "http_rps"
    assert any("no adapter makes http_rps" in problem for problem in unknown_metrics(broken))


def test_requests_at_the_balancer_come_through_prometheus() -> None:
    """One adapter owns external metrics, so it makes them all, and of what is really asked of CloudWatch."""
    assert {each["name"]["as"] for each in adapter()["externalRules"]} == {
        "kafka_consumer_lag",
        "cloudwatch_alb_request_count",
    }
    assert from_cloudwatch(build("production")).keys() == {"aws_applicationelb_request_count_sum"}
    broken = copy.deepcopy(build("production"))
    configuration = broken.get("ConfigMap", "cloudwatch-exporter")["data"]
    configuration["config.yaml"] = configuration["config.yaml"].replace("name: RequestCount", "name: Requests")
    assert any("nobody exports aws_applicationelb_request" in problem for problem in unknown_metrics(broken))


@pytest.mark.parametrize("name", REGIONS)
def test_the_exporter_asks_for_the_balancer_of_its_region(name: str) -> None:
    whole = build(name)
    (job,) = yaml.safe_load(whole.get("ConfigMap", "cloudwatch-exporter")["data"]["config.yaml"])["discovery"]["jobs"]
    assert job["regions"] == [name]
    # Each request counts once: not for its zone and its target group again.
    assert job["dimensionNameRequirements"] == ["LoadBalancer"]
    (tag,) = job["searchTags"]
    annotations = whole.get("Ingress", "hot-path-api")["metadata"]["annotations"]
    assert annotations["alb.ingress.kubernetes.io/tags"] == f"{tag['key']}={tag['value'].strip('^$')}"
    (container,) = pod_of(whole, "cloudwatch-exporter").spec["containers"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert f"--listen-address=:{container['ports'][0]['containerPort']}" in container["args"]
    assert {"--config.file=/etc/exporter/config.yaml"} <= set(container["args"])
    assert mounted == {"/etc/exporter"}


def test_what_the_fleet_controller_asks_for_is_recorded() -> None:
    asked = SETTINGS["fleet-controller"].model_fields["latency_query"].default
    assert asked == "query_latency_p99"
    assert recorded(build("production")) == {asked, "total_monthly_cost_usd"}


def test_the_catalogue_is_read() -> None:
    assert exported()["http_requests_total"] == {"method", "route", "status"}
    assert exported()["replication_lag_seconds"] == {"topic"}
    assert exported()["recommendation_latency_seconds_bucket"] == {"variant", "le"}


def test_the_lag_between_regions_is_watched_at_five_and_ten_seconds() -> None:
    for region in ("eu-west-1", "ap-southeast-1"):
        (group,) = build(region).get("PrometheusRule", "replication")["spec"]["groups"]
        expressions = {rule["alert"]: (rule["expr"], rule["labels"]["severity"]) for rule in group["rules"]}
        assert expressions == {
            "ReplicationLags": ("max by (topic) (replication_lag_seconds) > 5", "warning"),
            "ReplicationLagsFar": ("max by (topic) (replication_lag_seconds) > 10", "critical"),
            # Neither says anything when nobody exports the metric.
            "ReplicationUnwatched": ('absent(replication_lag_seconds{topic="primary.heartbeats"})', "critical"),
        }
    assert "replication" not in build("us-east-1").names("PrometheusRule")


OBSERVABILITY = ROOT / "docker" / "observability"


def _below(value: Any, key: str) -> Iterator[str]:
    """Give every string under a key, however deep."""
    if isinstance(value, dict):
        yield from (each for name, found in value.items() if name == key for each in texts(found))
        yield from (each for found in value.values() for each in _below(found, key))
    elif isinstance(value, list):
        yield from (each for found in value for each in _below(found, key))


def test_dashboards_and_rules_of_compose_ask_for_what_is_exported() -> None:
    rules = [yaml.safe_load((OBSERVABILITY / name).read_text()) for name in ("rules.yaml", "records.yaml")]
    dashboards = [json.loads(path.read_text()) for path in OBSERVABILITY.glob("grafana/dashboards/*.json")]
    expressions = [*_below(rules, "expr"), *(each for board in dashboards for each in _below(board, "expr"))]
    assert len(expressions) > len(dashboards) > 0
    made = set(_below(rules, "record"))
    assert [problem for each in expressions for problem in unknown_in(each, recorded=made)] == []
