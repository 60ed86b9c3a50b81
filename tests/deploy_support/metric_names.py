"""Every metric in a rule, an autoscaler or an adapter is exported by somebody, with the labels that are asked for."""

import re
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final

import yaml

from deploy_support.builds import CLUSTER, Build, build, named
from servicekit import metrics

OF_STORES: Final = {
    "neo4j_database_neo4j_db_query_execution_latency_millis": "Neo4j's metrics reference: a summary, of each database",
}
"""Metrics of the stores themselves, and where they are described."""

OF_PROMETHEUS: Final = {
    "ALERTS": "the server: the alerts that fire",
    "process_cpu_seconds_total": "the client library, of every process",
    "process_resident_memory_bytes": "the client library, of every process",
    "up": "the server: whether a target could be scraped",
}
"""What Prometheus itself makes, and which part of it."""

_OF_CLOUDWATCH: Final = {"account_id", "dimension_LoadBalancer", "name", "region"}
"""The labels that the exporter of CloudWatch gives a balancer's metrics."""

_TARGET_LABELS: Final = {"namespace", "pod", "container", "job", "instance"}
_KEYWORDS: Final = {
    "by",
    "on",
    "without",
    "ignoring",
    "group_left",
    "group_right",
    "and",
    "or",
    "unless",
    "bool",
    "offset",
}
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_GROUPING = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)?\{([^}]*)\}")
_REPLACED = re.compile(r'label_(?:replace|join)\(.*?,\s*"([a-z_]+)",')
_LABEL = re.compile(r"([a-zA-Z_][a-zA-Z0-9_]*)\s*(?:=~|!~|!=|=)")


def exported() -> dict[str, set[str]]:
    """Give the labels of every sample that our services export."""
    ours = [each for each in vars(metrics).values() if hasattr(each, "_labelnames") and hasattr(each, "describe")]
    found: dict[str, set[str]] = {}
    for metric in ours:
        labels = set(metric._labelnames)
        for family in metric.describe():
            endings = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}[family.type]
            found |= {
                f"{family.name}{ending}": labels | ({"le"} if ending == "_bucket" else set()) for ending in endings
            }
    return found


def recorded(whole: Build) -> set[str]:
    """Give the names that rules make."""
    return {rule["record"] for rule in _rules(whole) if "record" in rule}


def from_cloudwatch(whole: Build) -> dict[str, set[str]]:
    """Give the samples that the exporter of CloudWatch makes of its questions, as it spells them."""
    if "cloudwatch-exporter" not in whole.names("Deployment"):
        return {}
    questions = yaml.safe_load(whole.get("ConfigMap", "cloudwatch-exporter")["data"]["config.yaml"])
    found: dict[str, set[str]] = {}
    for job in questions["discovery"]["jobs"]:
        about = job["type"].removeprefix("AWS/").lower()
        for metric in job["metrics"]:
            name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", metric["name"]).lower()
            found |= {f"aws_{about}_{name}_{each.lower()}": _OF_CLOUDWATCH for each in job["statistics"]}
    return found


def unknown_metrics(whole: Build) -> list[str]:
    """Tell of each name and each label that nobody exports."""
    others = from_cloudwatch(whole)
    problems = [problem for rule in _rules(whole) for problem in unknown_in(rule["expr"], recorded=recorded(whole))]
    adapted, external = _adapted()
    scalers = whole.all("HorizontalPodAutoscaler")
    for rule in (rule for kind in ("rules", "externalRules") for rule in adapter()[kind] if scalers):
        for expression in (rule["seriesQuery"], _asked(rule)):
            problems += unknown_in(expression, recorded=recorded(whole), others=others)
    for scaler in scalers:
        for metric in scaler["spec"]["metrics"]:
            if metric["type"] == "Pods" and metric["pods"]["metric"]["name"] not in adapted:
                problems.append(f"{named(scaler)}: no adapter makes {metric['pods']['metric']['name']}")
            if metric["type"] == "External":
                wanted = metric["external"]["metric"]
                if wanted["name"] not in external:
                    problems.append(f"{named(scaler)}: no adapter makes {wanted['name']}")
                labels = set(wanted.get("selector", {}).get("matchLabels", {}))
                if labels and labels - _TARGET_LABELS - exported().get(wanted["name"], set()):
                    problems.append(f"{named(scaler)}: {wanted['name']} has no labels {sorted(labels)}")
    return [f"{whole.name}: {problem}" for problem in problems]


def adapter() -> dict[str, Any]:
    """Read what the cluster's prometheus-adapter is told."""
    document: dict[str, Any] = yaml.safe_load(
        build(CLUSTER).get("ConfigMap", "prometheus-adapter-rules")["data"]["config.yaml"]
    )
    return document


def _asked(rule: Mapping[str, Any]) -> str:
    """Give what the adapter asks Prometheus by a rule."""
    series = rule["seriesQuery"].partition("{")[0]
    query = str(rule["metricsQuery"]).replace("<<.Series>>", series)
    return query.replace("<<.LabelMatchers>>", 'namespace="recommendation"').replace("<<.GroupBy>>", "pod")


def _rules(whole: Build) -> Iterator[dict[str, Any]]:
    for each in whole.all("PrometheusRule"):
        for group in each["spec"]["groups"]:
            yield from group["rules"]


def _adapted() -> tuple[set[str], set[str]]:
    pods, external = ({each["name"]["as"] for each in adapter()[kind]} for kind in ("rules", "externalRules"))
    return pods, external


def unknown_in(
    expression: str, *, recorded: AbstractSet[str] = frozenset(), others: Mapping[str, AbstractSet[str]] | None = None
) -> Iterator[str]:
    """Tell of each name and each label in an expression that nobody exports.

    Args:
        expression: A query.
        recorded: Names that rules make.
        others: The labels of samples that are exported beside ours.
    """
    known = {**exported(), **(others or {})}
    made = set(_REPLACED.findall(expression))
    bare = re.sub(r"\"[^\"]*\"", '""', expression)
    names = set(_names(bare))
    for name in names - known.keys() - OF_STORES.keys() - OF_PROMETHEUS.keys() - recorded:
        yield f"nobody exports {name}: {expression}"
    for name, selector in _SELECTOR.findall(bare):
        labels = set(_LABEL.findall(selector))
        if name in known:
            yield from (f"{name} has no label {label}" for label in labels - set(known[name]) - _TARGET_LABELS)
    for grouping in _GROUPING.findall(bare):
        labels = {each.strip() for each in grouping.split(",") if each.strip()}
        everywhere = set[str]().union(*(known.get(name, set()) for name in names))
        missing = labels - everywhere - _TARGET_LABELS - made
        yield from (f"{sorted(names)} have no label {label}" for label in missing)


def _names(expression: str) -> Iterator[str]:
    bare = _GROUPING.sub(" ", expression)
    bare = re.sub(r"\{[^}]*\}", " ", bare)
    bare = re.sub(r"\[[^\]]*\]", " ", bare)
    for match in _NAME.finditer(bare):
        is_call = bare[match.end() :].lstrip().startswith("(")
        part_of_number = match.start() and bare[match.start() - 1].isdigit()
        if not is_call and not part_of_number and match.group() not in _KEYWORDS:
            yield match.group()
