"""`demo`: everything in one go, from files to recommendations, on a stack that stays."""

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated, Final

import typer

from recommend_cli.clients.gateway import Gateway
from recommend_cli.clients.services import connected
from recommend_cli.clients.training import HoldOut, Trainer
from recommend_cli.commands.stack import show_addresses
from recommend_cli.console import OUT
from recommend_cli.datasets.movielens import TERMS
from recommend_cli.demo.movies import load_movielens, read_load
from recommend_cli.demo.show import show_a_change, show_visitors
from recommend_cli.errors import CommandError
from recommend_cli.options import (
    DEFAULT_CACHE_DIR,
    CacheDir,
    DataDir,
    NoAuth,
    Port,
    SettingsFile,
    StoreChoice,
)
from recommend_cli.populating import train_model, wait_until_applied, wait_until_embedded, wait_until_served
from recommend_cli.stack.folder import RunFolder, StackState, how_to_stop, running_stack, stores_of
from recommend_cli.stack.plan import DEFAULT_PORT
from recommend_cli.stack.running import stack_up
from recommend_cli.stack.signals import run_until_stopped, wait_for_stop
from recommend_cli.stack.stores import DEFAULT_DATA_DIR, StoreKind, Stores

_SEED: Final = 1


def demo(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    port: Port = DEFAULT_PORT,
    no_auth: NoAuth = False,
    stores: StoreChoice = StoreKind.EMBEDDED,
    settings: SettingsFile = None,
    cache_dir: CacheDir = DEFAULT_CACHE_DIR,
    once: Annotated[bool, typer.Option("--once", help="Stop after showing.")] = False,
) -> None:
    """Recommend films from MovieLens-100K to three visitors, then leave the stack running.

    Starts the stack, or uses the one that runs on the data folder, whatever stores it has; loads, embeds and trains
    what is not there yet.
    """
    chosen = stores_of(data_dir, stores, settings)
    run_until_stopped(_demo(data_dir, chosen, port=port, auth=not no_auth, cache_dir=cache_dir, once=once))


async def _demo(data_dir: Path, stores: Stores, *, port: int, auth: bool, cache_dir: Path, once: bool) -> None:
    folder = RunFolder(data_dir)
    OUT.print(TERMS, style="dim", soft_wrap=True)
    async with AsyncExitStack() as exits:
        supervisor = None
        if folder.is_locked():
            state = running_stack(data_dir)
        else:
            supervisor = await exits.enter_async_context(
                stack_up(data_dir, port=port, auth=auth, console=OUT, stores=stores)
            )
            state = supervisor.state
        gateway = await exits.enter_async_context(Gateway(state.url, folder.api_key()))
        await _fill(state, gateway, stores, cache_dir)
        await show_visitors(gateway)
        await show_a_change(gateway)
        if supervisor is None:
            OUT.print(f"The stack was running before and goes on; {how_to_stop(data_dir)}", soft_wrap=True)
        elif not once:
            OUT.rule(align="left")
            show_addresses(folder, state)
            OUT.print("Ctrl-C stops it")
            await wait_for_stop(supervisor.run())


async def _fill(state: StackState, gateway: Gateway, stores: Stores, cache_dir: Path) -> None:
    """Load, embed and train what is not there yet."""
    load = read_load(stores)
    if load is None or not load.films:
        items, interactions = await load_movielens(gateway, stores, cache_dir)
        if items.bad or interactions.bad:
            raise CommandError("Some of the data was refused", hint="`recommend load ml-100k` lists what")
    version = await _serving_version(state)
    if version:
        # A gateway that has just started learns of it in a moment; until then its lists are the popular ones.
        await wait_until_served(gateway, version)
    else:
        load = read_load(stores)
        await wait_until_embedded(state, load.films if load else 0)
        await wait_until_applied(state)
        training = await train_model(state, gateway, hold_out=HoldOut.TIME, seed=_SEED)
        if not training.activated:
            raise CommandError(f"The model was not activated: {training.message}")


async def _serving_version(state: StackState) -> str:
    """Give the active version; empty where nothing was trained yet."""
    async with connected(state, "gpu_worker") as channel:
        models = await Trainer(channel, state.tenant).models()
    return next((model.version for model in models if model.active), "")
