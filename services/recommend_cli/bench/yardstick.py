"""Runs the bare FastAPI beside a stack."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import httpx
import psutil

from recommend_cli.bench.load import Target
from recommend_cli.errors import CommandError
from recommend_cli.stack.ports import LOOPBACK, free_ports
from recommend_cli.stack.supervisor import tethered

_START_S: Final = 30.0
_POLL_S: Final = 0.05


@asynccontextmanager
async def hello_served() -> AsyncIterator[tuple[Target, psutil.Process]]:
    """Serve hello on a free port while the context is open; give where, and the process."""
    (port,) = free_ports(1)
    command = tethered((sys.executable, "-m", "recommend_cli.bench.hello", str(port)))
    process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, env=dict(os.environ))
    try:
        await _wait_until_served(f"http://{LOOPBACK}:{port}/")
        yield Target(LOOPBACK, port), psutil.Process(process.pid)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _wait_until_served(url: str) -> None:
    try:
        async with asyncio.timeout(_START_S), httpx.AsyncClient(trust_env=False) as client:
            while True:
                try:
                    (await client.get(url)).raise_for_status()
                except httpx.TransportError:
                    await asyncio.sleep(_POLL_S)
                else:
                    return
    except TimeoutError as error:
        raise CommandError(f"The bare FastAPI did not start within {_START_S:.0f} s") from error
