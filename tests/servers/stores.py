"""The settings file of a stack on the servers, which `recommend up --settings` and `--stores servers` read."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Protocol

from servers.errors import ServerError
from servers.neo4j_server import Neo4jServer
from servers.qdrant_server import QdrantServer
from servers.server import HOST, Server

BUCKET = "models"
SETTINGS = """\
TENANT=${{NAMESPACE}}
EVENT_LOG_URL=kafka://{where.kafka}
EVENT_LOG_PREFIX=${{NAMESPACE}}.
PROFILE_STORE_URL=cql://{where.cassandra}/${{NAMESPACE}}
CQL_REPLICATION_FACTOR=1
GRAPH_STORE_URL={where.neo4j}
NEO4J_USERNAME=neo4j
NEO4J_PASSWORD={where.neo4j_password}
VECTOR_STORE_URL=qdrant://{where.qdrant}
QDRANT_PREFIX=${{NAMESPACE}}
QDRANT_REST_PORT={where.qdrant_rest_port}
MODEL_STORE_URL=s3://{bucket}/${{NAMESPACE}}
S3_ENDPOINT_URL={where.s3}
AWS_ACCESS_KEY_ID=test
AWS_SECRET_ACCESS_KEY=test
REDIS_URL={where.redis}
REDIS_PREFIX=${{NAMESPACE}}:
"""


class ServerAddresses(Protocol):
    """Where each server is, as `servers.addresses.Addresses` says it."""

    @property
    def kafka(self) -> str: ...
    @property
    def cassandra(self) -> str: ...
    @property
    def neo4j(self) -> str: ...
    @property
    def neo4j_password(self) -> str: ...
    @property
    def qdrant(self) -> str: ...
    @property
    def qdrant_rest_port(self) -> int: ...
    @property
    def s3(self) -> str: ...
    @property
    def redis(self) -> str: ...


@dataclass(frozen=True)
class Places:
    """Where servers are, by their names."""

    by_name: Mapping[str, Server]

    @property
    def kafka(self) -> str:
        return self.by_name["kafka"].address

    @property
    def cassandra(self) -> str:
        return self.by_name["cassandra"].address

    @property
    def neo4j(self) -> str:
        return self.by_name["neo4j"].address

    @property
    def neo4j_password(self) -> str:
        server = self.by_name["neo4j"]
        assert isinstance(server, Neo4jServer)
        return server.password

    @property
    def qdrant(self) -> str:
        return self.by_name["qdrant"].address

    @property
    def qdrant_rest_port(self) -> int:
        server = self.by_name["qdrant"]
        assert isinstance(server, QdrantServer)
        return server.rest_port

    @property
    def s3(self) -> str:
        return self.by_name["s3"].address

    @property
    def redis(self) -> str:
        return self.by_name["redis"].address


def write_settings(path: Path, where: Places) -> None:
    """Write the file, with a password in it, for its owner only, and make the bucket that it names."""
    make_bucket(where.by_name["s3"].port)
    scratch = path.with_suffix(".part")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(settings_for(where))
    scratch.replace(path)


def make_bucket(port: int) -> None:
    """Make the bucket of the models if it is not there; moto forgets it when it stops."""
    connection = HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("PUT", f"/{BUCKET}")
        status = connection.getresponse().status
    finally:
        connection.close()
    if status != 200:
        raise ServerError(f"s3 refuses to make the bucket {BUCKET} with status {status}")


def settings_for(where: ServerAddresses) -> str:
    """Give the settings file of a stack on these servers."""
    return SETTINGS.format(where=where, bucket=BUCKET)
