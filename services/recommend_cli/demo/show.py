"""The demonstration: three visitors, what they liked last, what is recommended to them and why; then two ratings."""

import time
from collections.abc import Container, Sequence
from typing import Any, Final
from uuid import uuid4

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from recommend_cli.clients.gateway import Gateway, Interaction, RecommendedList
from recommend_cli.console import OUT
from recommend_cli.datasets.ml100k import FILM
from recommend_cli.display import about, list_table

VISITORS: Final = ("44", "270", "523")
"""Whose tastes are plain to see: science fiction, horror, romance."""
_HISTORY_SHOWN: Final = 5
_LIKED_FROM: Final = 4.0
_TASTES: Final = ("Horror", "Animation", "Film-Noir", "Western", "War", "Documentary")


async def show_visitors(gateway: Gateway) -> None:
    """Show each visitor's latest favourites and list."""
    for visitor in VISITORS:
        OUT.rule(f"[bold]Visitor {visitor}", align="left")
        started = time.perf_counter()
        answer = await gateway.recommend(visitor)
        milliseconds = (time.perf_counter() - started) * 1000
        OUT.print("Liked last, and what else the reasons below name:")
        OUT.print(await _favourites_table(gateway, visitor, _named_in(answer)))
        OUT.print(f"Recommended, {milliseconds:.0f} ms:")
        OUT.print(list_table(answer))


async def show_a_change(gateway: Gateway) -> None:
    """Rate two films as the last visitor, of a kind that the list does not hold, and show what becomes of it."""
    visitor = VISITORS[-1]
    before = await gateway.recommend(visitor)
    taste, films = await _unexpected_films(gateway, visitor, before)
    OUT.rule(f"[bold]Visitor {visitor} turns to {taste}", align="left")
    started = time.perf_counter()
    for item in films:
        await gateway.append_interaction(_five_stars(visitor, item["item_id"]))
    posted = time.perf_counter()
    after = await gateway.recommend(visitor)
    listed = time.perf_counter()
    for item in films:
        OUT.print(f"★★★★★ {escape(item['title'])}  [dim]{escape(about(item['attributes']))}[/]")
    OUT.print(
        f"The list changed [bold]{(listed - started) * 1000:.0f} ms[/] after the first rating was sent: "
        f"{(posted - started) * 1000:.0f} ms for the two ratings, {(listed - posted) * 1000:.0f} ms for the list"
    )
    OUT.print(list_table(after, before=before))


def _named_in(answer: RecommendedList) -> set[str]:
    """Give the ids of the films that the reasons of a list name."""
    return {reason["item"]["item_id"] for item in answer.items for reason in item.reasons if reason.get("item")}


async def _favourites_table(gateway: Gateway, visitor: str, named: Container[str]) -> Table:
    """Describe the visitor's latest favourites, and apart from them what else is named."""
    latest: list[Interaction] = []
    others: list[Interaction] = []
    async for each in gateway.history(visitor):
        if each.value is None:
            continue
        if each.value >= _LIKED_FROM and len(latest) < _HISTORY_SHOWN:
            latest.append(each)
        elif each.item_id in named:
            others.append(each)
    table = Table("", "title", "about", box=SIMPLE_HEAD, show_header=False)
    for group in (latest, others):
        for each in group:
            film = await gateway.item(each.item_type, each.item_id)
            stars = "★" * round(each.value or 0)
            table.add_row(stars, escape(film["title"]), f"[dim]{escape(about(film['attributes']))}[/]")
        table.add_section()
    return table


async def _unexpected_films(
    gateway: Gateway, visitor: str, current: RecommendedList
) -> tuple[str, Sequence[dict[str, Any]]]:
    """Find the two best films of a kind that is not in the list: what a person could turn to next."""
    present = {genre for item in current.items for genre in item.attributes.get("genres", ())}
    taste = next((taste for taste in _TASTES if taste not in present), _TASTES[0])
    answer = await gateway.recommend(visitor, limit=2, filters=[f"genres:eq:{taste}"])
    return taste, [
        {"item_id": item.item_id, "title": item.title, "attributes": item.attributes} for item in answer.items
    ]


def _five_stars(visitor: str, item_id: str) -> dict[str, Any]:
    return {
        "event_id": uuid4().hex,
        "user_id": visitor,
        "item_type": FILM,
        "item_id": item_id,
        "interaction_type": "rating",
        "value": 5.0,
    }
