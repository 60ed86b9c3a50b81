"""`train`, `models`, `activate`, `rollback`: the models of the running stack."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from recommend_cli.clients.services import connected
from recommend_cli.clients.training import HoldOut, Model, Trainer, Training
from recommend_cli.commands.data import gateway_of
from recommend_cli.console import OUT
from recommend_cli.display import fitting_table
from recommend_cli.errors import CommandError
from recommend_cli.options import DataDir
from recommend_cli.populating import train_model
from recommend_cli.stack.folder import option_of, running_stack
from recommend_cli.stack.stores import DEFAULT_DATA_DIR

_JUDGED_BY: Final = "NDCG@10"  # the metric that decides whether a version may serve

Version = Annotated[str, typer.Argument(help="The version's name, as `recommend models` shows it.")]


def train(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    hold_out: Annotated[
        HoldOut, typer.Option("--hold-out", help="Judge by each user's last interactions, or by a random part.")
    ] = HoldOut.TIME,
    seed: Annotated[int, typer.Option("--seed", help="The same seed and data give the same model.", min=0)] = 1,
    no_activate: Annotated[bool, typer.Option("--no-activate", help="Do not serve it.")] = False,
) -> None:
    """Train on everything stored and serve the new version, unless it is worse than the active one or popularity."""
    training = asyncio.run(_train(data_dir, hold_out, seed, activate=not no_activate))
    OUT.print(hold_out_table(training.report))
    OUT.print(f"Version {training.version} {'serves' if training.activated else 'does not serve'}")
    if not training.activated and not no_activate:
        raise CommandError(training.message, hint=_hint_of(training, data_dir))


def models(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """List the versions, newest first, with their hold-out metrics."""
    listed = asyncio.run(_models(data_dir))
    if not listed:
        OUT.print(f"No model was trained yet: `recommend train{option_of(data_dir)}`", soft_wrap=True)
        return
    OUT.print(models_listing(listed, OUT))


def activate(
    version: Version,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    force: Annotated[bool, typer.Option("--force", help="Even if it is worse.")] = False,
) -> None:
    """Make a version the one that serves."""
    previous = asyncio.run(_activate(data_dir, version, force=force))
    OUT.print(f"{version} serves{f'; {previous} did before' if previous else ''}")


def rollback(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Go back to the version that served before."""
    OUT.print(f"{asyncio.run(_roll_back(data_dir))} serves again")


def hold_out_table(report: Mapping[str, Any]) -> Table:
    """Describe how the blend, each source and popularity did on the hold-out."""
    metrics: Mapping[str, Mapping[str, float]] = report["metrics"]
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    table = Table("on the hold-out", box=SIMPLE_HEAD)
    for name in names:
        table.add_column(name, justify="right")
    for ranker, values in metrics.items():
        table.add_row(ranker, *(f"{values[name]:.4f}" if name in values else "" for name in names))
    return table


def models_listing(listed: Sequence[Model], console: Console) -> RenderableType:
    """Describe versions in a table as wide as the console, and below it why some were refused."""
    names = sorted({name for model in listed for name in model.metrics}, key=lambda name: (name != _JUDGED_BY, name))
    counts = ("items", "users", "interactions")
    rows = [
        {
            "version": model.version,
            "": "[green]serves[/]" if model.active else "",
            "trained": f"{datetime.fromtimestamp(model.trained_at_ms / 1000, UTC).astimezone():%Y-%m-%d %H:%M}",
            "items": f"{model.items:,}",
            "users": f"{model.users:,}",
            "interactions": f"{model.interactions:,}",
            **{name: f"{value:.4f}" for name, value in model.metrics.items()},
        }
        for model in listed
    ]
    refused = [
        Text(f"{model.version} was refused: {model.refused_because}")
        for model in listed
        if model.refused_because and not model.active
    ]
    table = fitting_table(
        console,
        rows,
        left=("version", "", "trained"),
        right=(*counts, *names),
        spare=[*reversed([name for name in names if name != _JUDGED_BY]), *counts, "trained"],
    )
    return Group(table, *refused)


def _hint_of(training: Training, data_dir: Path) -> str:
    """Say how a version that was trained comes to serve."""
    command = f"recommend activate {training.version}"
    if training.activation_pending:
        return f"gpu_worker tries again by itself; `{command}{option_of(data_dir)}` does so at once"
    return f"`{command} --force{option_of(data_dir)}` serves it anyway"


async def _train(data_dir: Path, hold_out: HoldOut, seed: int, *, activate: bool) -> Training:
    state = running_stack(data_dir)
    async with gateway_of(data_dir) as gateway:
        return await train_model(state, gateway, hold_out=hold_out, seed=seed, activate=activate)


async def _models(data_dir: Path) -> list[Model]:
    state = running_stack(data_dir)
    async with connected(state, "gpu_worker") as channel:
        return list(await Trainer(channel, state.tenant).models())


async def _activate(data_dir: Path, version: str, *, force: bool) -> str:
    state = running_stack(data_dir)
    async with connected(state, "gpu_worker") as channel:
        with OUT.status("Activating"):
            return await Trainer(channel, state.tenant).activate(version, force=force)


async def _roll_back(data_dir: Path) -> str:
    state = running_stack(data_dir)
    async with connected(state, "gpu_worker") as channel:
        with OUT.status("Rolling back"):
            return await Trainer(channel, state.tenant).roll_back()
