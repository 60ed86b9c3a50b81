"""Sends HTTP/1.1 requests over kept connections and times the answers, at so little cost that it hardly shows.

A process of its own: `python -m recommend_cli.bench.generator RESULT.npz < PLAN.json`, see `recommend_cli.bench.load`.
Closed loop: each connection sends its next request when it has the answer to the last one. Open loop: requests fall
due at random moments of a given rate, whether or not earlier ones are answered; one that finds no free connection
waits, and its latency counts from the moment when it fell due, so that a server that stalls cannot hide it.
"""

import asyncio
import json
import math
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, cast

import numpy as np
import uvloop

_DRAIN_S: Final = 10.0  # how long answers may take after the last request was sent
_RECONNECT_S: Final = 0.05
_LENGTH: Final = b"content-length:"
_HEAD_END: Final = b"\r\n\r\n"


class Connection(asyncio.Protocol):
    """One kept connection with at most one request under way."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._transport: asyncio.Transport
        self._received = b""
        self._expected = 0  # bytes of the whole answer, 0 until its head is there
        self._request = -1
        self._due = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)  # which uvloop's only resembles

    def send(self, request: int, due: float) -> None:
        """Send the request of that number, which fell due at that moment."""
        self._request, self._due = request, due
        self._transport.write(self._load.payload(request))

    def data_received(self, data: bytes) -> None:
        """Collect an answer; when it is whole, give it to the load."""
        self._received = self._received + data if self._received else data
        if not self._expected:
            head = self._received.find(_HEAD_END)
            if head < 0:
                return
            self._expected = head + len(_HEAD_END) + _content_length(self._received[:head])
        if len(self._received) >= self._expected:
            answer, self._received, self._expected = self._received, b"", 0
            request, self._request = self._request, -1
            self._load.answered(request, self._due, answer)
            self._load.free(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's interface
        """Count the request under way, if any, as unanswered."""
        self._load.lost(self)
        self.give_up()

    def give_up(self) -> None:
        """Wait for no answer any longer."""
        if self._request >= 0:
            request, self._request = self._request, -1
            self._load.answered(request, self._due, b"")

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()


class Load:
    """The requests to send, the connections and the answers. `seconds` and `requests_per_s` as in the plan."""

    def __init__(self, payloads: Sequence[bytes], *, seconds: float, requests_per_s: float, seed: int) -> None:
        self._payloads = payloads
        self._seconds = seconds
        self._open_loop = requests_per_s > 0
        self._host, self._port = "", 0
        self._arrivals = _arrivals(requests_per_s, seconds, seed) if self._open_loop else ()
        self._connections: set[Connection] = set()
        self._idle: list[Connection] = []
        self._waiting: deque[tuple[int, float]] = deque()
        self._connecting: set[asyncio.Task[None]] = set()
        self._next = 0
        self._under_way = 0
        self._stop_at = 0.0
        self._done = asyncio.Event()
        self.requests: list[int] = []
        self.due: list[float] = []
        self.ended: list[float] = []
        self.answers: list[bytes] = []

    def payload(self, request: int) -> bytes:
        """Give the bytes of a request."""
        return self._payloads[request % len(self._payloads)]

    async def run(self, host: str, port: int, connections: int) -> None:
        """Connect, send until the time is over, wait for the last answers; what then lacks one stays unanswered."""
        self._host, self._port = host, port
        for _ in range(connections):
            await self._connect()
        start = time.perf_counter()
        if self._open_loop:
            self._stop_at = math.inf  # when the last request has fallen due
            await self._send_when_due(start)
        else:
            self._stop_at = start + self._seconds
            for connection in [self._idle.pop() for _ in range(len(self._idle))]:
                self.free(connection)
        patience_s = max(0.0, self._stop_at - time.perf_counter()) + _DRAIN_S
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._done.wait()
        self._done.set()
        for task in self._connecting:
            task.cancel()
        for connection in list(self._connections):
            connection.give_up()
            connection.close()
        for request, due in self._waiting:
            self.answered(request, due, b"")

    def answered(self, request: int, due: float, answer: bytes) -> None:
        """Note an answer, an empty one for none."""
        self.requests.append(request % len(self._payloads))
        self.due.append(due)
        self.ended.append(time.perf_counter())
        self.answers.append(answer)
        self._under_way -= 1

    def free(self, connection: Connection) -> None:
        """Give a connection its next request, or let it rest."""
        now = time.perf_counter()
        if self._waiting:
            self._send(connection, *self._waiting.popleft())
        elif self._open_loop or now >= self._stop_at:
            self._idle.append(connection)
            self._end_when_done(now)
        else:
            self._send(connection, self._take_number(), now)

    def lost(self, connection: Connection) -> None:
        """Replace a connection that the server closed."""
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if not self._done.is_set():
            task = asyncio.get_running_loop().create_task(self._replace())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _replace(self) -> None:
        while (now := time.perf_counter()) < self._stop_at:
            try:
                await self._connect()
            except OSError:
                await asyncio.sleep(_RECONNECT_S)
            else:
                self.free(self._idle.pop())
                return
        self._end_when_done(now)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(self), self._host, self._port)
        self._connections.add(connection)
        self._idle.append(connection)

    async def _send_when_due(self, start: float) -> None:
        for offset in self._arrivals:
            due = start + offset
            pause = due - time.perf_counter()
            if pause > 0:
                await asyncio.sleep(pause)
            number = self._take_number()
            if self._idle:
                self._send(self._idle.pop(), number, due)
            else:
                self._waiting.append((number, due))
        self._stop_at = time.perf_counter()
        self._end_when_done(self._stop_at)

    def _send(self, connection: Connection, request: int, due: float) -> None:
        self._under_way += 1
        connection.send(request, due)

    def _take_number(self) -> int:
        self._next += 1
        return self._next - 1

    def _end_when_done(self, now: float) -> None:
        if now >= self._stop_at and not self._under_way and not self._waiting:
            self._done.set()


def _arrivals(requests_per_s: float, seconds: float, seed: int) -> Sequence[float]:
    """Draw the moments of a Poisson process."""
    generator = np.random.default_rng(seed)
    gaps = generator.exponential(1 / requests_per_s, size=max(1, round(requests_per_s * seconds)))
    return [float(moment) for moment in np.cumsum(gaps)]


def _content_length(head: bytes) -> int:
    """Read the length of the body; an answer without one cannot be told from the next."""
    lowered = head.lower()
    at = lowered.find(_LENGTH)
    if at < 0:
        raise ValueError(f"an answer without content-length: {head!r}")
    end = lowered.find(b"\r\n", at)
    return int(lowered[at + len(_LENGTH) : end if end >= 0 else None])


def main() -> None:
    """Run a plan and write what came back."""
    plan: dict[str, Any] = json.load(sys.stdin)
    load = Load(
        [request.encode() for request in plan["requests"]],
        seconds=plan["seconds"],
        requests_per_s=plan["requests_per_s"],
        seed=plan["seed"],
    )
    before_s = time.process_time()
    uvloop.run(load.run(plan["host"], plan["port"], plan["connections"]))
    cpu_s = time.process_time() - before_s
    np.savez(
        sys.argv[1],
        requests=np.array(load.requests, dtype=np.int64),
        due=np.array(load.due, dtype=np.float64),
        ended=np.array(load.ended, dtype=np.float64),
        lengths=np.array([len(answer) for answer in load.answers], dtype=np.int64),
        answers=np.frombuffer(b"".join(load.answers), dtype=np.uint8),
        cpu_s=np.array(cpu_s),
    )


if __name__ == "__main__":
    main()
