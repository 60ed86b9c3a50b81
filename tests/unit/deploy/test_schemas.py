"""Every object is what three releases of Kubernetes, or its operator, take."""

import copy
import json
from typing import Any

import pytest
import yaml

from deploy_support.builds import OVERLAYS, PARTS, REGIONS, ROOT, WHOLE, Manifest, build
from deploy_support.schemas import OPERATORS, RELEASES, invalid

ARGOCD = sorted((ROOT / "deploy" / "argocd").glob("*.yaml"))


def every_object() -> list[Manifest]:
    """Give each object once, however many builds have it."""
    found = {json.dumps(each, sort_keys=True): each for name in (*WHOLE, *PARTS) for each in build(name).objects}
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


def test_argo_cd_brings_stores_then_schemas_then_services() -> None:
    wave = "argocd.argoproj.io/sync-wave"
    for name in REGIONS:
        for each in build(name).all("Deployment", "StatefulSet", "Job", "ConfigMap", "ExternalSecret"):
            found = int(each["metadata"].get("annotations", {}).get(wave, "0"))
            ours = each["metadata"].get("labels", {}).get("app.kubernetes.io/name")
            services = {"hot-path-api", "vector-search", "graph-service", "profile-store", "gpu-cluster"}
            assert found == (1 if each["kind"] == "Job" else 2 if ours in services else 0), each["metadata"]["name"]
