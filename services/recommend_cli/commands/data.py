"""`load`: fills the running stack from MovieLens-100K or from files."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.markup import escape

from recommend_cli.clients.gateway import Gateway
from recommend_cli.console import ERR, OUT
from recommend_cli.datasets.files import read_interactions, read_items
from recommend_cli.datasets.movielens import TERMS
from recommend_cli.demo.movies import load_movielens
from recommend_cli.errors import CommandError
from recommend_cli.loading import LoadOutcome
from recommend_cli.options import DEFAULT_CACHE_DIR, DEFAULT_ITEM_TYPE, CacheDir, DataDir
from recommend_cli.populating import load_interactions, load_items
from recommend_cli.stack.folder import RunFolder, running_stack, stores_of
from recommend_cli.stack.stores import DEFAULT_DATA_DIR

_MOST_LINES_SHOWN: Final = 20

load = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Load items and interactions into the running stack, over REST."
)

File = Annotated[
    Path, typer.Argument(help="JSON lines (.jsonl, .ndjson, .json) or CSV.", exists=True, dir_okay=False, readable=True)
]
ItemType = Annotated[str, typer.Option("--item-type", "-t", help="The type of items that do not name theirs.")]


@load.command("ml-100k")
def load_ml100k(data_dir: DataDir = DEFAULT_DATA_DIR, cache_dir: CacheDir = DEFAULT_CACHE_DIR) -> None:
    """Load MovieLens-100K: 1,682 films and 100,000 ratings, the newest of them as of now.

    `make data` fetches the files. Loading again changes nothing.
    """
    OUT.print(TERMS, soft_wrap=True)
    asyncio.run(_load_ml100k(data_dir, cache_dir))


@load.command("items")
def load_item_file(file: File, data_dir: DataDir = DEFAULT_DATA_DIR, item_type: ItemType = DEFAULT_ITEM_TYPE) -> None:
    """Load items.

    Fields: item_id, item_type, title, description, attributes, created_at, available_from, available_until, hidden.

    In a CSV file every other column becomes an attribute and is read as one
    kind: lists where a cell is written as "Action|Crime"; numbers where all
    filled cells are some, or 90 % of ten and more (the others are bad lines);
    true or false likewise; else texts. Numbers beyond 2^53 lose digits: their
    line is bad, and a column that mostly holds such ids is read as texts.

    Times are written as those of `load interactions`.

    Good lines are loaded, bad ones listed by their numbers; the exit code is 1 when no line was loaded.
    """
    outcome = asyncio.run(_load_items(file, data_dir, item_type))
    _show(outcome, "item", file)


@load.command("interactions")
def load_interaction_file(
    file: File,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    item_type: ItemType = DEFAULT_ITEM_TYPE,
    interaction_type: Annotated[
        str, typer.Option("--type", help="The type of interactions that do not name theirs.")
    ] = "view",
) -> None:
    """Load interactions.

    Fields: user_id, item_id, item_type, interaction_type, value, occurred_at, event_id.

    occurred_at is RFC 3339 with a zone, such as 2026-03-28T14:05:00Z or 2026-03-28T15:05:00+01:00, or Unix time in
    seconds or milliseconds, such as 1774706700 or 1774706700000. Absent it is now; more than five minutes ahead is
    refused.

    A user's interactions keep the order of the file. Without an event_id the line's content identifies it, so loading
    a file again changes nothing. Good lines are loaded, bad ones listed by their numbers; the exit code is 1 when no
    line was loaded.
    """
    outcome = asyncio.run(_load_interactions(file, data_dir, item_type, interaction_type))
    _show(outcome, "interaction", file)


def gateway_of(data_dir: Path) -> Gateway:
    """Connect to the gateway of the stack that runs on a data folder.

    Raises:
        CommandError: None runs there.
    """
    return Gateway(running_stack(data_dir).url, RunFolder(data_dir).api_key())


async def _load_ml100k(data_dir: Path, cache_dir: Path) -> None:
    async with gateway_of(data_dir) as gateway:
        items, interactions = await load_movielens(gateway, stores_of(data_dir), cache_dir)
    _show(items, "item", None)
    _show(interactions, "interaction", None)


async def _load_items(file: Path, data_dir: Path, item_type: str) -> LoadOutcome:
    async with gateway_of(data_dir) as gateway:
        return await load_items(gateway, read_items(file, item_type=item_type, tell=_note))


async def _load_interactions(file: Path, data_dir: Path, item_type: str, interaction_type: str) -> LoadOutcome:
    async with gateway_of(data_dir) as gateway:
        lines = read_interactions(file, item_type=item_type, interaction_type=interaction_type)
        return await load_interactions(gateway, lines)


def _show(outcome: LoadOutcome, what: str, file: Path | None) -> None:
    """Print what was loaded and list the bad lines."""
    # Some may be stored by way of the event log before the answer says so; they are no news then.
    nothing_new = outcome.known and not outcome.new
    OUT.print(f"{_counted(outcome.loaded, what)} loaded{', all of them known before' if nothing_new else ''}")
    if outcome.bad:
        place = f" of {escape(str(file))}" if file else ""
        ERR.print(f"[yellow]{_counted(len(outcome.bad), 'line')}{place} not loaded:[/]", soft_wrap=True)
        numbers = sorted(outcome.bad)
        for number in numbers[:_MOST_LINES_SHOWN]:
            ERR.print(f"  line {number}: {outcome.bad[number]}", markup=False, soft_wrap=True)
        rest = numbers[_MOST_LINES_SHOWN:]
        if rest:
            ERR.print(f"  and {len(rest):,} more, on line{'s' if len(rest) > 1 else ''} {_ranges(rest)}")
    if not outcome.loaded:
        raise CommandError("No line was loaded")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _note(sentence: str) -> None:
    ERR.print(f"[yellow]•[/] {escape(sentence)}", soft_wrap=True)


def _ranges(numbers: Sequence[int]) -> str:
    """Write rising numbers in short, as "3, 5-9"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)
