"""`migrate`: the schemas of the stores."""

import asyncio
from enum import Enum
from typing import Annotated

import typer

from recommend_cli.console import OUT
from recommend_cli.options import DataDir, SettingsFile, StoreChoice
from recommend_cli.stack.folder import stores_of
from recommend_cli.stack.migrating import migrate_stores
from recommend_cli.stack.stores import DEFAULT_DATA_DIR, StoreKind


class PhaseChoice(Enum):
    """What a migration may do to the programs that run."""

    EXPAND = "expand"
    CONTRACT = "contract"


def migrate(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    stores: StoreChoice = StoreKind.EMBEDDED,
    settings: SettingsFile = None,
    phase: Annotated[
        PhaseChoice,
        typer.Option("--phase", help="Expand before a rollout; contract, once no older program runs."),
    ] = PhaseChoice.EXPAND,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what is missing, change nothing.")] = False,
) -> None:
    """Bring the schemas of the stores up to date, one line for each migration.

    Those of the stack that runs on the data folder, otherwise those that the options name. `up` expands by itself.
    """
    chosen = stores_of(data_dir, stores, settings)
    count = asyncio.run(
        migrate_stores(
            chosen, tell=lambda line: OUT.print(line, markup=False, soft_wrap=True), phase=phase.value, dry_run=dry_run
        )
    )
    if not count:
        OUT.print("The embedded stores migrate themselves: nothing to do")
