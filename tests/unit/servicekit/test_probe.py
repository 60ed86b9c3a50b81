"""The probe's exit code is the server's health."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from servicekit import probe
from servicekit.testing import free_port, served


async def test_it_tells_serving_from_not_serving(echo: Any, service_name: str) -> None:
    async with served(echo.register, [service_name]) as (server, _):
        address = f"127.0.0.1:{server.port}"
        assert await asyncio.to_thread(probe.main, [address]) == 0
        assert await asyncio.to_thread(probe.main, [address, service_name]) == 0
        server.set_serving(False)
        assert await asyncio.to_thread(probe.main, [address]) == 1
        assert await asyncio.to_thread(probe.main, [address, "nobody"]) == 1


def test_nobody_there_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main([f"127.0.0.1:{free_port()}"]) == 1
    assert "UNAVAILABLE" in capsys.readouterr().err


@asynccontextmanager
async def answering(answer: bytes, asked: list[bytes]) -> AsyncIterator[str]:
    """An HTTP server that gives everybody the same answer; its address."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("answer", "code", "complaint"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 0, ""),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", 1, "status 503"),
        (b"no HTTP\r\n\r\n", 1, "no HTTP"),
    ],
)
async def test_it_asks_http_too(
    answer: bytes, code: int, complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    asked: list[bytes] = []
    async with answering(answer, asked) as address:
        assert await asyncio.to_thread(probe.main, [f"http://{address}/health/ready"]) == code
    assert [line.split(b"\r\n")[0] for line in asked] == [b"GET /health/ready HTTP/1.1"]
    assert complaint in capsys.readouterr().err


def test_nobody_there_by_http_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main([f"http://127.0.0.1:{free_port()}/"]) == 1
    assert "refused" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["a", "b", "c"], ["http://127.0.0.1:1/", "b"]])
def test_a_wrong_command_line_is_explained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main(arguments) == 2
    assert "HOST:PORT" in capsys.readouterr().err
