"""What tests need to run servers and to wait for things."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from inspect import isawaitable
from typing import Any, TypeVar, overload

import grpc.aio

from servicekit.rpc.client import RpcChannel
from servicekit.rpc.server import GrpcServer

T = TypeVar("T")


def free_port() -> int:
    """Give a TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def served(
    register: Callable[[grpc.aio.Server], None], service_names: Sequence[str] = (), *, shutdown_grace_s: float = 1.0
) -> AsyncIterator[tuple[GrpcServer, RpcChannel]]:
    """Run a server on a free port, say that it serves, and give it with a channel to it."""
    server = GrpcServer(
        host="127.0.0.1", port=0, service_names=service_names, register=register, shutdown_grace_s=shutdown_grace_s
    )
    async with server, RpcChannel(f"127.0.0.1:{server.port}", name="under-test") as channel:
        server.set_serving(True)
        await channel.wait_ready(5.0)
        yield server, channel


@overload
async def eventually(
    check: Callable[[], Coroutine[Any, Any, T]], *, timeout_s: float = 5.0, interval_s: float = 0.01
) -> T: ...
@overload
async def eventually(check: Callable[[], T], *, timeout_s: float = 5.0, interval_s: float = 0.01) -> T: ...
async def eventually(check: Callable[[], Any], *, timeout_s: float = 5.0, interval_s: float = 0.01) -> Any:
    """Call `check` until it gives something true and raises nothing, and give that.

    Raises:
        AssertionError: It did not within `timeout_s`; its last exception is the cause.
    """
    give_up = time.monotonic() + timeout_s
    while True:
        last: Exception | None = None
        try:
            outcome = check()
            result = await outcome if isawaitable(outcome) else outcome
            if result:
                return result
        except (AssertionError, LookupError, OSError, ValueError, RuntimeError) as error:
            last = error
        if time.monotonic() > give_up:
            raise AssertionError(f"not within {timeout_s:g} s") from last
        await asyncio.sleep(interval_s)
