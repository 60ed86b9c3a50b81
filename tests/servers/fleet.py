"""The servers that `make servers` starts, and private ones for tests that break theirs."""

from collections.abc import Sequence
from pathlib import Path

from servers.cassandra_server import CassandraServer
from servers.kafka_server import KafkaServer
from servers.neo4j_server import Neo4jServer
from servers.qdrant_server import QdrantServer
from servers.redis_server import RedisServer
from servers.s3_server import S3Server
from servers.server import Server, free_port
from servers.settings import ServersSettings


def fleet(settings: ServersSettings) -> dict[str, Server]:
    """Give the shared servers by name, running or not."""
    data = settings.data_dir
    servers: list[Server] = [
        KafkaServer(data / "kafka", settings.kafka_port, settings.kafka_controller_port, settings),
        CassandraServer(data / "cassandra", settings.cassandra_port, settings.cassandra_storage_port, settings),
        Neo4jServer(data / "neo4j", settings.neo4j_port, settings),
        RedisServer(data / "redis", settings.redis_port, settings),
        QdrantServer(data / "qdrant", settings.qdrant_port, settings.qdrant_rest_port, settings),
        S3Server(data / "s3", settings.s3_port, settings),
    ]
    return {server.name: server for server in servers}


def _private() -> ServersSettings:
    return ServersSettings(quick_start=True)


def start_kafka(folder: Path, port: int = 0, password: str = "") -> KafkaServer:
    """Start a Kafka of one's own, which wants a password if one is given; port 0 takes a free one."""
    server = KafkaServer(folder, port or free_port(), free_port(), _private(), password)
    server.start()
    return server


def start_cassandra(folder: Path, port: int = 0, *, guarded: bool = False) -> CassandraServer:
    """Start a Cassandra of one's own, which wants a login if it is guarded; port 0 takes a free one."""
    server = CassandraServer(folder, port or free_port(), free_port(), _private(), guarded=guarded)
    server.start()
    return server


def start_neo4j(folder: Path, port: int = 0) -> Neo4jServer:
    """Start a Neo4j of one's own, with a password of its own; port 0 takes a free one."""
    server = Neo4jServer(folder, port or free_port(), _private())
    server.start()
    return server


def start_redis(folder: Path, port: int = 0, arguments: Sequence[str] = ()) -> RedisServer:
    """Start a Redis of one's own, with more arguments if need be; port 0 takes a free one."""
    server = RedisServer(folder, port or free_port(), _private(), arguments)
    server.start()
    return server


def start_qdrant(folder: Path, port: int = 0) -> QdrantServer:
    """Start a server of Qdrant's wire of one's own; port 0 takes a free one."""
    server = QdrantServer(folder, port or free_port(), free_port(), _private())
    server.start()
    return server


def start_s3(folder: Path, port: int = 0) -> S3Server:
    """Start an S3 server of one's own; port 0 takes a free one."""
    server = S3Server(folder, port or free_port(), _private())
    server.start()
    return server
