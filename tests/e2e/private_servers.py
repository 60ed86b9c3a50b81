"""Real servers of a test's own, which it may kill and freeze."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from servers.fleet import start_cassandra, start_kafka, start_neo4j, start_qdrant, start_redis, start_s3
from servers.neo4j_server import Neo4jServer
from servers.qdrant_server import QdrantServer
from servers.server import Server

from e2e.stores import BUCKET

START: dict[str, Callable[[Path], Server]] = {
    "kafka": start_kafka,
    "cassandra": start_cassandra,
    "neo4j": start_neo4j,
    "qdrant": start_qdrant,
    "redis": start_redis,
    "s3": start_s3,
}


@dataclass(frozen=True)
class PrivateServers:
    """The servers by name, and their addresses as `servers.addresses.Addresses` gives them."""

    by_name: dict[str, Server]

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


@contextmanager
def private_servers(folder: Path) -> Iterator[PrivateServers]:
    """Start one of each, all at once, and stop them at the end."""
    with ThreadPoolExecutor(len(START)) as pool:
        starting = {name: pool.submit(start, folder / name) for name, start in START.items()}
        try:
            servers = PrivateServers({name: each.result() for name, each in starting.items()})
            httpx.put(f"{servers.s3}/{BUCKET}").raise_for_status()
            yield servers
        finally:
            started = [each.result() for each in starting.values() if each.exception() is None]
            list(pool.map(lambda server: server.stop(), started))
