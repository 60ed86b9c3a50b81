"""In docker's compose files every address is the right port, every secret the right one, every volume at the data."""

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
import yaml

from deploy_support.builds import ROOT
from deploy_support.doors import OPENED

FILES = sorted((ROOT / "docker").glob("compose*.yaml"))
Document = dict[str, Any]

ADDRESSES: Final = {
    "VECTOR_DB_ENDPOINT": f"vector-search:{OPENED['vector-search']['grpc']}",
    "GRAPH_DB_ENDPOINT": f"graph-service:{OPENED['graph-service']['grpc']}",
    "AGENTDB_ENDPOINT": f"profile-store:{OPENED['profile-store']['grpc']}",
    "GPU_WORKER_ENDPOINT": f"gpu-worker:{OPENED['gpu-worker']['grpc']}",
    "EVENT_LOG_URL": f"kafka://kafka:{OPENED['apache/kafka']['clients']}",
    "GRAPH_STORE_URL": f"bolt://neo4j:{OPENED['neo4j']['bolt']}",
    "PROFILE_STORE_URL": f"cql://scylladb:{OPENED['scylladb/scylla']['cql']}/recommendation",
    "REDIS_URL": f"redis://redis:{OPENED['redis']['redis']}",
    "S3_ENDPOINT_URL": "http://s3:9000",
    "VECTOR_STORE_URL": f"qdrant://qdrant:{OPENED['qdrant/qdrant']['grpc']}",
}
"""Whom each variable names, and where that one answers such calls."""

SECRETS: Final = {
    "AWS_ACCESS_KEY_ID": "S3_ACCESS_KEY",
    "AWS_SECRET_ACCESS_KEY": "S3_SECRET_KEY",
    "GF_SECURITY_ADMIN_PASSWORD": "GRAFANA_PASSWORD",
    "MINIO_ROOT_PASSWORD": "S3_SECRET_KEY",
    "MINIO_ROOT_USER": "S3_ACCESS_KEY",
    "NEO4J_AUTH": "NEO4J_PASSWORD",
    "QDRANT__SERVICE__API_KEY": "QDRANT_API_KEY",
    "REDISCLI_AUTH": "REDIS_PASSWORD",
}
"""The variables of a secret that the file of secrets calls by another name."""

DATA: Final = {
    "alertmanager-data": "/alertmanager",
    "grafana-data": "/var/lib/grafana",
    "kafka-data": "/var/lib/kafka/data",
    "neo4j-data": "/data",
    "prometheus-data": "/prometheus",
    "qdrant-data": "/qdrant/storage",
    "s3-data": "/data",
    "scylladb-data": "/var/lib/scylla",
    "data": "/data",
    "models": "/models:ro",
    "queue": "/queue",
}
"""The folder in which an image keeps what is on each volume."""

_SECRET: Final = re.compile(r"\$\{([A-Z0-9_]+):\?")


def wrong(document: Document) -> list[str]:
    """Tell what does not fit in one file."""
    return [
        f"{name}: {problem}"
        for name, service in document["services"].items()
        for walk in (_addresses, _secrets, _volumes, _locks)
        for problem in walk(name, service)
    ]


def _addresses(name: str, service: Document) -> Iterator[str]:  # noqa: ARG001 - as every walk
    for variable, value in service.get("environment", {}).items():
        if variable in ADDRESSES and value not in {ADDRESSES[variable], "sqlite:////data/log"}:
            yield f"{variable} is {value}"


def _secrets(name: str, service: Document) -> Iterator[str]:  # noqa: ARG001 - as every walk
    for variable, value in service.get("environment", {}).items():
        for used in _SECRET.findall(str(value)):
            if used != SECRETS.get(variable, variable):
                yield f"{variable} takes {used}"


def _volumes(name: str, service: Document) -> Iterator[str]:
    for volume in service.get("volumes", []):
        source, _, folder = volume.partition(":")
        if not source.startswith(".") and (
            folder != DATA.get(source) or (source.endswith("-data") and source != f"{name}-data")
        ):
            yield f"{source} is at {folder}"
    if name == "kafka" and service["environment"]["KAFKA_LOG_DIRS"] != DATA["kafka-data"]:
        yield "writes elsewhere"


