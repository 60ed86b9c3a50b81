"""Prometheus, its rules, Alertmanager and Grafana: nothing names what is not there."""

import json
import math
from collections.abc import Iterator
from typing import Any

import promql_parser as promql
import pytest
import yaml

from deploy_support.metric_names import exported
from images.compose import BASE, composed
from images.replay import DOCKER, ROOT

FOLDER = DOCKER / "observability"
DASHBOARD = FOLDER / "grafana" / "dashboards" / "recommendation.json"
_OF_PROMETHEUS = {
    "up": set[str](),
    "ALERTS": {"alertname", "alertstate", "severity"},
    "process_resident_memory_bytes": set[str](),
    "process_cpu_seconds_total": set[str](),
}
"""What Prometheus itself and its client library for Python add."""
_OF_TARGETS = {"job", "instance"}
_UNITS = {"reqps", "percentunit", "percent", "s", "short", "cps", "bytes", "currencyUSD"}
_COLUMNS = 24


def load(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    return document


def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return document


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    return [rule for group in load("rules.yaml")["groups"] for rule in group["rules"]]


def records() -> list[dict[str, Any]]:
    return [rule for group in load("records.yaml")["groups"] for rule in group["rules"]]


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in [*rules(), *records()])
    for panel in panels():
        yield from (target["expr"] for target in panel["targets"])
    yield from (each["expr"] for each in dashboard()["annotations"]["list"] if "expr" in each)


def parse(expression: str) -> promql.Expr:
    return promql.parse(expression.replace("$__rate_interval", "1m").replace("$__interval", "1m"))


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_every_metric_and_label_of_an_expression_is_exported(expression: str) -> None:
    known = {**exported(), **_OF_PROMETHEUS, **{each["record"]: set[str]() for each in records()}}
    selected: list[promql.VectorSelector] = []
    grouped: set[str] = set()
    made: set[str] = set()

    def look(node: promql.Expr) -> None:
        if isinstance(node, promql.VectorSelector):
            selected.append(node)
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            grouped.update(node.modifier.labels)
        if isinstance(node, promql.Call) and node.func.name == "label_replace":
            made.add(str(node.args[1].val))

    promql.walk(parse(expression), look)
    assert selected
    for each in selected:
        assert each.name in known
        asked = {matcher.name for matcher in each.matchers.matchers} - {"__name__"}
        assert asked <= known[each.name] | _OF_TARGETS, each.name
    labels = set().union(*(known[str(each.name)] for each in selected))
    assert grouped <= labels | _OF_TARGETS | made


def test_the_rules_are_those_of_the_cluster() -> None:
    path = ROOT / "deploy" / "k8s" / "components" / "monitoring" / "alerts.yaml"
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]["groups"] == load("rules.yaml")["groups"]


def test_the_records_are_made_in_the_cluster_too() -> None:
    path = ROOT / "deploy" / "k8s" / "components" / "monitoring" / "records.yaml"
    groups = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]["groups"]
    assert records()
    assert all(each in [rule for group in groups for rule in group["rules"]] for each in records())


def test_each_rule_says_how_bad_it_is_and_what_it_means() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"]


def test_prometheus_asks_every_service_where_it_tells() -> None:
    services = composed((BASE, DOCKER / "compose.observability.yaml"))["services"]
    prometheus = load("prometheus.yaml")
    (job,) = prometheus["scrape_configs"]
    targets = [target for group in job["static_configs"] for target in group["targets"]]
    ours = {name: each for name, each in services.items() if str(each["image"]).startswith("recommendation/")}
    assert sorted(targets) == sorted(f"{name}:{each['environment']['METRICS_PORT']}" for name, each in ours.items())
    mounted = {volume.split(":")[1] for volume in services["prometheus"]["volumes"]}
    assert {f"/etc/prometheus/{name}" for name in prometheus["rule_files"]} <= mounted
    (alertmanagers,) = prometheus["alerting"]["alertmanagers"]
    assert alertmanagers["static_configs"] == [{"targets": ["alertmanager:9093"]}]
    assert "alertmanager" in services


def test_alerts_have_a_receiver() -> None:
    alertmanager = load("alertmanager.yaml")
    assert alertmanager["route"]["receiver"] in {receiver["name"] for receiver in alertmanager["receivers"]}
    severities = {rule["labels"]["severity"] for rule in rules()}
    for rule in alertmanager["inhibit_rules"]:
        matchers = [*rule["source_matchers"], *rule["target_matchers"]]
        assert {matcher.split("=")[1].strip('"') for matcher in matchers} <= severities


def test_grafana_finds_its_data_and_its_dashboard() -> None:
    services = composed((BASE, DOCKER / "compose.observability.yaml"))["services"]
    (source,) = load("grafana/datasources.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (variable,) = dashboard()["templating"]["list"]
    assert (variable["type"], variable["query"]) == ("datasource", source["type"])
    assert variable["current"]["value"] == source["uid"]
    (provider,) = load("grafana/dashboards.yaml")["providers"]
    mounts = dict(volume.split(":")[1::-1] for volume in services["grafana"]["volumes"])
    assert mounts[provider["options"]["path"]] == str(DASHBOARD.parent)
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/{DASHBOARD.name}"


def test_the_dashboard_has_what_grafanas_schema_asks_for() -> None:
    board = dashboard()
    assert board["uid"]
    assert board["title"]
    assert board["id"] is None
    assert board["schemaVersion"] >= 36  # data sources are named by type and uid
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in panels():
        assert panel["type"] in {"stat", "timeseries"}
        assert panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        references = [target["refId"] for target in panel["targets"]]
        assert references == sorted(set(references))
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"] in _UNITS
        steps = defaults["thresholds"]["steps"]
        assert steps[0]["value"] is None
        assert [step["value"] for step in steps[1:]] == sorted(step["value"] for step in steps[1:])
        assert panel["fieldConfig"]["overrides"] == []


def test_no_panel_covers_another() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= _COLUMNS
        for column in range(place["x"], place["x"] + place["w"]):
            for line in range(place["y"], place["y"] + place["h"]):
                assert (column, line) not in taken, f"{panel['title']} covers {taken[column, line]}"
                taken[column, line] = panel["title"]


def test_the_dashboard_turns_red_where_an_alert_fires() -> None:
    alarms = {rule["alert"]: parse(rule["expr"]) for rule in rules()}

    def limit_of(title: str) -> float:
        (panel,) = [panel for panel in panels() if panel["title"] == title and panel["type"] == "stat"]
        limit: float = panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]["value"]
        return limit

    def fires_above(alert: str) -> float:
        comparison = alarms[alert]
        assert isinstance(comparison, promql.BinaryExpr)
        factors: list[float] = []

        def look(node: promql.Expr) -> None:
            if isinstance(node, promql.NumberLiteral):
                factors.append(node.val)

        promql.walk(comparison.rhs, look)
        return math.prod(factors)

    assert limit_of("Errors") == fires_above("TooManyErrors")
    assert limit_of("Lists, p99") == fires_above("SlowLists")
    assert limit_of("Degraded lists") == fires_above("DegradedLists")
    assert limit_of("Records behind") == fires_above("ConsumersLag")
    assert limit_of("Age of the model") == fires_above("OldModel")
