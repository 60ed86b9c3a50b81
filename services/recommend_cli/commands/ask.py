"""`for-user` and `similar`: ask the running stack as any client would."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer

from recommend_cli.clients.gateway import Gateway, RecommendedList
from recommend_cli.commands.data import gateway_of
from recommend_cli.console import OUT
from recommend_cli.display import list_table
from recommend_cli.options import DataDir, Limit
from recommend_cli.stack.stores import DEFAULT_DATA_DIR

Filters = Annotated[
    list[str] | None,
    typer.Option("--filter", "-f", help="A condition as field:op:value, such as genres:in:Drama,War; may be repeated."),
]


def for_user(
    user_id: Annotated[str, typer.Argument(metavar="ID", help="The user's id; an unknown user gets what is trending.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    limit: Limit = 10,
    filters: Filters = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show every reason.")] = False,
) -> None:
    """Recommend to a user."""

    async def ask(gateway: Gateway) -> RecommendedList:
        return await gateway.recommend(user_id, limit=limit, filters=filters or (), explain=explain)

    _show(*asyncio.run(_ask(data_dir, ask)))


def similar(
    item_id: Annotated[str, typer.Argument(metavar="ITEM", help="The item's id.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    item_type: Annotated[str, typer.Option("--item-type", "-t", help="The item's type.")] = "film",
    limit: Limit = 10,
    filters: Filters = None,
) -> None:
    """Show the items most similar to an item."""

    async def ask(gateway: Gateway) -> RecommendedList:
        return await gateway.similar(item_type, item_id, limit=limit, filters=filters or ())

    _show(*asyncio.run(_ask(data_dir, ask)))


async def _ask(data_dir: Path, ask: Callable[[Gateway], Awaitable[RecommendedList]]) -> tuple[RecommendedList, float]:
    """Ask, and give the answer with the milliseconds it took."""
    async with gateway_of(data_dir) as gateway:
        started = time.perf_counter()
        answer = await ask(gateway)
        return answer, (time.perf_counter() - started) * 1000


def _show(answer: RecommendedList, milliseconds: float) -> None:
    OUT.print(list_table(answer, item_ids=True))
    model = f"model {answer.model_version}" if answer.model_version else "no model yet"
    OUT.print(f"{answer.strategy}, {model}, {milliseconds:.0f} ms", style="dim")
    if answer.degraded:
        OUT.print(f"[yellow]without {', '.join(answer.degraded)}, which could not be asked[/]")
