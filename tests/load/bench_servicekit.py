"""What the kit costs a call: `python tests/load/bench_servicekit.py` prints CPU-microseconds of both sides.

The server runs in a process of its own. `bare` is grpc.aio without the kit. Each figure is the median of several rounds
that alternate, since other work on the machine moves them by a tenth.
"""

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import uvloop

from servicekit.batching import MicroBatcher
from servicekit.logs import configure_logging
from servicekit.rpc.breaker import CircuitBreaker
from servicekit.rpc.calls import HandlerCollector
from servicekit.rpc.client import RpcChannel
from servicekit.sqlite import Database

ROUNDS = 15
CALLS = 800
CONCURRENCY = 8
PAYLOAD = b"x" * 2_000
ELEMENT = b"x" * 400


async def echo(request: bytes, _context: Any) -> bytes:
    """Answer with the request."""
    return request


def handlers(service: str) -> grpc.GenericRpcHandler:
    """Give the handlers of an echo service under a name."""
    methods: dict[str, Any] = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    return grpc.method_handlers_generic_handler(service, methods)


async def serve() -> None:
    """Serve the same echo bare and through the kit; say the CPU seconds used for each line on standard input."""
    collector = HandlerCollector()
    collector.add_generic_rpc_handlers([handlers("bench.Kit")])
    server = grpc.aio.server(handlers=[handlers("bench.Bare"), *collector.handlers])
    sys.stdout.write(f"{server.add_insecure_port('127.0.0.1:0')}\n")
    sys.stdout.flush()
    await server.start()
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while await lines.readline():
        sys.stdout.write(f"{time.process_time()}\n")
        sys.stdout.flush()
    await server.stop(0)


class Server:
    """The serving process, seen from here."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.address = f"127.0.0.1:{self._line()}"

    def cpu_s(self) -> float:
        """Give the CPU seconds that it has used."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._line())

    def close(self) -> None:
        """End it."""
        self._process.communicate()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


async def measure(
    server: Server, work: Callable[[], Awaitable[object]], *, callers: int, calls: int
) -> tuple[float, float, float]:
    """Give the CPU-microseconds of the client and of the server, and the calls a second."""

    async def caller() -> None:
        for _ in range(calls // callers):
            await work()

    server_cpu, client_cpu, started = server.cpu_s(), time.process_time(), time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    seconds = time.perf_counter() - started
    client_us = (time.process_time() - client_cpu) / calls * 1e6
    return client_us, (server.cpu_s() - server_cpu) / calls * 1e6, calls / seconds


async def bench_calls(server: Server) -> None:
    """Compare calls with and without the kit, on either side, and calls through the batcher."""
    bare_channel: Any = grpc.aio.insecure_channel(server.address)
    async with RpcChannel(server.address, name="bench", breaker=CircuitBreaker("bench")) as channel:
        raw: Any = channel.channel
        works: dict[str, Callable[[], Awaitable[object]]] = {}
        for service in ("Bare", "Kit"):
            bare_method = bare_channel.unary_unary(f"/bench.{service}/Echo")
            method = raw.unary_unary(f"/bench.{service}/Echo")
            works[f"client bare, server {service.lower()}"] = partial(bare_method, PAYLOAD, timeout=1.0)
            works[f"client kit,  server {service.lower()}"] = partial(
                channel.unary, method, PAYLOAD, timeout_s=1.0, idempotent=True
            )
        figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in works}
        for _ in range(ROUNDS):
            for name, work in works.items():
                figures[name].append(await measure(server, work, callers=CONCURRENCY, calls=CALLS))
        for name, rounds in figures.items():
            report(name, rounds)

        async def send(batch: list[bytes]) -> list[bytes]:
            answer = await channel.unary(method, b"".join(batch), timeout_s=1.0, idempotent=True)
            return [answer[at : at + len(ELEMENT)] for at in range(0, len(answer), len(ELEMENT))]

        async with MicroBatcher(send, name="bench") as batcher:
            for callers in (1, 16, 64):
                report(
                    f"batched, {callers} callers",
                    [
                        await measure(
                            server, lambda: batcher.submit(ELEMENT, timeout_s=1.0), callers=callers, calls=callers * 100
                        )
                        for _ in range(ROUNDS)
                    ],
                )
    await bare_channel.close()


def report(name: str, rounds: list[tuple[float, float, float]]) -> None:
    """Print the medians."""
    client_us, server_us, rate = (statistics.median(column) for column in zip(*rounds, strict=True))
    sys.stdout.write(f"{name:28} client {client_us:4.0f} us  server {server_us:4.0f} us  {rate:6.0f}/s\n")


async def bench_sqlite(folder: Path) -> None:
    """Time lone and concurrent writes and point reads."""
    schema = "CREATE TABLE things (id INTEGER PRIMARY KEY, body BLOB);"
    async with Database(folder / "bench.db", migrations=[schema], synchronous="full") as database:

        async def write(count: int) -> None:
            for _ in range(count):
                await database.write(
                    lambda connection: connection.execute("INSERT INTO things (body) VALUES (?)", (ELEMENT,)).rowcount
                )

        started = time.perf_counter()
        await write(200)
        lone_us = (time.perf_counter() - started) / 200 * 1e6
        started = time.perf_counter()
        await asyncio.gather(*(write(100) for _ in range(64)))
        rate = 6_400 / (time.perf_counter() - started)
        started = time.perf_counter()
        for number in range(10_000):
            database.read("SELECT body FROM things WHERE id = ?", (number % 6_000 + 1,))
        read_us = (time.perf_counter() - started) / 10_000 * 1e6
    sys.stdout.write(f"sqlite, synced: lone write {lone_us:.0f} us, 64 writers {rate:.0f}/s, read {read_us:.1f} us\n")


async def main() -> None:
    """Run all of it."""
    server = Server()
    await bench_calls(server)
    server.close()
    with tempfile.TemporaryDirectory() as folder:
        await bench_sqlite(Path(folder))


if __name__ == "__main__":
    configure_logging("bench", level="ERROR")
    uvloop.run(serve() if sys.argv[1:] == ["serve"] else main())
