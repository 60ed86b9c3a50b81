"""A whole service as a process: it drains on SIGTERM, and its clients survive its sudden death."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from servicekit import probe
from servicekit.errors import ServiceError, UnavailableError
from servicekit.rpc.client import RpcChannel
from servicekit.testing import eventually, free_port

Start = Callable[[], subprocess.Popen[str]]


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def start(port: int) -> Iterator[Start]:
    processes: list[subprocess.Popen[str]] = []

    def begin() -> subprocess.Popen[str]:
        script = Path(__file__).with_name("serving_process.py")
        process = subprocess.Popen([sys.executable, str(script), str(port)], stderr=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def sleep_method(channel: RpcChannel) -> Any:
    raw: Any = channel.channel
    return raw.unary_unary("/servicekit.testing.SleepService/Sleep")


async def test_it_finishes_what_it_began_and_leaves(start: Start, port: int) -> None:
    process = start()
    async with RpcChannel(f"127.0.0.1:{port}", name="sleeper") as channel:
        await channel.wait_ready(20.0)
        assert await asyncio.to_thread(probe.main, [f"127.0.0.1:{port}"]) == 0
        call = asyncio.create_task(channel.unary(sleep_method(channel), b"700", timeout_s=10.0))
        await asyncio.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert await call == b"700"
    _, err = await asyncio.to_thread(process.communicate, timeout=10)
    assert process.returncode == 0
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert events == ["listening", "stopping", "stopped"]


async def test_a_killed_one_is_unavailable_and_found_again_when_it_is_back(start: Start, port: int) -> None:
    process = start()
    async with RpcChannel(f"127.0.0.1:{port}", name="sleeper") as channel:
        sleep = sleep_method(channel)
        await channel.wait_ready(20.0)
        call = asyncio.create_task(channel.unary(sleep, b"5000", timeout_s=10.0))
        await asyncio.sleep(0.1)
        process.kill()
        with pytest.raises(UnavailableError):
            await call
        with pytest.raises(UnavailableError):
            await channel.unary(sleep, b"0", timeout_s=1.0)
        start()

        async def answers() -> bool:
            try:
                await channel.unary(sleep, b"0", timeout_s=1.0)
            except ServiceError:
                return False
            return True

        assert await eventually(answers, timeout_s=20.0)


async def test_a_second_one_on_the_port_says_so_and_ends(start: Start, port: int) -> None:
    start()
    async with RpcChannel(f"127.0.0.1:{port}", name="sleeper") as channel:
        await channel.wait_ready(20.0)
    second = start()
    _, err = await asyncio.to_thread(second.communicate, timeout=20)
    assert second.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in err
    assert "Traceback" not in err
