"""Whether members of a store become one cluster: they find each other, agree, keep enough copies, fit into memory."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from deploy_support.builds import Build, Manifest, named
from deploy_support.pods import Pod, environment_of, pods_of
from deploy_support.quantities import amount

RACK: Final = re.compile(r"scylladb-rack-(\w)")
_UNITS: Final = {"k": 2**10, "m": 2**20, "g": 2**30}
_HEAPS: Final = (
    r"-Xmx(\d+)([kmg])\b",
    r"^NEO4J_server_memory_heap_max__size=(\d+)([kmg])$",
    r"^NEO4J_server_memory_pagecache_size=(\d+)([kmg])$",
    r"^--memory=(\d+)([kmgKMG])$",
    r"^--maxmemory\n(\d+)([kmg])b$",
)
"""How much memory a program is told to take."""
_POD_NAME: Final = "statefulset.kubernetes.io/pod-name"
_IDENTITY: Final = "org.apache.kafka.connect.mirror.IdentityReplicationPolicy"


def unformed(build: Build) -> list[str]:
    """Tell what keeps members apart, or copies from being enough."""
    walks = (_services, _racks, _qdrant, _neo4j, _copies, _memory, _mirror)
    return [f"{build.name}: {problem}" for walk in walks for problem in walk(build)]


def properties_of(text: str) -> dict[str, str]:
    """Read a file of `name = value` lines."""
    lines = [line for line in text.splitlines() if "=" in line and not line.startswith("#")]
    return {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}


def _told(build: Build, pod: Pod) -> dict[str, str]:
    return environment_of(build, pod, pod.spec["containers"][0])


def _store(build: Build, name: str) -> Pod | None:
    return next((pod for pod in pods_of(build) if pod.name == name), None)


def _services(build: Build) -> Iterator[str]:
    services = {each["metadata"]["name"]: each["spec"] for each in build.all("Service")}
    for pod in pods_of(build):
        if pod.owner["kind"] == "StatefulSet" and pod.owner["spec"]["serviceName"].endswith("-peers"):
            spec = services.get(pod.owner["spec"]["serviceName"], {})
            # A member that is not ready yet must be found by the others, or none ever becomes ready.
            if (spec.get("clusterIP"), spec.get("publishNotReadyAddresses")) != ("None", True):
                yield f"{named(pod.owner)}: its members are not found before they are ready"
    for name, spec in services.items():
        member = spec["selector"].get(_POD_NAME)
        if member and (name.removesuffix("-mirrors") != member or spec.get("publishNotReadyAddresses") is not True):
            yield f"Service {name} means {member}"


def _racks(build: Build) -> Iterator[str]:
    racks = [pod for pod in pods_of(build) if RACK.fullmatch(pod.name)]
    for pod in racks:
        rack = pod.name[-1]
        first, server = pod.containers
        written = re.findall(r"printf '(\S+)' \"\$DATACENTER\" (\w) > (\S+)", "\n".join(first["args"]))
        if written != [
            (r"dc=%s\nrack=%s\nprefer_local=true\n", rack, "/configuration/cassandra-rackdc.properties"),
        ]:
            yield f"{named(pod.owner)} writes {written}"
        if pod.labels.get("recommendation/rack") != rack:
            yield f"{named(pod.owner)} is labelled as rack {pod.labels.get('recommendation/rack')}"
        if "--endpoint-snitch=GossipingPropertyFileSnitch" not in server["args"]:
            yield f"{named(pod.owner)} reads no file of its rack"
        for what in ("args", "env", "resources", "ports"):
            if server[what] != racks[0].containers[1][what]:
                yield f"{named(pod.owner)} has other {what} than {racks[0].name}"
        settings = build.get("ConfigMap", "settings")["data"] if build.name != "stores" else {}
        datacenter = environment_of(build, pod, first)["DATACENTER"]
        if settings.get("CQL_DATACENTER", datacenter) != datacenter:
            yield f"{named(pod.owner)} is in {datacenter}, its callers look for {settings['CQL_DATACENTER']}"


def _qdrant(build: Build) -> Iterator[str]:
    if pod := _store(build, "qdrant"):
        told = _told(build, pod)
        if told.get("QDRANT__CLUSTER__ENABLED") != "true":
            yield "StatefulSet qdrant is no cluster"
        if told.get("QDRANT__CLUSTER__P2P__PORT") != str(pod.ports["p2p"]):
            yield "StatefulSet qdrant talks at another port than it opens"


def _neo4j(build: Build) -> Iterator[str]:
    primaries = _store(build, "neo4j")
    for name, mode in (("neo4j", "PRIMARY"), ("neo4j-replica", "SECONDARY")):
        pod = _store(build, name)
        if pod is None or primaries is None:
            continue
        count = str(primaries.owner["spec"]["replicas"])
        members = [f"{each}.neo4j-peers:{primaries.ports['cluster']}" for each in primaries.pod_names]
        wanted = {
            "NEO4J_initial_server_mode__constraint": mode,
            "NEO4J_server_cluster_system__database__mode": mode,
            "NEO4J_initial_dbms_default__primaries__count": count,
            "NEO4J_dbms_cluster_minimum__initial__system__primaries__count": count,
            "NEO4J_dbms_cluster_discovery_resolver__type": "LIST",
            "NEO4J_dbms_cluster_discovery_v2_endpoints": ",".join(members),
            "NEO4J_server_default__advertised__address": f"{pod.pod_names[0]}.neo4j-peers",
        }
        told = _told(build, pod)
        yield from (
            f"StatefulSet {name} is not told {key}={value}" for key, value in wanted.items() if told.get(key) != value
        )


def _members(build: Build) -> dict[str, int]:
    """Give how many pods each store has."""
    members: dict[str, int] = {}
    for pod in pods_of(build):
        if pod.owner["kind"] == "StatefulSet":
            store = "scylladb" if RACK.fullmatch(pod.name) else pod.name
            members[store] = members.get(store, 0) + pod.owner["spec"]["replicas"]
    return members


def _copies(build: Build) -> Iterator[str]:
    members = _members(build)
    if "kafka-broker" not in members or "settings" not in {
        name.rpartition("-")[0] for name in build.names("ConfigMap")
    }:
        return
    settings = build.get("ConfigMap", "settings")["data"]
    for name, store in (("KAFKA", "kafka-broker"), ("CQL", "scylladb"), ("QDRANT", "qdrant")):
        yield from _enough(f"{name}_REPLICATION_FACTOR", settings[f"{name}_REPLICATION_FACTOR"], members[store])
    yield from _acknowledged("KAFKA_MIN_INSYNC_REPLICAS", settings, "KAFKA_REPLICATION_FACTOR")
    if not 1 <= int(settings["QDRANT_WRITE_CONSISTENCY_FACTOR"]) < int(settings["QDRANT_REPLICATION_FACTOR"]):
        yield "QDRANT_WRITE_CONSISTENCY_FACTOR leaves no copy that may be away"
    files = [build.get("ConfigMap", "kafka-broker")["data"]["server.properties"]]
    if "mirror-maker" in build.names("Deployment"):
        files.append(build.get("ConfigMap", "mirror-maker")["data"]["mm2.properties"])
    for file in map(properties_of, files):
        for name, value in file.items():
            if name.endswith("replication.factor"):
                yield from _enough(name, value, members["kafka-broker"])
    broker = properties_of(files[0])
    for least, copies in (
        ("min.insync.replicas", "default.replication.factor"),
        ("transaction.state.log.min.isr", "transaction.state.log.replication.factor"),
        ("share.coordinator.state.topic.min.isr", "share.coordinator.state.topic.replication.factor"),
    ):
        yield from _acknowledged(least, broker, copies)
    yield from (
        f"server.properties has no {name}" for name in ("offsets.topic.replication.factor",) if name not in broker
    )


def _enough(name: str, copies: str, members: int) -> Iterator[str]:
    if not 2 <= int(copies) <= members:
        yield f"{name} is {copies} of {members}"


def _acknowledged(name: str, told: Mapping[str, str], copies: str) -> Iterator[str]:
    """A write is on two at least, and one may be away."""
    if not 2 <= int(told.get(name, 0)) < int(told.get(copies, 0)):
        yield f"{name} is {told.get(name)} of {told.get(copies)}"


def _memory(build: Build) -> Iterator[str]:
    for pod in pods_of(build):
        for container in pod.spec["containers"]:
            taken = sum(_heaps(container))
            if taken >= amount(container["resources"]["limits"]["memory"]):
                yield f"{named(pod.owner)} takes {taken / 2**30:g} GiB, more than it may"


def _heaps(container: Manifest) -> Iterator[int]:
    words = [*container.get("args", []), *(f"{each['name']}={each.get('value')}" for each in container.get("env", []))]
    text = "\n".join(words)
    for heap in _HEAPS:
        yield from (int(number) * _UNITS[unit.lower()] for number, unit in re.findall(heap, text, re.MULTILINE))


def _mirror(build: Build) -> Iterator[str]:
    if "mirror-maker" not in build.names("Deployment"):
        return
    said = properties_of(build.get("ConfigMap", "mirror-maker")["data"]["mm2.properties"])
    broker = properties_of(build.get("ConfigMap", "kafka-broker")["data"]["server.properties"])
    protocols = dict(each.split(":") for each in broker["listener.security.protocol.map"].split(","))
    source, target = (each.strip() for each in said["clusters"].split(","))
    wanted = {
        "replication.policy.class": _IDENTITY,  # otherwise topics have other names here, which nobody reads
        f"{source}.security.protocol": protocols["MIRRORS"],
        f"{target}.security.protocol": protocols["CLIENTS"],
        f"{source}.sasl.mechanism": broker["sasl.enabled.mechanisms"],
        f"{target}.sasl.mechanism": broker["sasl.enabled.mechanisms"],
        f"{source}->{target}.enabled": "true",
        f"{target}->{source}.enabled": "false",
        f"{source}.consumer.isolation.level": "read_committed",
        f"{target}.producer.acks": "all",
    }
    yield from (f"mm2.properties does not say {key}={value}" for key, value in wanted.items() if said.get(key) != value)
