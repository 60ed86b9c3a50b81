"""`bench`: the speed and the cost of the served lists, beside a bare FastAPI."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from recommend_cli.bench.report import comparison_table, report_tables
from recommend_cli.bench.run import Bench
from recommend_cli.clients.gateway import Gateway
from recommend_cli.clients.log import opened_log
from recommend_cli.commands.evaluate import Out, write_report
from recommend_cli.console import OUT
from recommend_cli.options import DataDir, SettingsFile, StoreChoice
from recommend_cli.stack.folder import RunFolder, StackState, running_stack, stores_of
from recommend_cli.stack.running import stack_up
from recommend_cli.stack.signals import run_until_stopped
from recommend_cli.stack.stores import DEFAULT_DATA_DIR, StoreKind, Stores, open_stores


def bench(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    seconds: Annotated[float, typer.Option("--seconds", help="How long each measurement takes.", min=1, max=60)] = 8.0,
    out: Out = None,
    stores: StoreChoice = StoreKind.EMBEDDED,
    settings: SettingsFile = None,
) -> None:
    """Load the demonstration's stack over HTTP and compare it with a bare FastAPI on the same server.

    Personal lists, a different user each time, every answer checked; first with 1, 16 and 64 connections that ask
    again when they have their answer, then at rising rates whatever is answered. Then how fast events come in, and how
    soon a list knows of one. Uses the stack that runs on the data folder, or starts it for the time being.

    With `--stores servers` two stacks are measured, one after the other: on embedded stores and on the servers.
    """
    run_until_stopped(_bench(data_dir, seconds=seconds, out=out, stores=stores, settings=settings))


async def _bench(
    data_dir: Path, *, seconds: float, out: Path | None, stores: StoreKind, settings: Path | None
) -> None:  # fmt: skip
    folder = RunFolder(data_dir)
    measured: dict[str, dict[str, Any]] = {}
    if folder.is_locked() and stores is StoreKind.EMBEDDED and settings is None:
        state = running_stack(data_dir)
        measured[state.stores.value] = await _measure(state, stores_of(data_dir), folder, seconds=seconds)
    else:
        chosen = open_stores(data_dir, stores, settings)
        for each in (chosen,) if chosen.kind is StoreKind.EMBEDDED else (open_stores(data_dir), chosen):
            OUT.rule(f"{each.kind.value} stores", align="left")
            async with stack_up(data_dir, port=0, auth=True, console=OUT, stores=each) as supervisor:
                measured[each.kind.value] = await _measure(supervisor.state, each, folder, seconds=seconds)
    for kind, figures in measured.items():
        OUT.rule(f"On {kind} stores", align="left")
        OUT.print(report_tables(figures))
    if len(measured) > 1:
        OUT.print(comparison_table(measured))
    if out is not None:
        first = next(iter(measured.values()))
        await asyncio.to_thread(write_report, out, {**first, "stores": measured})


async def _measure(state: StackState, stores: Stores, folder: RunFolder, *, seconds: float) -> dict[str, Any]:
    async with Gateway(state.url, folder.api_key()) as gateway, opened_log(stores) as log:
        return await Bench(state, gateway, log, folder.api_key(), seconds=seconds).run()
