"""Brings a stack up around a piece of work, and says so."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from recommend_cli.stack.folder import RunFolder
from recommend_cli.stack.plan import plan_stack
from recommend_cli.stack.supervisor import Supervisor


@asynccontextmanager
async def stack_up(
    data_dir: Path, *, port: int, auth: bool, console: Console, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Supervisor]:
    """Run the stack of a data directory while the context is open.

    Raises:
        CommandError: One runs there already, the port is taken, or a service does not start.
    """
    folder = RunFolder(data_dir)
    with folder.locked():
        plan = plan_stack(folder.data_dir, port=port, api_key=folder.api_key(), auth=auth, settings=settings)
        waiting = {service.name: None for service in plan.services}
        with console.status("") as status:

            def show_waiting(ready: str = "") -> None:
                waiting.pop(ready, None)
                status.update("Starting " + ", ".join(waiting))

            def tell(sentence: str) -> None:
                console.print(f"[yellow]•[/] {escape(sentence)}")

            show_waiting()
            supervisor = Supervisor(plan, folder, tell=tell, on_ready=show_waiting)
            await supervisor.start()
        try:
            yield supervisor
        finally:
            with console.status("Stopping"):
                await supervisor.stop()
