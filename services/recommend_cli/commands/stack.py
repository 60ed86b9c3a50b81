"""`up`, `down` and `status`: the life of a stack."""

import asyncio
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recommend_cli.console import ERROR_MARK, OUT
from recommend_cli.display import fitting_table
from recommend_cli.errors import CommandError
from recommend_cli.options import DataDir, NoAuth, Port, SettingsFile, StoreChoice
from recommend_cli.stack.folder import RunFolder, StackState, how_to_start, how_to_stop
from recommend_cli.stack.health import is_ready
from recommend_cli.stack.leftovers import process_of, stop_leftovers, supervisor_of
from recommend_cli.stack.plan import DEFAULT_PORT
from recommend_cli.stack.running import stack_up
from recommend_cli.stack.signals import run_until_stopped, wait_for_stop
from recommend_cli.stack.stores import DEFAULT_DATA_DIR, StoreKind, Stores, open_stores
from recommend_cli.stack.supervisor import STOP_TIMEOUT_S
from recommend_cli.stack.usage import Usage, usage_of

_NOT_RUNNING_EXIT: Final = 3
_POLL_S: Final = 0.05


def up(
    data_dir: DataDir = DEFAULT_DATA_DIR,
    port: Port = DEFAULT_PORT,
    no_auth: NoAuth = False,
    stores: StoreChoice = StoreKind.EMBEDDED,
    settings: SettingsFile = None,
    replicas: Annotated[
        int, typer.Option("--replicas", help="Processes of each service; more than one needs shared stores.", min=1)
    ] = 1,
    detach: Annotated[bool, typer.Option("--detach", help="Leave it running in the background.")] = False,
) -> None:
    """Start the five services and keep them running until Ctrl-C.

    Each stack has its own data folder and chooses its internal ports itself, so several can run beside each other.
    On servers, too: a data folder's data has names of its own there.
    """
    chosen = open_stores(data_dir, stores, settings)
    if detach:
        _start_in_background(chosen, data_dir, port=port, no_auth=no_auth, replicas=replicas)
        return
    run_until_stopped(_up(chosen, data_dir, port=port, auth=not no_auth, replicas=replicas))


async def _up(stores: Stores, data_dir: Path, *, port: int, auth: bool, replicas: int) -> None:
    started = time.monotonic()
    async with stack_up(
        data_dir, port=port, auth=auth, console=OUT, stores=stores, replicas=replicas
    ) as supervisor:  # fmt: skip
        OUT.print(f"Up in {time.monotonic() - started:.1f} s")
        folder = RunFolder(data_dir)
        show_addresses(folder, supervisor.state)
        OUT.print("Ctrl-C stops it")
        await wait_for_stop(supervisor.run())


def _start_in_background(stores: Stores, data_dir: Path, *, port: int, no_auth: bool, replicas: int) -> None:
    """Run `up` in a session of its own and wait until it is ready."""
    folder = RunFolder(data_dir)
    folder.create()
    if folder.is_locked():
        raise folder.already_locked()
    arguments = ["up", "--data-dir", str(data_dir), "--port", str(port), "--replicas", str(replicas)]
    arguments += ["--no-auth"] if no_auth else []
    arguments += ["--settings", str(stores.file)] if stores.file else []
    with folder.log_path("supervisor").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "recommend_cli", *arguments],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    with OUT.status("Starting"):
        while True:
            state = folder.read_state()
            if state is not None and state.supervisor_pid == process.pid and state.phase == "ready":
                break
            if process.poll() is not None:
                raise _why_it_ended(folder)
            time.sleep(_POLL_S)
    show_addresses(folder, state)
    OUT.print(how_to_stop(data_dir), soft_wrap=True)


def _why_it_ended(folder: RunFolder) -> CommandError:
    """Give the error with which the process in the background ended, as it said it itself."""
    said = folder.log_path("supervisor").read_text(errors="replace")
    _, found, error = f"\n{said}".partition(f"\n{ERROR_MARK}")
    if not found:
        return CommandError("The stack did not start", hint=folder.log_tail("supervisor"))
    message, _, hint = error.partition("\n")
    return CommandError(message, hint=hint.strip())


