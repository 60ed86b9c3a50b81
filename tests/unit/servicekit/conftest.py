"""A small service that echoes, fails and waits on demand: what the tests of both ends of a call talk to."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest

from servicekit.deadline import remaining_s
from servicekit.request_id import current_request_id
from servicekit.rpc.client import RpcChannel

SERVICE = "servicekit.testing.EchoService"


@dataclass
class EchoService:
    """Answers each request with itself, after doing what the test put into `act`."""

    act: Callable[[bytes], Any] = lambda _request: None
    requests: list[bytes] = field(default_factory=list)
    request_ids: list[str] = field(default_factory=list)
    deadlines: list[float] = field(default_factory=list)
    cancelled: int = 0
    closed_streams: int = 0

    async def echo(self, request: bytes, _context: Any) -> bytes:
        self._note(request)
        try:
            if asyncio.iscoroutine(doing := self.act(request)):
                await doing
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return request

    async def count(self, request: bytes, _context: Any) -> AsyncIterator[bytes]:
        """Stream the numbers below the one asked for."""
        self._note(request)
        try:
            for number in range(int(request)):
                yield b"%d" % number
                if asyncio.iscoroutine(doing := self.act(request)):
                    await doing
        finally:
            self.closed_streams += 1

    async def join(self, requests: AsyncIterator[bytes], _context: Any) -> bytes:
        return b"".join([request async for request in requests])

    async def repeat(self, requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    def _note(self, request: bytes) -> None:
        self.requests.append(request)
        self.request_ids.append(current_request_id())
        self.deadlines.append(remaining_s())

    def register(self, server: grpc.aio.Server) -> None:
        handlers: dict[str, Any] = {
            "Echo": grpc.unary_unary_rpc_method_handler(self.echo),
            "Count": grpc.unary_stream_rpc_method_handler(self.count),
            "Join": grpc.stream_unary_rpc_method_handler(self.join),
            "Repeat": grpc.stream_stream_rpc_method_handler(self.repeat),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


class EchoStub:
    """The client's side of it, as generated code would make it."""

    def __init__(self, channel: RpcChannel) -> None:
        raw: Any = channel.channel
        self.Echo = raw.unary_unary(f"/{SERVICE}/Echo")
        self.Count = raw.unary_stream(f"/{SERVICE}/Count")
        self.Join = raw.stream_unary(f"/{SERVICE}/Join")
        self.Repeat = raw.stream_stream(f"/{SERVICE}/Repeat")
        self.Absent = raw.unary_unary(f"/{SERVICE}/Absent")


@pytest.fixture
def echo() -> EchoService:
    return EchoService()


@pytest.fixture
def service_name() -> str:
    return SERVICE


@pytest.fixture
def make_stub() -> type[EchoStub]:
    return EchoStub
