"""Every object is what three releases of Kubernetes, or its operator, take."""

import copy
import json
from typing import Any

import pytest
import yaml

from deploy_support.builds import AGENT, CLUSTER, OVERLAYS, PARTS, REGIONS, ROLLOUTS, ROOT, WHOLE, Manifest, build
from deploy_support.schemas import OPERATORS, RELEASES, invalid

ARGOCD = sorted((ROOT / "deploy" / "argocd").glob("*.yaml"))


EVERYTHING = (*WHOLE, *PARTS, *ROLLOUTS, CLUSTER, AGENT)


def every_object() -> list[Manifest]:
    """Give each object once, however many builds have it."""
    found = {json.dumps(each, sort_keys=True): each for name in EVERYTHING for each in build(name).objects}
    return [*found.values(), *(yaml.safe_load(path.read_text()) for path in ARGOCD)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("release", RELEASES)
def test_every_object_is_valid(release: str) -> None:
    assert [problem for each in every_object() for problem in invalid(each, release)] == []


def test_every_operator_that_is_described_is_used() -> None:
    assert {(each["apiVersion"], each["kind"]) for each in every_object()} >= OPERATORS.keys()


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("Deployment", {"replicas": "many"}),
        ("Deployment", {"replica": 3}),
        ("Service", {"ports": [{"port": "http"}]}),
        ("PodMonitor", {"podMetricsEndpoint": []}),
    ],
)
def test_what_is_wrong_is_refused(release: str, kind: str, change: dict[str, Any]) -> None:
    broken = copy.deepcopy(build("production").all(kind)[0])
    assert invalid(broken, release) == []
    broken["spec"] |= change
    assert invalid(broken, release)


def test_the_examples_for_argo_cd_name_overlays() -> None:
    applications = [yaml.safe_load(path.read_text()) for path in ARGOCD]
    paths = {each["spec"]["source"]["path"] for each in applications}
    assert paths == {f"deploy/k8s/overlays/{name}" for name in ("staging", *REGIONS)}
    assert paths <= {f"deploy/k8s/overlays/{name}" for name in OVERLAYS}
    assert {each["spec"]["destination"]["namespace"] for each in applications} == {"recommendation"}


def test_every_application_of_argo_cd_goes_to_a_cluster_of_its_own() -> None:
    applications = [yaml.safe_load(path.read_text()) for path in ARGOCD]
    clusters = {each["spec"]["destination"]["name"] for each in applications}
    assert len(clusters) == len(applications)
    for each in applications:
        assert each["spec"]["source"]["path"].endswith(f"/{each['spec']['destination']['name']}")


@pytest.mark.parametrize("name", ["staging", *REGIONS])
def test_argo_cd_looks_away_only_where_somebody_else_scales(name: str) -> None:
    (spec,) = [
        each["spec"]
        for each in (yaml.safe_load(path.read_text()) for path in ARGOCD)
        if each["spec"]["source"]["path"].endswith(f"/{name}")
    ]
    ignored = spec.get("ignoreDifferences", [])
    assert all((each["group"], each["jsonPointers"]) == ("apps", ["/spec/replicas"]) for each in ignored)
    targets = [each["spec"]["scaleTargetRef"] for each in build(name).all("HorizontalPodAutoscaler")]
    scaled = {(each["kind"], each["name"]) for each in targets}
    if scaled and "neo4j-read-replicas" in build(name).names("CronJob"):
        scaled.add(("StatefulSet", "neo4j-replica"))
    assert {(each["kind"], each["name"]) for each in ignored} == scaled
    assert ("RespectIgnoreDifferences=true" in spec["syncPolicy"]["syncOptions"]) == bool(scaled)
    assert bool(scaled) == (name != "staging")


WAVE = "argocd.argoproj.io/sync-wave"


def wave_of(manifest: Manifest) -> int:
    return int(manifest["metadata"].get("annotations", {}).get(WAVE, "0"))


@pytest.mark.parametrize("name", ["staging", *REGIONS])
def test_argo_cd_brings_stores_then_schemas_then_services_then_what_scales_them(name: str) -> None:
    whole = build(name)
    services = {"hot-path-api", "vector-search", "graph-service", "profile-store", "gpu-cluster"}
    for each in whole.all("Deployment", "StatefulSet", "Job", "ConfigMap", "ExternalSecret"):
        ours = each["metadata"].get("labels", {}).get("app.kubernetes.io/name")
        expected = 1 if each["kind"] == "Job" else 2 if ours in services else 0
        assert wave_of(each) == expected, each["metadata"]["name"]
    # An autoscaler whose target is not there yet is unhealthy, and an unhealthy object ends a rollout.
    latest = max(wave_of(each) for each in whole.all("Deployment", "StatefulSet", "Job"))
    for each in whole.all("HorizontalPodAutoscaler", "CronJob"):
        assert wave_of(each) > latest, each["metadata"]["name"]
