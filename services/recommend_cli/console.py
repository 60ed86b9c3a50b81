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
from rich.table import Column

from recommend_cli.errors import CommandError

ERROR_MARK: Final = "Error "
"""How an error begins."""
_DESCRIPTION_WIDTH: Final = 41
_BAR_WIDTH: Final = 20  # with the longest description, the share and the time it fits 80 columns

OUT: Final = Console(highlight=False)
ERR: Final = Console(stderr=True, highlight=False)


def show_error(error: CommandError) -> None:
    """Say what is wrong and what to do about it."""
    ERR.print(f"[bold red]{ERROR_MARK}[/]{escape(error.message)}", soft_wrap=True)
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
        TextColumn(
            "{task.description}", table_column=Column(no_wrap=True, max_width=_DESCRIPTION_WIDTH, overflow="ellipsis")
        ),
        BarColumn(_BAR_WIDTH),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=OUT,
    )
