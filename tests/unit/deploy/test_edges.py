"""The network lets through what the settings ask for: no edge less, none more."""

import copy

import pytest

from deploy_support.builds import Build, build, with_an_agent
from deploy_support.edges import (
    ANYBODY,
    MONITORING,
    PEERED,
    THE_AGENTS,
    THE_WORLD,
    Edge,
    asked_for,
    let_in,
    let_out,
    unmeant,
)
from deploy_support.pods import pods_of
from deploy_support.references import SOLVERS

GUARDED = ("production", "staging", "us-east-1", "eu-west-1", "ap-southeast-1")
NO_PODS = {ANYBODY, MONITORING, PEERED, THE_AGENTS, THE_WORLD}


def differences(whole: Build) -> list[str]:
    wanted, out, into = asked_for(whole), let_out(whole), let_in(whole)
    pods = {pod.name for pod in pods_of(whole)}
    leaving = {edge for edge in wanted if edge.source in pods}
    arriving = {edge for edge in wanted if edge.target in pods}
    return [
        *(f"{edge} is asked for and not let out" for edge in leaving - out),
        *(f"{edge} is asked for and not let in" for edge in arriving - into),
        *(f"{edge} is let out and nobody asks for it" for edge in out - leaving),
        *(f"{edge} is let in and nobody asks for it" for edge in into - arriving),
        *unmeant(whole),
    ]


@pytest.mark.parametrize("name", GUARDED)
def test_the_edges_are_exact(name: str) -> None:
    assert differences(build(name)) == []
    assert {end for edge in asked_for(build(name)) for end in edge[:2]} - NO_PODS >= {"hot-path-api", "qdrant"}


@pytest.mark.parametrize("name", GUARDED)
def test_everything_else_is_denied(name: str) -> None:
    deny = build(name).get("NetworkPolicy", "default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    dns = build(name).get("NetworkPolicy", "allow-dns")["spec"]
    assert (dns["podSelector"], dns["policyTypes"]) == ({}, ["Egress"])
    (rule,) = dns["egress"]
    assert {(each["port"], each["protocol"]) for each in rule["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert rule["to"] == [  # one peer: the DNS of the cluster, and nobody else in its namespace or under its label
        {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
            "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
        }
    ]


@pytest.mark.parametrize("name", ["staging", "production"])
def test_an_agent_reaches_the_policies_and_nothing_else(name: str) -> None:
    whole = with_an_agent(name)
    assert differences(whole) == []
    assert {edge for edge in let_out(whole) if edge.source == "agent"} == {Edge("agent", "profile-store", 8888)}


def test_the_authority_can_see_the_file_of_cert_manager() -> None:
    """Its pods are there for a minute and in no build."""
    spec = build("staging").get("NetworkPolicy", "certificate-solvers")["spec"]
    assert spec["podSelector"] == {"matchLabels": SOLVERS}
    ((rule,), ports) = spec["ingress"], [each["port"] for each in spec["ingress"][0]["ports"]]
    assert ports == [8089]
    assert rule["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}]


def test_the_laptop_talks_to_nobody() -> None:
    assert let_in(build("laptop")) == let_out(build("laptop")) == set()
    assert build("laptop").names("NetworkPolicy")


@pytest.mark.parametrize(
    ("policy", "direction", "found"),
    [
        (
            "hot-path-api",
            "egress",
            "Edge(source='hot-path-api', target='vector-search', port=50051, protocol='TCP') is asked for",
        ),
        (
            "kafka",
            "ingress",
            "Edge(source='hot-path-api', target='kafka-broker', port=9092, protocol='TCP') is asked for",
        ),
    ],
)
def test_an_edge_that_is_missing_is_found(policy: str, direction: str, found: str) -> None:
    broken = copy.deepcopy(build("production"))
    broken.get("NetworkPolicy", policy)["spec"][direction].pop(0)
    assert any(problem.startswith(found) for problem in differences(broken))


def test_an_edge_too_many_is_found() -> None:
    broken = copy.deepcopy(build("production"))
    broken.get("NetworkPolicy", "redis")["spec"]["ingress"][0]["ports"].append({"port": 9121})
    edge = Edge("hot-path-api", "redis", 9121)
    assert differences(broken) == [f"{edge} is let in and nobody asks for it"]


@pytest.mark.parametrize(
    ("policy", "direction"), [("redis", "ingress"), ("agents", "egress"), ("migrations", "egress")]
)
def test_rules_of_a_kind_that_a_policy_is_not_of_are_found(policy: str, direction: str) -> None:
    broken = copy.deepcopy(with_an_agent("production"))
    broken.get("NetworkPolicy", policy)["spec"]["policyTypes"] = [
        {"ingress": "Egress", "egress": "Ingress"}[direction],
    ]
    found = differences(broken)
    assert f"{policy} has rules of {direction}, which is none of its types" in found
    assert any("is asked for and not let" in problem for problem in found)


def test_another_protocol_is_found() -> None:
    broken = copy.deepcopy(build("production"))
    broken.get("NetworkPolicy", "redis")["spec"]["ingress"][0]["ports"][0]["protocol"] = "UDP"
    assert differences(broken) == [
        f"{Edge('hot-path-api', 'redis', 6379)} is asked for and not let in",
        f"{Edge('hot-path-api', 'redis', 6379, 'UDP')} is let in and nobody asks for it",
    ]


def test_a_range_of_ports_is_found() -> None:
    broken = copy.deepcopy(build("production"))
    broken.get("NetworkPolicy", "redis")["spec"]["ingress"][0]["ports"][0]["endPort"] = 6400
    assert differences(broken) == ["redis lets a range of ports through"]


def test_a_setting_asks_for_its_edge() -> None:
    broken = copy.deepcopy(build("production"))
    broken.get("ConfigMap", "service-endpoints")["data"]["redis_url"] = "redis://qdrant:6333"
    edge = Edge("hot-path-api", "qdrant", 6333)
    assert f"{edge} is asked for and not let out" in differences(broken)
    assert f"{edge} is asked for and not let in" in differences(broken)
