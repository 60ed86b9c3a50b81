"""`bench`: the speed and the cost of the served lists, beside a bare FastAPI."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import typer

from recommend_cli.bench.report import report_tables
from recommend_cli.bench.run import Bench
from recommend_cli.clients.gateway import Gateway
from recommend_cli.commands.evaluate import Out, write_report
from recommend_cli.console import OUT
from recommend_cli.options import DEFAULT_DATA_DIR, DataDir
from recommend_cli.stack.folder import RunFolder, running_stack
from recommend_cli.stack.running import stack_up
from recommend_cli.stack.signals import run_until_stopped


def bench(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    seconds: Annotated[float, typer.Option("--seconds", help="How long each measurement takes.", min=1, max=60)] = 8.0,
    out: Out = None,
) -> None:
    """Load the demonstration's stack over HTTP and compare it with a bare FastAPI on the same server.

    Personal lists, a different user each time, every answer checked; first with 1, 16 and 64 connections that ask
    again when they have their answer, then at rising rates whatever is answered. Uses the stack that runs on the data
    folder, or starts it for the time being.
    """
    run_until_stopped(_bench(data_dir, seconds=seconds, out=out))


async def _bench(data_dir: Path, *, seconds: float, out: Path | None) -> None:
    folder = RunFolder(data_dir)
    async with AsyncExitStack() as exits:
        if folder.is_locked():
            state = running_stack(data_dir)
        else:
            supervisor = await exits.enter_async_context(stack_up(data_dir, port=0, auth=True, console=OUT))
            state = supervisor.state
        gateway = await exits.enter_async_context(Gateway(state.url, folder.api_key()))
        report = await Bench(state, gateway, folder.api_key(), seconds=seconds).run()
    OUT.print(report_tables(report))
    if out is not None:
        await asyncio.to_thread(write_report, out, report)
