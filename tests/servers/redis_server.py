"""Redis from Debian's package, with an append-only file."""

from collections.abc import Sequence
from pathlib import Path

from servers.machine import program
from servers.server import HOST, Server
from servers.settings import ServersSettings


class RedisServer(Server):
    """A Redis without a password.

    Args:
        arguments: More arguments of the program, such as `--cluster-enabled yes`.
    """

    name = "redis"

    def __init__(self, folder: Path, port: int, settings: ServersSettings, arguments: Sequence[str] = ()) -> None:
        super().__init__(folder, port, settings)
        self.arguments = arguments

    @property
    def address(self) -> str:
        return f"redis://{HOST}:{self.port}"

    def prepare(self) -> None:
        """Redis takes all it needs from its arguments."""

    def command(self) -> list[str]:
        return [
            program("redis-server", package="redis-server"),
            *("--bind", HOST, "--port", str(self.port), "--dir", str(self.folder)),
            *("--appendonly", "yes", "--save", ""),
            *("--maxmemory", f"{self.settings.redis_memory_mb}mb", "--maxmemory-policy", "noeviction"),
            *self.arguments,
        ]

    def probe(self) -> None:
        from redis import Redis  # noqa: PLC0415 - see Server.probe
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.retry import Retry  # noqa: PLC0415

        with Redis(host=HOST, port=self.port, socket_timeout=5, retry=Retry(NoBackoff(), 0)) as client:
            client.ping()
