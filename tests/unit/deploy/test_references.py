"""Every object that a manifest names is there; each kind of mistake is made once and found."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from deploy_support.builds import (
    AGENT,
    CLUSTER,
    EXAMPLES,
    OVERLAYS,
    PARTS,
    ROLLOUTS,
    WHOLE,
    Build,
    build,
    with_an_agent,
)
from deploy_support.pods import pod_of
from deploy_support.references import unresolved


@pytest.mark.parametrize("name", [*WHOLE, *PARTS, *ROLLOUTS, CLUSTER, AGENT])
def test_it_builds_and_names_each_object_once(name: str) -> None:
    objects = [
        (each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in build(name).objects
    ]
    assert objects
    assert len(objects) == len(set(objects))


@pytest.mark.parametrize("name", WHOLE)
def test_every_reference_resolves(name: str) -> None:
    assert unresolved(build(name)) == []


@pytest.mark.parametrize("name", ["staging", "production"])
def test_the_example_of_an_agent_finds_all_it_names(name: str) -> None:
    assert unresolved(with_an_agent(name)) == []
    variables = {
        each["name"]: each["valueFrom"]["configMapKeyRef"]
        for each in _container(with_an_agent(name), "agent")["env"]
        if "valueFrom" in each
    }
    assert variables["AGENTDB_ENDPOINT"] == {"name": "service-endpoints", "key": "agentdb_url"}


def test_parts_lack_only_what_overlays_bring() -> None:
    missing = {problem.partition(": ")[2] for part in PARTS for problem in unresolved(build(part))}
    brought = ("no Secret database-credentials", "no StorageClass", "no PriorityClass recommendation-stores")
    assert [problem for problem in missing if not any(each in problem for each in brought)] == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_everything_is_in_its_namespace(name: str) -> None:
    outside = {
        (each["kind"], each["metadata"]["name"]): each["metadata"]["namespace"]
        for each in build(name).objects
        if each["metadata"].get("namespace", "recommendation") != "recommendation"
    }
    assert set(outside.values()) <= {"kube-system"}
    assert {name for _, name in outside} <= {"cluster-autoscaler"}


def test_what_a_cluster_has_once_lies_where_it_is_read() -> None:
    found = {
        (each["kind"], each["metadata"]["name"]): each["metadata"].get("namespace") for each in build(CLUSTER).objects
    }
    assert found == {("ClusterIssuer", "letsencrypt"): None, ("ConfigMap", "prometheus-adapter-rules"): "monitoring"}


def _container(build: Build, name: str) -> Any:
    return pod_of(build, name).spec["containers"][0]


MISTAKES: dict[str, tuple[Callable[[Build], object], str]] = {
    "a key that is not in the ConfigMap": (
        lambda build: build.get("ConfigMap", "service-endpoints")["data"].pop("kafka_brokers"),
        "no ConfigMap service-endpoints with kafka_brokers",
    ),
    "a key that is not in the Secret": (
        lambda build: build.get("Secret", "database-credentials")["data"].pop("redis_password"),
        "no Secret database-credentials with redis_password",
    ),
    "a volume that nobody declares": (
        lambda build: pod_of(build, "qdrant").spec["volumes"].clear(),
        "mounts tmp, which is no volume",
    ),
    "a volume that nobody mounts": (
        lambda build: _container(build, "vector-search")["volumeMounts"].pop(0),
        "nobody mounts data",
    ),
    "another name of the account": (
        lambda build: pod_of(build, "profile-store").spec.update(serviceAccountName="profiles"),
        "no ServiceAccount profiles",
    ),
    "a selector that means other pods": (
        lambda build: build.get("Service", "redis")["spec"].update(selector={"app": "redis"}),
        "Service redis selects nothing",
    ),
    "a port that no pod has": (
        lambda build: build.get("Service", "agentdb-service")["spec"]["ports"][0].update(targetPort="agents"),
        "Service agentdb-service: no port agents",
    ),
    "a broker of another number": (
        lambda build: pod_of(build, "kafka-broker").owner["spec"].pop("ordinals"),
        "Service kafka-broker-3 selects nothing",
    ),
    "a class of storage that nobody offers": (
        lambda build: build.get("PersistentVolumeClaim", "encoder-models")["spec"].update(storageClassName="fast"),
        "no StorageClass fast",
    ),
    "a budget for pods of another name": (
        lambda build: build.get("PodDisruptionBudget", "kafka")["spec"].update(selector={"matchLabels": {"a": "b"}}),
        "PodDisruptionBudget kafka protects nothing",
    ),
}


@pytest.mark.parametrize("annotation", ["nginx.ingress.kubernetes.io/upstream-keepalive-connections"])
def test_an_annotation_that_no_controller_reads_is_found(annotation: str) -> None:
    broken = copy.deepcopy(build("staging"))
    broken.get("Ingress", "hot-path-api")["metadata"]["annotations"][annotation] = "256"
    assert any(f"{annotation} means nothing to nginx" in problem for problem in unresolved(broken))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake: str) -> None:
    make, found = MISTAKES[mistake]
    broken = copy.deepcopy(build(EXAMPLES))
    make(broken)
    assert any(found in problem for problem in unresolved(broken)), unresolved(broken)
