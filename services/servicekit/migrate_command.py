"""The command `python -m <service>.migrate`: applies a service's migrations, or tells which it would apply."""

import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from servicekit.command import run_command
from servicekit.migrations import Migration, MigrationTarget, Phase, migrate, missing


def run_migrate_command(
    service: str,
    open_target: Callable[[], AbstractAsyncContextManager[MigrationTarget]],
    migrations: Sequence[Migration],
    arguments: Sequence[str] | None = None,
) -> int:
    """Do what the command line says, one line for each migration; give the process's exit code.

    Args:
        service: Its name, as in `python -m <service>.migrate`.
        open_target: Connects to the store; closed when the command is done.
        migrations: What the service ships.
        arguments: The command line; without it the process's own.
    """
    parser = ArgumentParser(prog=f"python -m {service}.migrate", description=f"Migrate the schema of {service}.")
    parser.add_argument("--phase", choices=("expand", "contract"), default="expand", help="default: %(default)s")
    parser.add_argument("--dry-run", action="store_true", help="tell what is missing, change nothing")
    options = parser.parse_args(arguments)
    return run_command(_run(open_target, migrations, options.phase, dry_run=options.dry_run))


async def _run(
    open_target: Callable[[], AbstractAsyncContextManager[MigrationTarget]],
    migrations: Sequence[Migration],
    phase: Phase,
    *,
    dry_run: bool,
) -> None:
    async with open_target() as target:
        if dry_run:
            todo, done = missing(await target.applied(), migrations, phase), "missing"
        else:
            todo, done = await migrate(target, migrations, phase=phase), "applied"
        for migration in todo:
            sys.stdout.write(f"{target.name}: {done} {migration}\n")
        if not todo:
            sys.stdout.write(f"{target.name}: nothing to {phase}\n")
