"""A whole service in a process: `python serving_process.py PORT`; it answers each call after the milliseconds asked."""

import asyncio
import sys
from typing import Any

import grpc

from servicekit.lifecycle import run
from servicekit.logs import configure_logging
from servicekit.rpc.server import GrpcServer

SERVICE = "servicekit.testing.SleepService"


async def sleep(request: bytes, _context: Any) -> bytes:
    await asyncio.sleep(int(request) / 1000)
    return request


def register(server: Any) -> None:
    handlers: dict[str, Any] = {"Sleep": grpc.unary_unary_rpc_method_handler(sleep)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


async def main(stop: asyncio.Event) -> None:
    port = int(sys.argv[1])
    async with GrpcServer(host="127.0.0.1", port=port, service_names=[SERVICE], register=register) as server:
        server.set_serving(True)
        await stop.wait()


configure_logging("sleeper")
sys.exit(run(main))
