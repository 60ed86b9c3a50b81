"""Asks a service whether it is ready to serve."""

import asyncio
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from recommend_cli.stack.folder import Protocol

_POLL_S: Final = 0.05
_ANSWER_S: Final = 2.0
_READY_PATH: Final = "/health/ready"
_CHANNEL_OPTIONS: Final = (
    # A service that starts takes a second or two: look again soon instead of backing off.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 100),
    ("grpc.enable_http_proxy", 0),
)


async def wait_until_ready(endpoint: str, protocol: Protocol) -> None:
    """Return when the service says that it serves; wait for ever until then."""
    if protocol == "http":
        await _wait_for_http(endpoint)
    else:
        await _wait_for_grpc(endpoint)


async def is_ready(endpoint: str, protocol: Protocol, *, timeout_s: float = _ANSWER_S) -> bool:
    """Tell whether the service says within the time that it serves."""
    try:
        async with asyncio.timeout(timeout_s):
            await wait_until_ready(endpoint, protocol)
    except TimeoutError:
        return False
    return True


async def _wait_for_grpc(endpoint: str) -> None:
    async with grpc.aio.insecure_channel(endpoint, options=_CHANNEL_OPTIONS) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while True:
            try:
                answer = await stub.Check(  # type: ignore[attr-defined]  # the stubs lack it
                    health_pb2.HealthCheckRequest(service=""), timeout=_ANSWER_S
                )
            except grpc.aio.AioRpcError:
                answer = None
            if answer is not None and answer.status == health_pb2.HealthCheckResponse.SERVING:
                return
            await asyncio.sleep(_POLL_S)


async def _wait_for_http(endpoint: str) -> None:
    while True:
        if await _answers_ok(endpoint):
            return
        await asyncio.sleep(_POLL_S)


async def _answers_ok(endpoint: str) -> bool:
    """Ask once; by hand, because a client library takes longer to import than the whole stack to answer."""
    host, _, port = endpoint.rpartition(":")
    try:
        async with asyncio.timeout(_ANSWER_S):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(f"GET {_READY_PATH} HTTP/1.1\r\nHost: {endpoint}\r\nConnection: close\r\n\r\n".encode())
                return (await reader.readline()).startswith(b"HTTP/1.1 200")
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
