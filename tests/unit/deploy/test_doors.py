"""Every pod opens what its program listens on, is who it says, and is never away altogether; mistakes are found."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from deploy_support.builds import AGENT, WHOLE, Build, build, with_an_agent
from deploy_support.doors import BEHIND_ANOTHER_PORT, OPENED, OPENS_NOTHING, PROBED, WITHOUT_A_BUDGET, ajar
from deploy_support.pods import pod_of, pods_of
from deploy_support.wiring import image_of


@pytest.mark.parametrize("name", WHOLE)
def test_nothing_is_ajar(name: str) -> None:
    assert ajar(build(name)) == []


def test_an_agent_is_who_it_says() -> None:
    assert ajar(with_an_agent("production")) == []
    assert ajar(build(AGENT)) == []


def test_every_entry_of_the_tables_is_used() -> None:
    pods = [pod for name in WHOLE for pod in pods_of(build(name))]
    assert {image_of(each) for pod in pods for each in pod.containers} >= OPENED.keys() | PROBED.keys()
    assert {pod.name for pod in pods} >= WITHOUT_A_BUDGET.keys() | OPENS_NOTHING.keys()
    assert all(name in build("production").names("Service") for name, _ in BEHIND_ANOTHER_PORT)


def test_kafka_listens_on_the_ports_that_its_pods_open() -> None:
    lines = build("stores").get("ConfigMap", "kafka-broker")["data"]["server.properties"].splitlines()
    (listeners,) = [line.partition("=")[2] for line in lines if line.startswith("listeners=")]
    found = {each.partition("://")[0].lower(): int(each.rpartition(":")[2]) for each in listeners.split(",")}
    assert found == OPENED["apache/kafka"]


def server(whole: Build, name: str) -> Any:
    return pod_of(whole, name).spec["containers"][0]


MISTAKES: dict[str, tuple[Callable[[Build], object], str]] = {
    "a store opens another port": (
        lambda whole: server(whole, "redis")["ports"][0].update(containerPort=6380),
        "StatefulSet redis: opens {'redis': 6380}",
    ),
    "a port of another protocol": (
        lambda whole: server(whole, "qdrant")["ports"][0].update(protocol="UDP"),
        "StatefulSet qdrant: opens something else than TCP",
    ),
    "a store is asked at another port": (
        lambda whole: server(whole, "neo4j-replica")["livenessProbe"]["tcpSocket"].update(port="raft"),
        "StatefulSet neo4j-replica: its livenessProbe does not ask at bolt",
    ),
    "a rack is asked for CQL": (
        lambda whole: server(whole, "scylladb-rack-c")["livenessProbe"]["tcpSocket"].update(port="cql"),
        "StatefulSet scylladb-rack-c: its livenessProbe does not ask at gossip",
    ),
    "a store is not asked": (
        lambda whole: server(whole, "kafka-broker").pop("readinessProbe"),
        "StatefulSet kafka-broker: its readinessProbe does not ask at clients",
    ),
    "Prometheus asks elsewhere": (
        lambda whole: (
            pod_of(whole, "graph-service").template["metadata"]["annotations"].update({"prometheus.io/port": "9091"})
        ),
        "Deployment graph-service: tells Prometheus another port",
    ),
    "another's account": (
        lambda whole: pod_of(whole, "hot-path-api").spec.update(serviceAccountName="profile-store"),
        "Deployment hot-path-api: runs as profile-store",
    ),
    "a Service with another port": (
        lambda whole: whole.get("Service", "qdrant")["spec"]["ports"][1].update(port=6335),
        "Service qdrant: 6335 is 6334 in qdrant",
    ),
    "a Service that leads elsewhere": (
        lambda whole: whole.get("Service", "qdrant")["spec"]["ports"][1].update(targetPort="http"),
        "Service qdrant: 6334 is 6333 in qdrant",
    ),
    "all may be away": (
        lambda whole: whole.get("PodDisruptionBudget", "vector-search")["spec"].update(maxUnavailable="100%"),
        "Deployment vector-search: 3 of 3 may be away",
    ),
    "none may be away": (
        lambda whole: whole.get("PodDisruptionBudget", "kafka")["spec"].update(maxUnavailable=0),
        "StatefulSet kafka-broker: 0 of 3 may be away",
    ),
    "a rack for itself": (
        lambda whole: whole.get("PodDisruptionBudget", "scylladb")["spec"]["selector"].update(
            matchLabels={"recommendation/rack": "a"}
        ),
        "StatefulSet scylladb-rack-a: its budget does not count its siblings",
    ),
    "no budget": (
        lambda whole: whole.get("PodDisruptionBudget", "profile-store")["spec"].update(
            selector={"matchLabels": {"app.kubernetes.io/name": "graph-service"}}
        ),
        "Deployment profile-store has 0 budgets",
    ),
    "another version of ours": (
        lambda whole: server(whole, "hot-path-api").update(
            image="registry.example.com/recommendation/hot-path-api:0.0.9"
        ),
        "hot-path-api:0.0.9 is not of version",
    ),
    "another version of a store": (
        lambda whole: server(whole, "scylladb-rack-b").update(image="scylladb/scylla:6.2.2"),
        "scylladb/scylla:6.2.2 is not the only version of it",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake: str) -> None:
    make, found = MISTAKES[mistake]
    broken = copy.deepcopy(build("production"))
    assert ajar(broken) == []
    make(broken)
    assert any(found in problem for problem in ajar(broken)), ajar(broken)
