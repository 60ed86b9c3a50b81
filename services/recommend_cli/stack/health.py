"""Asks a service whether it is ready to serve."""

import asyncio
from typing import Final

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from recommend_cli.stack.folder import Protocol

_POLL_S: Final = 0.05
_ANSWER_S: Final = 2.0
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
        await _wait_for_http(f"http://{endpoint}/health/ready")
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


async def _wait_for_http(url: str) -> None:
    async with httpx.AsyncClient(timeout=_ANSWER_S, trust_env=False) as client:
        while True:
            try:
                answer = await client.get(url)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.is_success:
                return
            await asyncio.sleep(_POLL_S)
