"""Brings the schemas of a stack's stores up to date, each by the command of the service that owns it."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from typing import Final, Literal

from recommend_cli.errors import CommandError
from recommend_cli.stack.plan import stack_environment
from recommend_cli.stack.stores import Stores

Phase = Literal["expand", "contract"]

_SCHEMAS: Final = {
    "profile_store": "PROFILE_STORE_URL",
    "graph_service": "GRAPH_STORE_URL",
    "vector_search": "VECTOR_STORE_URL",
}
"""The services whose stores have a schema, in the order of migrating; embedded stores migrate themselves."""


async def migrate_stores(
    stores: Stores, *, tell: Callable[[str], None], phase: Phase = "expand", dry_run: bool = False
) -> int:
    """Run the migrations and tell them line by line; give how many services have some.

    Raises:
        CommandError: One failed; those of the services after it were not begun.
    """
    owners = [service for service, url in _SCHEMAS.items() if stores.settings.get(url)]
    for service in owners:
        options = ("--phase", phase, *(("--dry-run",) if dry_run else ()))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"{service}.migrate", *options),
            stdin=asyncio.subprocess.DEVNULL, stdout=PIPE, stderr=PIPE, env=stack_environment(stores),
        )  # fmt: skip
        try:
            said, complained = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        for line in said.decode().splitlines():
            tell(line)
        if process.returncode:
            *before, last = complained.decode().strip().splitlines() or [f"exit code {process.returncode}"]
            raise CommandError(f"{service} was not migrated: {last}", hint="\n".join(before))
    return len(owners)
