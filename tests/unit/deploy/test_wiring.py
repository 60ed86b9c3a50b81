"""Folders, secrets, certificates and variables are those that each program means; each kind of mistake is found."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from deploy_support.builds import WHOLE, Build, build, with_an_agent
from deploy_support.pods import pod_of, pods_of
from deploy_support.wiring import (
    BY_THE_IMAGE,
    FOR_EVERYBODY,
    IN_THE_IMAGE,
    KEPT,
    LOCKS,
    SECRET_OF,
    TLS_FILES,
    image_of,
    miswired,
)


@pytest.mark.parametrize("name", WHOLE)
def test_all_that_a_container_is_told_fits(name: str) -> None:
    assert miswired(build(name)) == []


@pytest.mark.parametrize("name", ["staging", "production"])
def test_all_that_an_agent_is_told_fits(name: str) -> None:
    assert miswired(with_an_agent(name)) == []


def test_every_entry_of_the_tables_is_used() -> None:
    containers = [each for name in WHOLE for pod in pods_of(build(name)) for each in pod.containers]
    images = {image_of(each) for each in containers}
    assert images >= IN_THE_IMAGE.keys() | BY_THE_IMAGE.keys() | KEPT.keys() | LOCKS.keys()
    variables = {variable["name"] for each in containers for variable in each.get("env", [])}
    assert variables >= SECRET_OF.keys() | TLS_FILES.keys()
    mounts = {mount["mountPath"] for each in containers for mount in each.get("volumeMounts", [])}
    assert mounts >= FOR_EVERYBODY.keys()


@pytest.mark.parametrize("name", [name for name in WHOLE if name != "laptop"])
def test_a_rollout_expands_and_nothing_more(name: str) -> None:
    """To contract is for a person, once no older program runs."""
    commands = [
        container["command"]
        for pod in pods_of(build(name))
        for container in pod.containers
        if any(word.endswith(".migrate") for word in container.get("command", []))
    ]
    stores = {"graph_service", "profile_store", "vector_search"} - (
        {"graph_service"} if name == "ap-southeast-1" else set()
    )
    assert sorted(commands) == [["python", "-m", f"{store}.migrate", "--phase", "expand"] for store in sorted(stores)]


def server(whole: Build, name: str) -> Any:
    return pod_of(whole, name).spec["containers"][0]


def mount(whole: Build, pod: str, path: str, **changes: str) -> None:
    (found,) = [each for each in server(whole, pod)["volumeMounts"] if each["mountPath"] == path]
    found.update(changes)


def variable(whole: Build, pod: str, name: str) -> Any:
    (found,) = [each for each in server(whole, pod)["env"] if each["name"] == name]
    return found


def take(whole: Build, pod: str, name: str, key: str) -> None:
    variable(whole, pod, name)["valueFrom"]["secretKeyRef"]["key"] = key


def say(whole: Build, pod: str, name: str, value: str) -> None:
    variable(whole, pod, name)["value"] = value


def replace_argument(whole: Build, pod: str, old: str, new: str) -> None:
    container = server(whole, pod)
    assert any(old in each for each in container["args"])
    container["args"] = [each.replace(old, new) for each in container["args"]]


def replace_in_file(whole: Build, name: str, key: str, old: str, new: str) -> None:
    data = whole.get("ConfigMap", name)["data"]
    assert old in data[key]
    data[key] = data[key].replace(old, new)


def swap_volumes(whole: Build, pod: str, one: str, other: str) -> None:
    for each in server(whole, pod)["volumeMounts"]:
        each["name"] = {one: other, other: one}.get(each["name"], each["name"])


def come_first(whole: Build, pod: str, name: str) -> None:
    variables = server(whole, pod)["env"]
    variables.insert(0, variables.pop(variables.index(variable(whole, pod, name))))


def secret_of(whole: Build, pod: str) -> Any:
    (found,) = [each["secret"] for each in pod_of(whole, pod).spec["volumes"] if "secret" in each]
    return found


MISTAKES: dict[str, tuple[Callable[[Build], object], str]] = {
    # folders
    "Neo4j's volume is elsewhere": (
        lambda whole: mount(whole, "neo4j", "/data", mountPath="/var/lib/neo4j"),
        "neo4j: server: is told nothing of /var/lib/neo4j",
    ),
    "Kafka's volume is elsewhere": (
        lambda whole: mount(whole, "kafka-broker", "/var/lib/kafka", mountPath="/kafka"),
        "kafka-broker: server: is told of /var/lib/kafka/logs, where nothing is mounted",
    ),
    "Kafka writes elsewhere": (
        lambda whole: replace_in_file(
            whole, "kafka-broker", "server.properties", "/var/lib/kafka/", "/etc/kafka-broker/"
        ),
        "kafka-broker: server: keeps its data at ['/etc/kafka-broker/logs'], its claim is at ['/var/lib/kafka']",
    ),
    "Qdrant's volume is another": (
        lambda whole: swap_volumes(whole, "qdrant", "qdrant-storage", "tmp"),
        "qdrant: server: keeps its data at ['/qdrant/storage'], its claim is at ['/tmp']",
    ),
    "Scylla's volume is elsewhere": (
        lambda whole: mount(whole, "scylladb-rack-b", "/var/lib/scylla", mountPath="/var/lib/scylladb"),
        "scylladb-rack-b: server: is told of /var/lib/scylla, where nothing is mounted",
    ),
    "Scylla reads another file": (
        lambda whole: replace_argument(whole, "scylladb-rack-a", "/configuration/", "/config/"),
        "scylladb-rack-a: server: is told of /config/scylla.yaml, where nothing is mounted",
    ),
    "models are elsewhere": (
        lambda whole: say(whole, "gpu-cluster", "MODELS_DIR", "/encoders"),
        "gpu-cluster: gpu-worker: is told of /encoders, where nothing is mounted",
    ),
    "the spool is elsewhere": (
        lambda whole: say(whole, "gpu-cluster", "DATA_DIR", "/models/queue"),
        "gpu-cluster: gpu-worker: keeps its data at ['/models/queue'], its claim is at ['/queue']",
    ),
    "the mirror's file is elsewhere": (
        lambda whole: mount(whole, "mirror-maker", "/etc/mirror-maker", mountPath="/etc/mirror"),
        "mirror-maker: server: is told of /etc/mirror-maker/mm2.properties, where nothing is mounted",
    ),
    # certificates
    "the key of another Secret": (
        lambda whole: secret_of(whole, "vector-search").update(secretName="graph-service-mtls"),
        "vector-search: server: TLS_KEY_FILE is not tls.key of vector-search-mtls",
    ),
    "the key for the certificate": (
        lambda whole: say(whole, "hot-path-api", "TLS_CERT_FILE", "/etc/recommendation/tls/tls.key"),
        "hot-path-api: server: TLS_CERT_FILE is not tls.crt of hot-path-api-mtls",
    ),
    "no authority": (
        lambda whole: server(whole, "profile-store")["env"].remove(variable(whole, "profile-store", "TLS_CA_FILE")),
        "profile-store: server: TLS_CA_FILE is not ca.crt of profile-store-mtls",
    ),
    "no certificate": (
        lambda whole: [
            server(whole, "profile-store")["env"].remove(variable(whole, "profile-store", name)) for name in TLS_FILES
        ],
        "profile-store: server: has no certificate",
    ),
    "an agent with a service's certificate": (
        lambda whole: secret_of(whole, "agent").update(secretName="profile-store-mtls"),
        "agent: agent: TLS_CERT_FILE is not tls.crt of agent-mtls",
    ),
    # secrets
    "another store's password": (
        lambda whole: take(whole, "hot-path-api", "KAFKA_PASSWORD", "redis_password"),
        "hot-path-api: server: KAFKA_PASSWORD takes",
    ),
    "a password for a name": (
        lambda whole: take(whole, "profile-store", "SCYLLADB_USERNAME", "scylladb_password"),
        "profile-store: server: SCYLLADB_USERNAME takes",
    ),
    "a store with another's key": (
        lambda whole: take(whole, "qdrant", "QDRANT__SERVICE__API_KEY", "api_key"),
        "qdrant: server: QDRANT__SERVICE__API_KEY takes",
    ),
    "another property of the vault": (
        lambda whole: whole.all("ExternalSecret")[0]["spec"]["data"][0]["remoteRef"].update(property="kafka_username"),
        "neo4j_username is {",
    ),
    "another entry of the vault": (
        lambda whole: whole.all("ExternalSecret")[0]["spec"]["data"][1]["remoteRef"].update(key="recommendation"),
        "neo4j_password is {",
    ),
    "Prometheus with another key": (
        lambda whole: [
            endpoint["authorization"]["credentials"].update(key="api_key")
            for each in whole.all("PodMonitor")
            for endpoint in each["spec"]["podMetricsEndpoints"]
            if "authorization" in endpoint
        ],
        "logs in by",
    ),
    # variables
    "an address of a variable that comes later": (
        lambda whole: come_first(whole, "hot-path-api", "EVENT_LOG_URL"),
        "hot-path-api: server: EVENT_LOG_URL is made of KAFKA_BROKERS, which is none or comes later",
    ),
    "an argument of no variable": (
        lambda whole: replace_argument(whole, "scylladb-rack-c", "$(POD_IP)", "$(IP)"),
        "scylladb-rack-c: server: its command line has IP, which is none of its variables",
    ),
    "a script with no variable": (
        lambda whole: variable(whole, "mirror-maker", "REGION").update(name="AREA"),
        "mirror-maker: server: its command line has REGION, which is none of its variables",
    ),
    # doors of the stores
    "Redis for everybody": (
        lambda whole: server(whole, "redis").update(args=server(whole, "redis")["args"][2:]),
        "redis: server: is not told ^--requirepass",
    ),
    "Scylla for everybody": (
        lambda whole: replace_argument(whole, "scylladb-rack-b", "PasswordAuthenticator", "AllowAllAuthenticator"),
        "scylladb-rack-b: server: is not told ^--authenticator",
    ),
    "Kafka for everybody": (
        lambda whole: replace_in_file(
            whole, "kafka-broker", "server.properties", "CLIENTS:SASL_PLAINTEXT", "CLIENTS:PLAINTEXT"
        ),
        "kafka-broker: server: is not told ^listener",
    ),
    "Qdrant for everybody": (
        lambda whole: variable(whole, "qdrant", "QDRANT__SERVICE__API_KEY").update(name="QDRANT_API_KEY"),
        "qdrant: server: is not told ^QDRANT__SERVICE__API_KEY",
    ),
    "Neo4j for everybody": (
        lambda whole: say(whole, "neo4j-replica", "NEO4J_AUTH", "none"),
        "neo4j-replica: server: is not told ^NEO4J_AUTH",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake: str) -> None:
    make, found = MISTAKES[mistake]
    broken = copy.deepcopy(with_an_agent("eu-west-1"))
    assert miswired(broken) == []
    make(broken)
    assert any(found in problem for problem in miswired(broken)), miswired(broken)
