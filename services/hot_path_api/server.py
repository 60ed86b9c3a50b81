"""The HTTP server, whose life is in our hands: it drains when told to, and leaves signals to others."""

import asyncio
import socket
from collections.abc import Generator
from contextlib import contextmanager
from http import HTTPStatus

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hot_path_api.api.edge import Edge
from hot_path_api.api.problems import MEDIA_TYPE, problem
from hot_path_api.application.health import Health
from servicekit.errors import FailedPreconditionError
from servicekit.logs import get_logger
from servicekit.request_id import begin_request


class _Protocol(HttpToolsProtocol):
    """Says also of what is no HTTP by a problem document what is wrong with it."""

    def send_400_response(self, msg: str) -> None:
        """Answer and close; called where the request could not be read as far as its headers."""
        request_id = begin_request("")
        answer = problem(HTTPStatus.BAD_REQUEST, code="malformed_request", detail=msg, request_id=request_id)
        head = (
            b"HTTP/1.1 400 Bad Request\r\ncontent-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n"
            b"connection: close\r\n\r\n"
        )
        self.transport.write(head % (MEDIA_TYPE.encode(), len(answer.body), request_id.encode()) + answer.body)
        self.transport.close()


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals alone: the service's lifecycle has them."""
        yield


class HttpServer:
    """Serves the application from `start` until `stop`.

    Args:
        app: The application.
        health: Is told when the server drains.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        drain_s: How long to go on after saying "not ready".
        grace_s: How long requests in flight may take to finish.
    """

    def __init__(self, app: Edge, *, health: Health, host: str, port: int, drain_s: float, grace_s: float) -> None:
        self._health = health
        self._drain_s = drain_s
        self._address = (host, port)
        self._server = _Server(
            uvicorn.Config(
                app,
                loop="none",
                http=_Protocol,
                ws="none",
                lifespan="off",
                access_log=False,
                proxy_headers=False,
                log_config=None,
                server_header=False,
                timeout_graceful_shutdown=max(1, round(grace_s)),
                # Longer than load balancers keep idle connections, so that they never send into a closed one.
                timeout_keep_alive=75,
                backlog=2048,
            )
        )
        self._serving: asyncio.Task[None] | None = None
        self._log = get_logger(__name__)
        self.port = 0

    async def start(self) -> None:
        """Bind the port and begin to answer; `port` is known afterwards.

        Raises:
            FailedPreconditionError: The port is taken.
        """
        try:
            listener = socket.create_server(self._address, backlog=2048)
        except OSError as error:
            host, port = self._address
            raise FailedPreconditionError(f"cannot listen on {host}:{port}: {error}", field="http_port") from error
        self.port = listener.getsockname()[1]
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        self._log.info("listening", port=self.port)

    async def stop(self) -> None:
        """Say "not ready", wait for the drain, finish what is in flight, close."""
        if self._serving is None:
            return
        self._health.drain()
        await asyncio.sleep(self._drain_s)
        self._server.should_exit = True
        await self._serving
        self._serving = None
        self._log.info("stopped", port=self.port)
