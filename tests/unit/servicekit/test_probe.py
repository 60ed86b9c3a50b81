"""The probe's exit code is the server's health."""

import asyncio
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


@pytest.mark.parametrize("arguments", [[], ["a", "b", "c"]])
def test_a_wrong_command_line_is_explained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert probe.main(arguments) == 2
    assert "HOST:PORT" in capsys.readouterr().err
