"""`for-user` and `similar`: ask the running stack as any client would."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from recommend_cli.clients.gateway import Gateway, GatewayError, Interaction, RecommendedList
from recommend_cli.commands.data import gateway_of
from recommend_cli.console import OUT
from recommend_cli.display import history_table, list_table
from recommend_cli.errors import CommandError
from recommend_cli.options import DEFAULT_ITEM_TYPE, DataDir, Limit
from recommend_cli.stack.stores import DEFAULT_DATA_DIR

_HISTORY_SHOWN: Final = 5

Filters = Annotated[
    list[str] | None,
    typer.Option("--filter", "-f", help="A condition as field:op:value, such as genres:in:Drama,War; may be repeated."),
]


def for_user(
    user_id: Annotated[str, typer.Argument(metavar="ID", help="The user's id; an unknown user gets what is trending.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    item_type: Annotated[
        str | None, typer.Option("--item-type", "-t", help="Only items of this type; by default of all types.")
    ] = None,
    limit: Limit = 10,
    filters: Filters = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show every reason.")] = False,
) -> None:
    """Show what a user did last, newest first, and recommend to them."""

    async def ask(gateway: Gateway) -> RecommendedList:
        return await gateway.recommend(
            user_id, limit=limit, item_type=item_type, filters=filters or (), explain=explain
        )

    async def ask_both() -> None:
        async with gateway_of(data_dir) as gateway:
            await _show_history(gateway, user_id)
            OUT.print("Recommended:")
            await _show_list(gateway, ask)

    asyncio.run(ask_both())


def similar(
    item_id: Annotated[str, typer.Argument(metavar="ITEM", help="The item's id.")],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    item_type: Annotated[
        str | None,
        typer.Option(
            "--item-type",
            "-t",
            help="The item's type. By default the item of that id is looked for in the type `load items` gives, "
            "then in the first type of the catalogue.",
        ),
    ] = None,
    limit: Limit = 10,
    filters: Filters = None,
) -> None:
    """Show the items most similar to an item."""

    async def ask(gateway: Gateway) -> RecommendedList:
        tried = []
        async for kind in _types_to_try(gateway, item_type):
            try:
                return await gateway.similar(kind, item_id, limit=limit, filters=filters or ())
            except GatewayError as error:
                if error.status != HTTPStatus.NOT_FOUND:
                    raise
            tried.append(kind)
        raise CommandError(
            f"There is no item {item_id} of type {' or '.join(tried)}",
            hint="`--item-type` names the type that it was loaded with",
        )

    async def ask_gateway() -> None:
        async with gateway_of(data_dir) as gateway:
            await _show_list(gateway, ask)

    asyncio.run(ask_gateway())


async def _types_to_try(gateway: Gateway, given: str | None) -> AsyncIterator[str]:
    """Give the type that was named, or those that the item may well be of."""
    yield given or DEFAULT_ITEM_TYPE
    if given is None:
        first = await gateway.first_item_type()
        if first not in {"", DEFAULT_ITEM_TYPE}:
            yield first


async def _show_history(gateway: Gateway, user_id: str) -> None:
    """Print what a user did last; that it cannot be read keeps no list back."""
    try:
        last = await gateway.latest(user_id, _HISTORY_SHOWN)
        items = await asyncio.gather(*(_item(gateway, each) for each in last))
    except GatewayError as error:
        if error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
            raise
        OUT.print(f"[yellow]What {escape(user_id)} did last cannot be read: {escape(error.message)}[/]")
        return
    if not last:
        OUT.print(f"{escape(user_id)} did nothing yet")
        return
    OUT.print(f"What {escape(user_id)} did last:")
    OUT.print(history_table(list(zip(last, items, strict=True))))


async def _item(gateway: Gateway, interaction: Interaction) -> Mapping[str, Any]:
    """Read an interaction's item; nothing where the catalogue lacks it, as it may."""
    try:
        return await gateway.item(interaction.item_type, interaction.item_id)
    except GatewayError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise
        return {}


async def _show_list(gateway: Gateway, ask: Callable[[Gateway], Awaitable[RecommendedList]]) -> None:
    """Ask, and print the answer with the milliseconds it took."""
    started = time.perf_counter()
    answer = await ask(gateway)
    milliseconds = (time.perf_counter() - started) * 1000
    OUT.print(list_table(answer, item_ids=True))
    model = f"model {answer.model_version}" if answer.model_version else "no model yet"
    OUT.print(f"{answer.strategy}, {model}, {milliseconds:.0f} ms", style="dim")
