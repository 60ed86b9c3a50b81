"""`rebuild`: what is derived, made anew beside what serves."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Annotated, Protocol

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from recommend_cli.clients.rebuilds import OnProgress, Rebuilt, Source, rebuild_graph, rebuild_vectors
from recommend_cli.clients.services import connected
from recommend_cli.console import OUT, share_progress
from recommend_cli.errors import CommandError
from recommend_cli.options import DataDir
from recommend_cli.stack.folder import running_stack
from recommend_cli.stack.stores import DEFAULT_DATA_DIR
from servicekit.rpc.client import RpcChannel

rebuild = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Make derived data anew beside that which serves, and switch to it. Exit code 1 when the two differ.",
)

From = Annotated[Source, typer.Option("--from", help="The catalogue and interactions as stored, or the event log.")]


class _Rebuild(Protocol):
    def __call__(
        self, channel: RpcChannel, tenant: str, source: Source, *, on_progress: OnProgress
    ) -> Awaitable[Rebuilt]: ...


@rebuild.command("vectors")
def rebuild_vectors_command(data_dir: DataDir = DEFAULT_DATA_DIR, source: From = Source.PROFILE_STORE) -> None:
    """Make the content vectors anew; a stored vector of the same text is taken over."""
    _rebuild(data_dir, source, "gpu_worker", rebuild_vectors)


@rebuild.command("graph")
def rebuild_graph_command(data_dir: DataDir = DEFAULT_DATA_DIR, source: From = Source.PROFILE_STORE) -> None:
    """Build the graph again."""
    _rebuild(data_dir, source, "graph_service", rebuild_graph)


def rebuilt_table(rebuilt: Rebuilt) -> Table:
    """Describe what a rebuild came to."""
    table = Table("", box=SIMPLE_HEAD)
    table.add_column("should be", justify="right")
    table.add_column("are", justify="right")
    for name, (expected, found) in rebuilt.counts.items():
        style = "" if expected == found else "red"
        table.add_row(name, f"{expected:,}", f"{found:,}", style=style)
    table.add_row(
        f"alike of {rebuilt.sampled:,} compared",
        f"{rebuilt.sampled:,}",
        f"{rebuilt.sampled - rebuilt.differing:,}",
        style="red" if rebuilt.differing else "",
    )
    for name, value in rebuilt.notes.items():
        table.add_row(name, "", value, style="dim")
    return table


def _rebuild(data_dir: Path, source: Source, service: str, work: _Rebuild) -> None:
    rebuilt = asyncio.run(_run(data_dir, source, service, work))
    OUT.print(rebuilt_table(rebuilt))
    if not rebuilt.agrees:
        raise CommandError(
            "The new data serves, and does not tell the same story",
            hint="what was written meanwhile may be the difference: run it again",
        )
    OUT.print("Both tell the same story; the new data serves")


async def _run(data_dir: Path, source: Source, service: str, work: _Rebuild) -> Rebuilt:
    state = running_stack(data_dir)
    async with connected(state, service) as channel:
        with share_progress() as progress:
            task = progress.add_task("Rebuilding", total=1.0)

            def show(stage: str, share: float) -> None:
                progress.update(task, completed=share, description=f"Rebuilding: {stage}" if stage else "Rebuilding")

            rebuilt = await work(channel, state.tenant, source, on_progress=show)
            progress.update(task, completed=1.0, description="Rebuilding")
    return rebuilt
