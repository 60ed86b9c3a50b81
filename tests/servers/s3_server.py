"""An S3 server in a process of its own: moto's, which keeps everything in memory."""

import sys
from http.client import HTTPConnection

from servers.errors import ServerError
from servers.server import HOST, Server


class S3Server(Server):
    """Buckets that live as long as the process; any access key is accepted."""

    name = "s3"

    @property
    def address(self) -> str:
        return f"http://{HOST}:{self.port}"

    def prepare(self) -> None:
        """Moto needs nothing."""

    def command(self) -> list[str]:
        return [sys.executable, "-m", "moto.server", "--host", HOST, "--port", str(self.port)]

    def probe(self) -> None:
        connection = HTTPConnection(HOST, self.port, timeout=5)
        try:
            connection.request("GET", "/")
            status = connection.getresponse().status
        finally:
            connection.close()
        if status != 200:
            raise ServerError(f"s3 answers with status {status}")