def show_addresses(folder: RunFolder, state: StackState) -> None:
    """Print where the stack answers, and how to ask."""
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")  # a path that is cut leads nowhere
    for url in state.urls:
        table.add_row("Recommendations", f"[link]{url}/api/recommendations[/]")
    table.add_row("API pages", f"[link]{state.url}/api/docs[/]")
    table.add_row("API key", f"{folder.api_key()}  (header X-API-Key)" if state.auth else "none is needed")
    table.add_row("Stores", f"as {state.settings_file} says" if state.settings_file else "embedded")
    table.add_row("Logs", str(folder.logs))
    OUT.print(table)


def down(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Stop the stack of a data folder and wait until it is gone."""
    folder = RunFolder(data_dir)
    state = folder.read_state()
    if state is None:
        OUT.print(f"No stack runs on {folder.data_dir}")
        return
    with OUT.status("Stopping"):
        supervisor = supervisor_of(state)
        if supervisor is not None:
            supervisor.terminate()
            give_up = time.monotonic() + len(state.services) * STOP_TIMEOUT_S
            # Its lock tells when it has gone: its process may stay a zombie where nobody reaps it.
            while folder.is_locked() and time.monotonic() < give_up:
                time.sleep(_POLL_S)
        with folder.locked():
            stop_leftovers(state, timeout_s=STOP_TIMEOUT_S)
            folder.remove_state()
    OUT.print("Stopped")


def status(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Show the processes of the stack: whether they serve, where, and what they use.

    Ends with 0 when all serve, 1 when some do not, 3 when no stack runs.
    """
    folder = RunFolder(data_dir)
    state = folder.read_state() if folder.is_locked() else None
    if state is None:
        OUT.print(f"No stack runs on {escape(str(folder.data_dir))}; {how_to_start(data_dir)}", soft_wrap=True)
        raise typer.Exit(_NOT_RUNNING_EXIT)
    ready = asyncio.run(_ready(state))
    OUT.print(_status_table(state, ready, OUT))
    show_addresses(folder, state)
    if not all(ready.values()):
        raise typer.Exit(1)


async def _ready(state: StackState) -> dict[str, bool]:
    services = state.services
    answers = await asyncio.gather(*(is_ready(each.endpoint, each.protocol) for each in services.values()))
    return dict(zip(services, answers, strict=True))


def _status_table(state: StackState, ready: dict[str, bool], console: Console) -> Table:
    """Describe the processes, the supervisor last."""
    memory_bytes = 0
    rows = []
    for name, service in state.services.items():
        usage = usage_of(process_of(service))
        memory_bytes += usage.memory_bytes
        shown = "[green]serves[/]" if ready[name] else "[red]does not serve[/]"
        row = {"process": name, "state": shown, "endpoint": service.endpoint, "restarts": str(service.restarts)}
        rows.append(row | _usage_cells(usage))
    usage = usage_of(supervisor_of(state), with_descendants=False)
    memory_bytes += usage.memory_bytes
    rows.append({"process": "supervisor", "state": state.phase, **_usage_cells(usage)})
    rows.append({"process": "[bold]all[/]", "memory": f"[bold]{_megabytes(memory_bytes)}[/]"})
    return fitting_table(
        console,
        rows,
        left=("process", "state", "endpoint"),
        right=("pid", "memory", "CPU", "up for", "restarts"),
        spare=("CPU", "up for", "pid"),
    )


def _usage_cells(usage: Usage) -> dict[str, str]:
    return {
        "pid": str(usage.pid or ""),
        "memory": _megabytes(usage.memory_bytes),
        "CPU": f"{usage.cpu_s:.1f} s",
        "up for": str(timedelta(seconds=round(usage.age_s))),
    }


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