def _locks(name: str, service: Document) -> Iterator[str]:
    said = service.get("environment", {})
    if name == "redis":
        words = [str(each) for each in service["command"]]
        if words[1] != "--requirepass" or _SECRET.findall(words[2]) != ["REDIS_PASSWORD"]:
            yield "asks for no password"
    wanted = {"qdrant": "QDRANT__SERVICE__API_KEY", "neo4j": "NEO4J_AUTH", "s3": "MINIO_ROOT_PASSWORD"}
    if name in wanted and not _SECRET.search(str(said.get(wanted[name], ""))):
        yield "asks for no password"


def read(name: str) -> Document:
    document: Document = yaml.safe_load((ROOT / "docker" / name).read_text())
    return document


@pytest.mark.parametrize("name", [path.name for path in FILES])
def test_a_file_fits(name: str) -> None:
    assert wrong(read(name)) == []


def test_every_entry_of_the_tables_is_used() -> None:
    services = [each for path in FILES for each in read(path.name)["services"].values()]
    variables = {variable for each in services for variable in each.get("environment", {})}
    assert variables >= ADDRESSES.keys() | SECRETS.keys()
    assert {volume.partition(":")[0] for each in services for volume in each.get("volumes", [])} >= DATA.keys()


MISTAKES: dict[str, tuple[str, Callable[[Document], object], str]] = {
    "another port of the right service": (
        "compose.yaml",
        lambda services: services["hot-path-api"]["environment"].update(VECTOR_DB_ENDPOINT="vector-search:9090"),
        "hot-path-api: VECTOR_DB_ENDPOINT is vector-search:9090",
    ),
    "another service": (
        "compose.yaml",
        lambda services: services["gpu-worker"]["environment"].update(AGENTDB_ENDPOINT="graph-service:50052"),
        "gpu-worker: AGENTDB_ENDPOINT is graph-service:50052",
    ),
    "the port of HTTP": (
        "compose.stores.yaml",
        lambda services: services["vector-search"]["environment"].update(VECTOR_STORE_URL="qdrant://qdrant:6333"),
        "vector-search: VECTOR_STORE_URL is qdrant://qdrant:6333",
    ),
    "another's secret": (
        "compose.stores.yaml",
        lambda services: services["qdrant"]["environment"].update(QDRANT__SERVICE__API_KEY="${REDIS_PASSWORD:?none}"),
        "qdrant: QDRANT__SERVICE__API_KEY takes REDIS_PASSWORD",
    ),
    "a volume beside the data": (
        "compose.stores.yaml",
        lambda services: services["neo4j"].update(volumes=["neo4j-data:/var/lib/neo4j"]),
        "neo4j: neo4j-data is at /var/lib/neo4j",
    ),
    "another's volume": (
        "compose.stores.yaml",
        lambda services: services["s3"].update(volumes=["neo4j-data:/data"]),
        "s3: neo4j-data is at /data",
    ),
    "logs beside the volume": (
        "compose.stores.yaml",
        lambda services: services["kafka"]["environment"].update(KAFKA_LOG_DIRS="/tmp/logs"),  # noqa: S108 - a mistake
        "kafka: writes elsewhere",
    ),
    "Redis for everybody": (
        "compose.stores.yaml",
        lambda services: services["redis"].update(command=["redis-server", "--maxmemory", "256mb"]),
        "redis: asks for no password",
    ),
    "Qdrant for everybody": (
        "compose.stores.yaml",
        lambda services: services["qdrant"]["environment"].pop("QDRANT__SERVICE__API_KEY"),
        "qdrant: asks for no password",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(mistake: str) -> None:
    name, make, found = MISTAKES[mistake]
    broken = copy.deepcopy(read(name))
    assert wrong(broken) == []
    make(broken["services"])
    assert found in wrong(broken)
