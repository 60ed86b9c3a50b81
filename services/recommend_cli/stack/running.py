"""Brings a stack up around a piece of work, and says so."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from recommend_cli.stack.folder import RunFolder
from recommend_cli.stack.migrating import migrate_stores
from recommend_cli.stack.plan import plan_stack
from recommend_cli.stack.stores import StoreKind, Stores, open_stores
from recommend_cli.stack.supervisor import Supervisor


@asynccontextmanager
async def stack_up(
    data_dir: Path,
    *,
    port: int,
    auth: bool,
    console: Console,
    stores: Stores | None = None,
    replicas: int = 1,
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[Supervisor]:
    """Run the stack of a data directory while the context is open; the stores' schemas are brought up to date first.

    Args:
        data_dir: Whose stack.
        port: The first gateway's port; 0 for any free one.
        auth: Whether the gateways ask for the API key.
        console: Where to say what happens.
        stores: Where the data is; None for embedded stores.
        replicas: How many processes each service has.
        settings: Further settings for every service.

    Raises:
        CommandError: One runs there already, the port is taken, a schema cannot be migrated, or a service does not
            start.
    """
    folder = RunFolder(data_dir)
    stores = stores or open_stores(data_dir)
    with folder.locked():
        plan = plan_stack(
            stores, port=port, api_key=folder.api_key(), auth=auth, replicas=replicas, settings=settings
        )  # fmt: skip
        waiting = {service.name: None for service in plan.services}
        with console.status("") as status:

            def show_waiting(ready: str = "") -> None:
                waiting.pop(ready, None)
                if waiting:
                    status.update("Starting " + ", ".join(waiting))

            def tell(sentence: str) -> None:
                console.print(f"[yellow]•[/] {escape(sentence)}")

            if stores.kind is not StoreKind.EMBEDDED:
                status.update("Migrating schemas")
                await migrate_stores(stores, tell=lambda _: None)
            show_waiting()
            supervisor = Supervisor(plan, folder, tell=tell, on_ready=show_waiting)
            await supervisor.start()
        try:
            yield supervisor
        finally:
            with console.status("Stopping"):
                await supervisor.stop()
