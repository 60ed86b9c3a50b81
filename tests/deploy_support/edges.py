"""Who may talk to whom: what the NetworkPolicies let through, and what the settings of the services ask for."""

import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from deploy_support.addresses import addresses_in
from deploy_support.builds import Build, Manifest, texts
from deploy_support.pods import Pod, pods_of
from deploy_support.references import AGENTS
from deploy_support.told import our_containers, settings_of
from vector_search.settings import VectorSearchSettings

ANYBODY: Final = "anybody"
THE_AGENTS: Final = "agents"
MONITORING: Final = "monitoring"
THE_WORLD: Final = "the world without private networks"
PEERED: Final = "10.0.0.0/8"
_DNS: Final = "allow-dns"


class Edge(NamedTuple):
    """One side may open connections to a port of the other."""

    source: str
    target: str
    port: int
    protocol: str = "TCP"


AMONG_STORES: Final = {
    ("kafka-broker", 9093): "the quorum of the controllers",
    ("kafka-broker", 9094): "replication",
    ("qdrant", 6333): "snapshots of shards that move",
    ("qdrant", 6335): "consensus and replication",
    ("scylladb", 7000): "gossip and replication",
    ("neo4j", 6000): "discovery and catch-up",
    ("neo4j", 7000): "consensus",
    ("neo4j", 7688): "writes that a member sends on to the leader",
}
"""The ports that the members of a store reach each other by."""


def let_out(build: Build) -> set[Edge]:
    """Give what the policies let out of pods."""
    return set(_let_through(build, "egress", "to"))


def let_in(build: Build) -> set[Edge]:
    """Give what the policies let into pods."""
    return set(_let_through(build, "ingress", "from"))


def asked_for(build: Build) -> set[Edge]:
    """Give the edges that the settings ask for, and those that are declared above."""
    edges = {*_of_settings(build), *_among_stores(build), *_of_mirrors(build), *_of_monitors(build)}
    names = {pod.name for pod in pods_of(build)}
    edges.add(Edge(ANYBODY, "hot-path-api", 8080))
    edges.add(Edge(THE_AGENTS, "profile-store", 8888))
    edges |= {Edge(pod.name, "profile-store", 8888) for pod in pods_of(build) if pod.matches(AGENTS)}
    if "cloudwatch-exporter" in names:
        edges.add(Edge("cloudwatch-exporter", THE_WORLD, 443))
    if "neo4j-read-replicas" in names:  # the API server of Kubernetes, which no selector means
        edges |= {Edge("neo4j-read-replicas", ANYBODY, port) for port in (443, 6443)}
    return edges


def unmeant(build: Build) -> Iterator[str]:
    """Tell of rules that Kubernetes passes over, and of ranges of ports, which are not read here."""
    for policy in build.all("NetworkPolicy"):
        name, spec = policy["metadata"]["name"], policy["spec"]
        for direction in ("ingress", "egress"):
            if direction in spec and direction.capitalize() not in spec["policyTypes"]:
                yield f"{name} has rules of {direction}, which is none of its types"
            for rule in spec.get(direction, []):
                if any(port.keys() - {"port", "protocol"} for port in rule["ports"]):
                    yield f"{name} lets a range of ports through"


def _let_through(build: Build, direction: str, other_side: str) -> Iterator[Edge]:
    pods = pods_of(build)
    for policy in build.all("NetworkPolicy"):
        if policy["metadata"]["name"] == _DNS or direction.capitalize() not in policy["spec"]["policyTypes"]:
            continue
        chosen = [pod.name for pod in pods if _selects(policy, pod)]
        for rule in policy["spec"].get(direction, []):
            peers = [name for peer in rule.get(other_side, [None]) for name in _names(peer, pods)]
            for own in chosen:
                for peer in peers:
                    for port in rule["ports"]:
                        source, target = (own, peer) if direction == "egress" else (peer, own)
                        yield Edge(source, target, port["port"], port.get("protocol", "TCP"))


def _selects(policy: Manifest, pod: Pod) -> bool:
    return pod.namespace == policy["metadata"]["namespace"] and pod.matches(policy["spec"]["podSelector"])


def _names(peer: Any, pods: list[Pod]) -> list[str]:
    if peer is None:
        return [ANYBODY]
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        if block["cidr"] == "0.0.0.0/0":
            private = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"}
            return [THE_WORLD if set(block.get("except", ())) == private else ANYBODY]
        return [str(block["cidr"])]
    if "namespaceSelector" in peer:
        return [str(peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"])]
    agents = [THE_AGENTS] if peer["podSelector"].get("matchLabels") == AGENTS else []
    return agents + [pod.name for pod in pods if pod.matches(peer["podSelector"])]


def _of_settings(build: Build) -> Iterator[Edge]:
    for pod, container, _ in our_containers(build):
        settings = settings_of(build, pod, container)
        told = {each["name"].lower() for each in container["env"]} | {"event_log_url"}
        for name in told & type(settings).model_fields.keys():
            value = str(getattr(settings, name))
            if name == "event_log_url" and not value.startswith("kafka:"):
                continue  # it has no log
            if name == "primary_url":
                continue  # it is told to others
            if urlsplit(value).scheme == "s3":
                yield Edge(pod.name, THE_WORLD, 443)
            for host, port in addresses_in(value):
                yield from _to(build, pod, host, port)
                if isinstance(settings, VectorSearchSettings) and name == "vector_store_url":
                    yield from _to(build, pod, host, settings.qdrant_rest_port)


def _to(build: Build, pod: Pod, host: str, port: int) -> Iterator[Edge]:
    if host.endswith(".monitoring"):
        yield Edge(pod.name, MONITORING, port)
        return
    service = build.get("Service", host)
    (target,) = [each.get("targetPort") for each in service["spec"]["ports"] if each["port"] == port]
    for other in pods_of(build):
        # Neo4j's driver follows the routing table to every member, read replicas as well.
        if other.matches(service["spec"]["selector"]) or (host == "neo4j" and other.name == "neo4j-replica"):
            yield Edge(pod.name, other.name, other.ports[target])


def _among_stores(build: Build) -> Iterator[Edge]:
    pods = pods_of(build)
    for store, port in AMONG_STORES:
        members = [pod.name for pod in pods if re.match(rf"{store}(-replica|-rack-.)?$", pod.name)]
        yield from (Edge(one, other, port) for one in members for other in members)


def _of_mirrors(build: Build) -> Iterator[Edge]:
    for pod in pods_of(build):
        if pod.name == "mirror-maker":
            configuration = build.get("ConfigMap", "mirror-maker")
            for host, port in addresses_in("\n".join(texts(configuration["data"]))):
                yield from [Edge(pod.name, PEERED, port)] if "." in host else _to(build, pod, host, port)
    if any(name.endswith("-mirrors") for name in build.names("Service")):
        yield Edge(PEERED, "kafka-broker", 9095)


def _of_monitors(build: Build) -> Iterator[Edge]:
    for monitor in build.all("PodMonitor"):
        for pod in pods_of(build):
            if pod.matches(monitor["spec"]["selector"]):
                for endpoint in monitor["spec"]["podMetricsEndpoints"]:
                    yield Edge(MONITORING, pod.name, pod.ports[endpoint["port"]])
