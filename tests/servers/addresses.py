"""Where the shared servers are, for tests: each address is given only when its server answers."""

from dataclasses import dataclass
from functools import cached_property

import pytest

from servers.fleet import fleet
from servers.neo4j_server import USER, Neo4jServer
from servers.server import Server
from servers.settings import ServersSettings


@dataclass(frozen=True)
class Addresses:
    """The servers of these settings; one that is not up fails the test that asks for it, and tells what to do."""

    settings: ServersSettings

    @cached_property
    def kafka(self) -> str:
        """Host and port of the broker."""
        return self._checked("kafka").address

    @cached_property
    def cassandra(self) -> str:
        """Host and port of CQL; the data centre is `datacenter1`."""
        return self._checked("cassandra").address

    @cached_property
    def neo4j(self) -> str:
        """URL of Bolt."""
        return self._checked("neo4j").address

    @property
    def neo4j_user(self) -> str:
        """Who may do everything in Neo4j."""
        return USER

    @cached_property
    def neo4j_password(self) -> str:
        """The password of that user."""
        server = self._checked("neo4j")
        assert isinstance(server, Neo4jServer)
        return server.password

    @cached_property
    def redis(self) -> str:
        """URL of Redis, database 0."""
        return self._checked("redis").address

    @cached_property
    def qdrant(self) -> str:
        """Host and port of Qdrant's gRPC."""
        return self._checked("qdrant").address

    @property
    def qdrant_rest_port(self) -> int:
        """Port of Qdrant's REST."""
        return self.settings.qdrant_rest_port

    @cached_property
    def s3(self) -> str:
        """URL of the S3 endpoint; any access key does."""
        return self._checked("s3").address

    def _checked(self, name: str) -> Server:
        server = fleet(self.settings)[name]
        if not server.answers():
            pytest.fail(f"{name} does not answer at {server.address}: run `make servers`", pytrace=False)
        return server
