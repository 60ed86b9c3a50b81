"""Lists, histories and their reasons as tables for people."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Column, Table

from recommend_cli.clients.gateway import Interaction, RecommendedList

_ANY_WIDTH: Final = 10_000

_VALUES_SHOWN = 2
_WORDS = {
    "because_you_interacted": "because of {title}",
    "related_through": "{through}, as in {title}",
    "item_user_item": "the same people like {title}",  # a path of the graph, whose middle is only a number of people
    "trending": "many like it now",
    "similar_to": "like {title}",
    "fallback": "fills the list",
}


def list_table(
    answer: RecommendedList, *, before: RecommendedList | None = None, item_ids: bool = False
) -> RenderableType:  # fmt: skip
    """Describe a list, and below it what it had to do without; with the list before, also what is new or moved."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("", justify="right")
    if before is not None:
        table.add_column("was", justify="right")
    if item_ids:
        table.add_column("item", overflow="fold")
    table.add_column("title")
    table.add_column("about", style="dim")
    table.add_column("why")
    old_ranks = {item: rank for rank, item in enumerate(before.ids, start=1)} if before is not None else {}
    for rank, item in enumerate(answer.items, start=1):
        cells = [str(rank)]
        if before is not None:
            cells.append(_movement(rank, old_ranks.get(item.item_id)))
        if item_ids:
            cells.append(escape(item.item_id))
        cells += [escape(item.title), escape(about(item.attributes)), escape(why(item.reasons))]
        table.add_row(*cells)
    if not answer.degraded:
        return table
    return Group(table, f"[yellow]without {escape(', '.join(answer.degraded))}, which could not be asked[/]")


def history_table(done: Sequence[tuple[Interaction, Mapping[str, Any]]]) -> Table:
    """Describe what somebody did, each with its item, which is empty where the catalogue lacks it."""
    table = Table("when", "did", Column("item", overflow="fold"), "title", "about", box=SIMPLE_HEAD)
    for each, item in done:
        value = "" if each.value is None else f" {each.value:g}"
        table.add_row(
            f"{datetime.fromisoformat(each.occurred_at).astimezone():%Y-%m-%d %H:%M}",
            escape(each.interaction_type + value),
            escape(each.item_id),
            escape(item.get("title", "")),
            f"[dim]{escape(about(item.get('attributes', {})))}[/]",
        )
    return table


def fitting_table(
    console: Console,
    rows: Sequence[Mapping[str, str]],
    *,
    left: Sequence[str],
    right: Sequence[str],
    spare: Sequence[str],
) -> Table:
    """Describe rows, every cell in one line.

    Args:
        console: Whose width the table has to fit.
        rows: Their cells by heading.
        left: The headings of the columns that begin at the left.
        right: Those of the columns behind them, justified to the right.
        spare: The headings of the columns to leave out where there is no room, the first one first.
    """
    for left_out in range(len(spare) + 1):
        kept = [heading for heading in (*left, *right) if heading not in spare[:left_out]]
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for heading in kept:
            table.add_column(heading, justify="right" if heading in right else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(row.get(heading, "") for heading in kept))
        if console.measure(table, options=console.options.update(max_width=_ANY_WIDTH)).maximum <= console.width:
            break
    return table


def about(attributes: Mapping[str, Any]) -> str:
    """Say what an item is like: its year and genres where it has them, otherwise its first attributes."""
    known = [attributes[name] for name in ("year", "genres") if name in attributes]
    values = known or list(attributes.values())[:1]
    texts = [", ".join(map(str, value[:_VALUES_SHOWN])) if isinstance(value, list) else str(value) for value in values]
    return " · ".join(texts)


def why(reasons: Sequence[Mapping[str, Any]]) -> str:
    """Word the reasons."""
    return "; ".join(dict.fromkeys(map(_reason, reasons)))


def _reason(reason: Mapping[str, Any]) -> str:
    title = (reason.get("item") or {}).get("title", "")
    code = reason["code"]
    words = _WORDS.get(reason.get("meta_path", "")) or _WORDS.get(code) or str(code).replace("_", " ")
    return words.format(title=title, through=reason.get("through", ""))


def _movement(rank: int, old_rank: int | None) -> str:
    if old_rank is None:
        return "[bold green]new[/]"
    if old_rank == rank:
        return f"[dim]{old_rank}[/]"
    return f"[green]{old_rank} ↑[/]" if old_rank > rank else f"[yellow]{old_rank} ↓[/]"
