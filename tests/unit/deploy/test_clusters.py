"""Members of a store become one cluster, and secondary regions train nothing; each kind of mistake is found."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from deploy_support.builds import REGIONS, WHOLE, Build, build
from deploy_support.clusters import unformed
from deploy_support.pods import pod_of
from deploy_support.told import our_containers, settings_of
from gpu_worker.settings import GpuWorkerSettings
from vector_search.settings import VectorSearchSettings

DEPLOYED = [name for name in WHOLE if name != "laptop"]


@pytest.mark.parametrize("name", DEPLOYED)
def test_the_stores_form_clusters(name: str) -> None:
    assert unformed(build(name)) == []


@pytest.mark.parametrize("name", REGIONS)
def test_a_region_says_its_datacenter(name: str) -> None:
    assert build(name).get("ConfigMap", "settings")["data"]["CQL_DATACENTER"] == name


def trains(name: str) -> set[str]:
    """Give the services of a region that would train, or say that their models were trained there."""
    found = set()
    for pod, container, service in our_containers(build(name)):
        settings = settings_of(build(name), pod, container)
        if pod.owner["kind"] not in {"Deployment", "StatefulSet"}:
            continue
        if isinstance(settings, GpuWorkerSettings) and settings.train_every_minutes:
            found.add(service)
        if isinstance(settings, VectorSearchSettings) and not settings.trained_elsewhere:
            found.add(service)
    return found


def test_only_the_primary_trains() -> None:
    assert trains("us-east-1") == trains("production") == {"gpu-worker", "vector-search"}
    assert trains("eu-west-1") == trains("ap-southeast-1") == set()


def server(whole: Build, name: str) -> Any:
    return pod_of(whole, name).spec["containers"][0]


def say(whole: Build, pod: str, name: str, value: str) -> None:
    (found,) = [each for each in server(whole, pod)["env"] if each["name"] == name]
    found["value"] = value


def replace(whole: Build, name: str, key: str, old: str, new: str) -> None:
    data = whole.get("ConfigMap", name)["data"]
    assert old in data[key]
    data[key] = data[key].replace(old, new)


def replace_argument(container: Any, old: str, new: str) -> None:
    assert any(old in each for each in container["args"])
    container["args"] = [each.replace(old, new) for each in container["args"]]


MISTAKES: dict[str, tuple[Callable[[Build], object], str]] = {
    "peers are found when they are ready": (
        lambda whole: whole.get("Service", "scylladb-peers")["spec"].pop("publishNotReadyAddresses"),
        "StatefulSet scylladb-rack-a: its members are not found",
    ),
    "peers have one address": (
        lambda whole: whole.get("Service", "kafka-peers")["spec"].pop("clusterIP"),
        "StatefulSet kafka-broker: its members are not found",
    ),
    "a broker under another's name": (
        lambda whole: whole.get("Service", "kafka-broker-2")["spec"]["selector"].update(
            {"statefulset.kubernetes.io/pod-name": "kafka-broker-3"}
        ),
        "Service kafka-broker-2 means kafka-broker-3",
    ),
    "a rack says it is another": (
        lambda whole: replace_argument(
            server_of_topology(whole, "scylladb-rack-b"), '"$DATACENTER" b', '"$DATACENTER" a'
        ),
        "StatefulSet scylladb-rack-b writes",
    ),
    "a snitch that reads no file": (
        lambda whole: replace_argument(server(whole, "scylladb-rack-c"), "GossipingPropertyFileSnitch", "SimpleSnitch"),
        "StatefulSet scylladb-rack-c reads no file of its rack",
    ),
    "a rack with less memory": (
        lambda whole: replace_argument(server(whole, "scylladb-rack-b"), "--memory=28G", "--memory=2G"),
        "StatefulSet scylladb-rack-b has other args",
    ),
    "another datacenter than callers look for": (
        lambda whole: whole.get("ConfigMap", "scylladb-topology")["data"].update(datacenter="us-east-1"),
        "is in us-east-1, its callers look for eu-west-1",
    ),
    "Qdrant alone": (
        lambda whole: say(whole, "qdrant", "QDRANT__CLUSTER__ENABLED", "false"),
        "StatefulSet qdrant is no cluster",
    ),
    "Qdrant at another port": (
        lambda whole: say(whole, "qdrant", "QDRANT__CLUSTER__P2P__PORT", "6336"),
        "StatefulSet qdrant talks at another port",
    ),
    "a replica that takes writes": (
        lambda whole: say(whole, "neo4j-replica", "NEO4J_initial_server_mode__constraint", "PRIMARY"),
        "StatefulSet neo4j-replica is not told NEO4J_initial_server_mode__constraint=SECONDARY",
    ),
    "a graph of fewer primaries": (
        lambda whole: say(whole, "neo4j", "NEO4J_dbms_cluster_minimum__initial__system__primaries__count", "1"),
        "StatefulSet neo4j is not told NEO4J_dbms_cluster_minimum",
    ),
    "more copies than brokers": (
        lambda whole: whole.get("ConfigMap", "settings")["data"].update(KAFKA_REPLICATION_FACTOR="4"),
        "KAFKA_REPLICATION_FACTOR is 4 of 3",
    ),
    "one copy of the profiles": (
        lambda whole: whole.get("ConfigMap", "settings")["data"].update(CQL_REPLICATION_FACTOR="1"),
        "CQL_REPLICATION_FACTOR is 1 of 3",
    ),
    "no broker may be away": (
        lambda whole: whole.get("ConfigMap", "settings")["data"].update(KAFKA_MIN_INSYNC_REPLICAS="3"),
        "KAFKA_MIN_INSYNC_REPLICAS is 3 of 3",
    ),
    "offsets on one broker": (
        lambda whole: replace(
            whole,
            "kafka-broker",
            "server.properties",
            "offsets.topic.replication.factor=3",
            "offsets.topic.replication.factor=1",
        ),
        "offsets.topic.replication.factor is 1 of 3",
    ),
    "a write on one broker": (
        lambda whole: replace(
            whole, "kafka-broker", "server.properties", "min.insync.replicas=2", "min.insync.replicas=1"
        ),
        "min.insync.replicas is 1 of 3",
    ),
    "a heap larger than the pod": (
        lambda whole: say(whole, "kafka-broker", "KAFKA_HEAP_OPTS", "-Xms4g -Xmx40g"),
        "StatefulSet kafka-broker takes 40 GiB",
    ),
    "a cache of pages larger than the pod": (
        lambda whole: say(whole, "neo4j", "NEO4J_server_memory_pagecache_size", "24g"),
        "StatefulSet neo4j takes 32 GiB",
    ),
    "a cache larger than the pod": (
        lambda whole: replace_argument(server(whole, "redis"), "6gb", "8gb"),
        "StatefulSet redis takes 8 GiB",
    ),
    "topics of other names": (
        lambda whole: replace(
            whole, "mirror-maker", "mm2.properties", "IdentityReplicationPolicy", "DefaultReplicationPolicy"
        ),
        "mm2.properties does not say replication.policy.class",
    ),
    "a mirror without a login": (
        lambda whole: replace(
            whole,
            "mirror-maker",
            "mm2.properties",
            "primary.security.protocol = SASL_PLAINTEXT",
            "primary.security.protocol = PLAINTEXT",
        ),
        "mm2.properties does not say primary.security.protocol=SASL_PLAINTEXT",
    ),
}


def server_of_topology(whole: Build, name: str) -> Any:
    return pod_of(whole, name).spec["initContainers"][0]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake: str) -> None:
    make, found = MISTAKES[mistake]
    broken = copy.deepcopy(build("eu-west-1"))
    assert unformed(broken) == []
    make(broken)
    assert any(found in problem for problem in unformed(broken)), unformed(broken)
