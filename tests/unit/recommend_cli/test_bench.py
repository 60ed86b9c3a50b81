import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import psutil
import pytest

from recommend_cli.bench.answers import count_degraded, find_wrong_answers
from recommend_cli.bench.load import LoadResult, Target, run_load
from recommend_cli.bench.processes import CpuMeter
from servicekit.identity import item_key

_Answer = Callable[[str], Awaitable[bytes]]


@asynccontextmanager
async def _served(answer: _Answer) -> AsyncIterator[Target]:
    """Serve HTTP/1.1 on kept connections; `answer` takes the path."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await answer(head.split(b" ")[1].decode()))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Target("127.0.0.1", server.sockets[0].getsockname()[1], (("X-Test", "1"),))


def _response(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status.encode(), len(body), body)


async def test_closed_loop_keeps_every_connection_busy() -> None:
    at_once = most = 0

    async def answer(path: str) -> bytes:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.01)
        at_once -= 1
        return _response(path.encode())

    async with _served(answer) as target:
        requests = [target.get(f"/{number}") for number in range(7)]
        result = await run_load(target, requests, seconds=0.5, connections=4)
    assert most == 4
    assert result.failures() == 0
    assert result.latency_ms(50) >= 10
    assert 4 * 10 < result.count <= 4 * 51
    assert all(body == f"/{request}".encode() for request, _, body in result.bodies())
    assert set(result.requests.tolist()) == set(range(7))


async def test_open_loop_counts_the_wait_for_a_server_that_stalls() -> None:
    stalled = asyncio.Event()

    async def answer(_: str) -> bytes:
        if not stalled.is_set():
            stalled.set()
            await asyncio.sleep(0.4)
        return _response(b"x")

    async with _served(answer) as target:
        result = await run_load(target, [target.get("/")], seconds=0.8, connections=1, requests_per_s=50)
    assert result.count == 40
    # Twenty or so fell due behind the one that stalled, though only one connection waited for it.
    assert int(((result.ended - result.due) > 0.1).sum()) >= 8


async def test_open_loop_waits_for_the_answers_to_the_last_requests() -> None:
    async def answer(_: str) -> bytes:
        await asyncio.sleep(0.05)
        return _response(b"x")

    async with _served(answer) as target:
        for _ in range(3):
            result = await run_load(target, [target.get("/")], seconds=0.2, connections=8, requests_per_s=30)
            assert result.count == 6
            assert result.failures() == 0


async def test_lost_connections_are_failures() -> None:
    async def answer(path: str) -> bytes:
        if path == "/0":
            raise ConnectionResetError
        return _response(b"", "503 Service Unavailable")

    async with _served(answer) as target:
        result = await run_load(target, [target.get("/0"), target.get("/1")], seconds=0.2, connections=2)
    assert result.failures() == result.count
    assert b"" in result.answers


_SEEN = item_key("tenant", "film", "seen")


def _list(ids: Sequence[str], *, degraded: Sequence[str] = ()) -> bytes:
    items = [
        {"item_id": item, "item_type": "film", "title": "", "score": 0, "attributes": {}, "reasons": []} for item in ids
    ]
    document: dict[str, Any] = {"model_version": "", "strategy": "", "degraded": list(degraded), "items": items}
    return json.dumps(document, separators=(",", ":")).encode()


def _answer(ids: Sequence[str], *, degraded: Sequence[str] = ()) -> bytes:
    return b"HTTP/1.1 200 OK\r\nX-Personalized: true\r\n\r\n" + _list(ids, degraded=degraded)


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (_answer(["a", "b"]), ""),
        (b"", "no answer"),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "status 503"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + _list(["a", "b"]), "not marked as personal"),
        (_answer([]), "empty"),
        (_answer(["a"]), "too short"),
        (_answer(["x", "y"]), "not personal"),
        (_answer(["a", "seen"]), "seen items"),
    ],
)
def test_wrong_answers_are_found(answer: bytes, fault: str) -> None:
    result = LoadResult(np.array([0]), np.array([0.0]), np.array([1.0]), [answer], 0.0, 1.0)
    wrong = find_wrong_answers(result, ["u"], {"u": frozenset([_SEEN])}, ("x", "y"), tenant="tenant", limit=2)
    assert dict(wrong) == ({fault: 1} if fault else {})


def test_degraded_answers_are_counted() -> None:
    answers = [_answer(["a"]), _answer(["a"], degraded=["graph"])]
    assert count_degraded(LoadResult(np.zeros(2, int), np.zeros(2), np.ones(2), answers, 0.0, 1.0)) == 1


def test_turns_of_a_load_are_one_load_without_what_was_between_them() -> None:
    first = LoadResult(np.array([0, 1]), np.array([10.0, 11.0]), np.array([11.0, 12.0]), [b"a", b"b"], 0.5, 2.0)
    second = LoadResult(np.array([0]), np.array([50.0]), np.array([53.0]), [b"c"], 0.25, 3.0)
    joined = LoadResult.joined([first, second])
    assert (joined.count, joined.seconds, joined.requests_per_s) == (3, 5.0, 0.6)
    assert (joined.answers, joined.generator_cpu_s) == ([b"a", b"b", b"c"], 0.75)
    assert joined.latency_ms(100) == 3000.0


def test_processor_time_is_counted_in_turns_only() -> None:
    meter = CpuMeter({"me": psutil.Process()})

    def work() -> None:
        until = time.process_time() + 0.1
        while time.process_time() < until:
            pass

    work()
    for _ in range(2):
        with meter.running():
            work()
    assert 180.0 <= meter.milliseconds_per(1)["me"] <= 290.0
    assert meter.milliseconds_per(2)["total"] == meter.milliseconds_per(1)["me"] / 2
