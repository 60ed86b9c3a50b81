"""Where the command writes: answers to standard output, what went wrong to standard error."""

from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from recommend_cli.errors import CommandError

OUT: Final = Console(highlight=False)
ERR: Final = Console(stderr=True, highlight=False)


def show_error(error: CommandError) -> None:
    """Say what is wrong and what to do about it."""
    ERR.print(f"[bold red]Error[/] {escape(error.message)}", soft_wrap=True)
    if error.hint:
        ERR.print(f"      {escape(error.hint)}", soft_wrap=True)


def counting_progress() -> Progress:
    """Give a progress display for things that are counted; empty when nobody looks at it."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=OUT,
    )


def share_progress() -> Progress:
    """Give a progress display for things of which only the share done is known."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=OUT,
    )
