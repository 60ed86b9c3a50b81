"""Lists, histories and their reasons as tables for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from recommend_cli.clients.gateway import RecommendedList

_VALUES_SHOWN = 2
_WORDS = {
    "because_you_interacted": "because of {title}",
    "related_through": "{through}, as in {title}",
    "item_user_item": "the same people like {title}",  # a path of the graph, whose middle is only a number of people
    "trending": "many like it now",
    "similar_to": "like {title}",
    "fallback": "popular",
}


def list_table(answer: RecommendedList, *, before: RecommendedList | None = None, item_ids: bool = False) -> Table:
    """Describe a list; with the list before, also what is new in it and what moved."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column("", justify="right")
    if before is not None:
        table.add_column("was", justify="right")
    if item_ids:
        table.add_column("item")
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
