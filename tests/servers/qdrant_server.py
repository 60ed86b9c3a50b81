"""Our own server of Qdrant's wire, in a process of its own; see `servers.qdrant`."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc

from servers.server import HOST, Server
from servers.settings import ServersSettings

TESTS = Path(__file__).parents[1]


class QdrantServer(Server):
    """A server without a key.

    Args:
        rest_port: Port of REST, where snapshots are restored.
    """

    name = "qdrant"

    def __init__(self, folder: Path, port: int, rest_port: int, settings: ServersSettings) -> None:
        super().__init__(folder, port, settings)
        self.rest_port = rest_port

    def prepare(self) -> None:
        """The server takes all it needs from its arguments."""

    def command(self) -> list[str]:
        places = ["--host", HOST, "--port", str(self.port), "--rest-port", str(self.rest_port)]
        return [sys.executable, "-m", "servers.qdrant", *places, "--data", str(self.folder / "data")]

    def environment(self) -> Mapping[str, str]:
        return {**os.environ, "PYTHONPATH": str(TESTS)}

    def probe(self) -> None:
        from qdrant_client.grpc import HealthCheckRequest, QdrantStub  # noqa: PLC0415 - see Server.probe

        with grpc.insecure_channel(self.address) as channel:
            stub: Any = QdrantStub(channel)  # type: ignore[no-untyped-call] # generated without types
            stub.HealthCheck(HealthCheckRequest(), timeout=5)
