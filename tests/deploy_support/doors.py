"""Ports, accounts, versions and budgets: what a pod opens, who it is, and how many of it may be away at once."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from math import ceil
from typing import Final

from deploy_support.builds import ROOT, Build, Manifest, named
from deploy_support.pods import Pod, pods_of, service_of
from deploy_support.wiring import image_of

OPENED: Final[Mapping[str, Mapping[str, int]]] = {
    "apache/kafka": {"clients": 9092, "controller": 9093, "brokers": 9094, "mirrors": 9095},
    "gpu-worker": {"grpc": 50054, "metrics": 9090},
    "graph-service": {"grpc": 50052, "metrics": 9090},
    "hot-path-api": {"http": 8080, "metrics": 9090},
    "neo4j": {"bolt": 7687, "routing": 7688, "cluster": 6000, "raft": 7000, "metrics": 2004},
    "profile-store": {"grpc": 50053, "agentdb": 8888, "metrics": 9090},
    "prometheuscommunity/yet-another-cloudwatch-exporter": {"metrics": 5000},
    "qdrant/qdrant": {"http": 6333, "grpc": 6334, "p2p": 6335},
    "redis": {"redis": 6379},
    "registry.k8s.io/autoscaling/cluster-autoscaler": {"http": 8085},
    "scylladb/scylla": {"cql": 9042, "gossip": 7000, "metrics": 9180},
    "vector-search": {"grpc": 50051, "metrics": 9090},
}
"""What the program of each image listens on, by the names that Services and probes use."""

PROBED: Final[Mapping[str, tuple[str, str, str]]] = {
    "apache/kafka": ("clients", "clients", "controller"),
    "neo4j": ("bolt", "bolt", "bolt"),
    "qdrant/qdrant": ("http", "http", "http"),
    "redis": ("redis", "redis", "redis"),
    "scylladb/scylla": ("gossip", "cql", "gossip"),
}
"""Which port of a store tells that it has started, is ready, is alive."""
PROBES: Final = ("startupProbe", "readinessProbe", "livenessProbe")

OPENS_NOTHING: Final = {"mirror-maker": "It only asks others."}
BEHIND_ANOTHER_PORT: Final = {("hot-path-api", 80): "Browsers and balancers look for it there."}
"""The ports of Services that are not those of their pods."""

WITHOUT_A_BUDGET: Final = {
    "cloudwatch-exporter": "There is one, and a gap in its numbers does no harm.",
    "cluster-autoscaler": "There is one, and a minute without it does no harm.",
    "mirror-maker": "There is one; the next goes on where it was.",
    "recommendation": "There is one on a laptop.",
    "redis": "There is one, and gateways go on without it.",
}
ONE_OF_SEVERAL: Final = re.compile(r"scylladb-rack-.")
"""Workloads of one pod whose budget counts the pods of their siblings."""


def ajar(build: Build) -> list[str]:
    """Tell all that is open at a wrong place, called by a wrong name, or may be away altogether."""
    found = [f"{named(pod.owner)}: {problem}" for pod in pods_of(build) for problem in _of_pod(pod)]
    return [f"{build.name}: {problem}" for problem in (*found, *_services(build), *_budgets(build), *_versions(build))]


def _of_pod(pod: Pod) -> Iterator[str]:
    if pod.owner["kind"] in {"Job", "CronJob"} or pod.name == "recommendation":
        yield from _account(pod)
        return
    for container in pod.spec["containers"]:
        image = image_of(container)
        opened = {each["name"]: each["containerPort"] for each in container.get("ports", [])}
        if opened != ({} if pod.name in OPENS_NOTHING else OPENED[image]):
            yield f"opens {opened}"
        if any(each.get("protocol", "TCP") != "TCP" for each in container.get("ports", [])):
            yield "opens something else than TCP"
        for probe, port in zip(PROBES, PROBED.get(image, ()) if opened else (), strict=False):
            asked = container.get(probe, {})
            if asked.get("tcpSocket", asked.get("httpGet", {})).get("port") not in {port, opened.get(port)}:
                yield f"its {probe} does not ask at {port}"
        if service_of(container):
            annotations = pod.template["metadata"].get("annotations", {})
            wanted = {"prometheus.io/scrape": "true", "prometheus.io/port": str(opened["metrics"])}
            if not wanted.items() <= annotations.items():
                yield "tells Prometheus another port than that of its metrics"
    yield from _account(pod)


def _account(pod: Pod) -> Iterator[str]:
    if pod.is_ours:
        wanted = "fleet-controller" if pod.owner["kind"] == "CronJob" else pod.name
        if pod.spec.get("serviceAccountName") != wanted:
            yield f"runs as {pod.spec.get('serviceAccountName')}"


def _services(build: Build) -> Iterator[str]:
    for service in build.all("Service"):
        for pod in pods_of(build):
            if not pod.matches(service["spec"]["selector"]):
                continue
            for port in service["spec"]["ports"]:
                target = port.get("targetPort", port["port"])
                number = pod.ports.get(target, target)
                if port["port"] != number and (service["metadata"]["name"], port["port"]) not in BEHIND_ANOTHER_PORT:
                    yield f"{named(service)}: {port['port']} is {number} in {pod.name}"


def _budgets(build: Build) -> Iterator[str]:
    budgets = build.all("PodDisruptionBudget")
    for pod in pods_of(build):
        if pod.owner["kind"] not in {"Deployment", "StatefulSet"} or pod.name in WITHOUT_A_BUDGET:
            continue
        own = [each["spec"] for each in budgets if pod.matches(each["spec"]["selector"])]
        if len(own) != 1:
            yield f"{named(pod.owner)} has {len(own)} budgets"
            continue
        members = sum(
            each.owner["spec"].get("replicas", 1)
            for each in pods_of(build)
            if each.matches(own[0]["selector"]) and each.owner["kind"] in {"Deployment", "StatefulSet"}
        )
        away = _away(own[0], members)
        if away < 1 or (away >= members > 1):
            yield f"{named(pod.owner)}: {away} of {members} may be away"
        if ONE_OF_SEVERAL.fullmatch(pod.name) and members <= pod.owner["spec"]["replicas"]:
            yield f"{named(pod.owner)}: its budget does not count its siblings"


def _away(spec: Manifest, members: int) -> int:
    """Give how many may be away at once; Kubernetes rounds a percentage up, for both."""
    field = "maxUnavailable" if "maxUnavailable" in spec else "minAvailable"
    said = str(spec[field])
    count = ceil(members * int(said[:-1]) / 100) if said.endswith("%") else int(said)
    return count if field == "maxUnavailable" else members - count


def _versions(build: Build) -> Iterator[str]:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = {each["image"] for pod in pods_of(build) for each in pod.containers}
    for image in sorted(images):
        name, _, tag = image.partition(":")
        ours = service_of({"image": image})
        if ours and tag and tag != version:
            yield f"{image} is not of version {version}"
        if not ours and (not tag or any(each.startswith(f"{name}:") and each != image for each in images)):
            yield f"{image} is not the only version of it, or none"
