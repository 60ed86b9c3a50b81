"""The gRPC server of every service: health, reflection, one wrapper around all calls, an orderly end."""

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from servicekit.errors import FailedPreconditionError
from servicekit.logs import get_logger
from servicekit.rpc.calls import HandlerCollector
from servicekit.rpc.tls import TlsFiles, server_credentials

MAX_MESSAGE_BYTES = 64 * 1024 * 1024

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class GrpcServer:
    """Serves the registered servicers from `start` to `stop`; also an async context manager.

    It starts NOT_SERVING: whoever wired the service calls `set_serving(True)` once it can answer. `stop` says
    NOT_SERVING under the name "" (readiness), leaves the services' own names alone (liveness), takes no more calls,
    lets those in flight finish within the grace and closes. Whoever watches the health is in flight too.

    Args:
        host: The address to listen on.
        port: The port to listen on, 0 for a free one.
        service_names: The full proto names of the services, for health and reflection.
        register: Adds the servicers by the generated `add_…_to_server` functions; all that it may do with its argument.
        shutdown_grace_s: How long calls in flight may take to finish.
        max_message_bytes: The largest message in either direction.
        tls: Lets in only those who show a certificate of the same authority; None lets in everybody, without TLS.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        service_names: Sequence[str],
        register: Callable[[grpc.aio.Server], None],
        shutdown_grace_s: float = 10.0,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        tls: TlsFiles | None = None,
    ) -> None:
        self._tls = tls
        self._address = f"{host}:{port}"
        self._service_names = tuple(service_names)
        self._register = register
        self._shutdown_grace_s = shutdown_grace_s
        self._options = (
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            ("grpc.so_reuseport", 0),  # a second server on the same port must fail, not share its calls
            ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.max_connection_age_ms", 300_000),  # clients look up the addresses anew and find new replicas
        )
        self._server: grpc.aio.Server | None = None
        self._health: health.aio.HealthServicer | None = None
        self._health_changes: set[asyncio.Task[None]] = set()
        self._log = get_logger(__name__)
        self.port = 0

    async def start(self) -> None:
        """Bind the port and begin to answer; `port` is known afterwards.

        Raises:
            FailedPreconditionError: The port is taken.
        """
        collector: Any = HandlerCollector()
        self._register(collector)  # first, since gRPC asks one handler after the other
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, collector)
        names = (*self._service_names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        add_reflection: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server  # it has no types
        add_reflection(reflection.aio.ReflectionServicer(names), collector)
        self._server = grpc.aio.server(handlers=collector.handlers, options=self._options)
        for name in ("", *self._service_names):
            await self._health.set(name, _NOT_SERVING)
        try:
            if self._tls is None:
                self.port = self._server.add_insecure_port(self._address)
            else:
                self.port = self._server.add_secure_port(self._address, server_credentials(self._tls))
        except RuntimeError as error:
            raise FailedPreconditionError(f"cannot listen on {self._address}; does something else?") from error
        await self._server.start()
        self._log.info("listening", port=self.port, services=self._service_names)

    def set_serving(self, ready: bool) -> None:
        """Tell health checks whether calls can be answered; may be called again whenever that changes."""
        for name in ("", *self._service_names):
            self._change_health(name, _SERVING if ready else _NOT_SERVING)

    async def stop(self) -> None:
        """Drain and close; harmless when not started or stopped already."""
        server, self._server = self._server, None
        if server is None:
            return
        self._change_health("", _NOT_SERVING)
        await asyncio.gather(*self._health_changes)
        await server.stop(self._shutdown_grace_s)
        self._log.info("stopped", port=self.port)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _change_health(self, name: str, status: Any) -> None:
        if self._health is None:
            raise RuntimeError("start the server before saying whether it can answer")
        change = asyncio.get_running_loop().create_task(self._health.set(name, status))
        self._health_changes.add(change)
        change.add_done_callback(self._health_changes.discard)
