"""Writes settings for `recommend up --settings`: where the servers of a test are."""

from typing import Protocol

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
MODEL_STORE_URL=s3://models/${{NAMESPACE}}
S3_ENDPOINT_URL={where.s3}
AWS_ACCESS_KEY_ID=test
AWS_SECRET_ACCESS_KEY=test
REDIS_URL={where.redis}
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


def settings_for(where: ServerAddresses) -> str:
    """Give the settings file of a stack on these servers."""
    return SETTINGS.format(where=where)
