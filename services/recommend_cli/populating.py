"""Fills a running stack and trains on it, with progress for whoever looks on."""

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from recommend_cli.clients.gateway import Gateway
from recommend_cli.clients.lag import wait_until_caught_up
from recommend_cli.clients.services import connected
from recommend_cli.clients.training import HoldOut, Trainer, Training
from recommend_cli.clients.vectors import VectorIndex
from recommend_cli.console import counting_progress, share_progress
from recommend_cli.datasets.files import BadLine, Line, Record
from recommend_cli.errors import CommandError
from recommend_cli.loading import LoadOutcome, send_all
from recommend_cli.stack.folder import StackState

_POLL_S: Final = 0.2
_EMBEDDING_STALLS_S: Final = 60.0
_SWITCH_S: Final = 30.0


async def load_items(gateway: Gateway, lines: Iterable[Line | BadLine], *, total: int | None = None) -> LoadOutcome:
    """Put items into the catalogue; `total` is how many lines there are, when that is known."""
    with counting_progress() as progress:
        task = progress.add_task("Items", total=total)
        outcome = await send_all(
            lines, gateway.put_items, stream_key="item_id", on_progress=lambda count: progress.advance(task, count)
        )
        progress.update(task, total=outcome.lines)
    return outcome


async def load_interactions(
    gateway: Gateway, lines: Iterable[Line | BadLine], *, total: int | None = None
) -> LoadOutcome:
    """Add interactions, each user's in the order of the lines."""
    with counting_progress() as progress:
        task = progress.add_task("Interactions", total=total)
        outcome = await send_all(
            lines,
            gateway.append_interactions,
            stream_key="user_id",
            on_progress=lambda count: progress.advance(task, count),
        )
        progress.update(task, total=outcome.lines)
    return outcome


def numbered(records: Sequence[Record]) -> list[Line]:
    """Give records that come from no file as lines, so that a refused one can be named by its place."""
    return [Line(number, record) for number, record in enumerate(records, start=1)]


async def wait_until_embedded(state: StackState, count: int) -> None:
    """Wait until so many items have their text embedded.

    Raises:
        CommandError: Nothing was embedded for a minute.
    """
    async with connected(state, "vector_search") as channel:
        index = VectorIndex(channel, state.tenant)
        with counting_progress() as progress:
            task = progress.add_task("Embedding", total=count)
            embedded, changed_at = 0, time.monotonic()
            while embedded < count:
                now_embedded = (await index.describe()).embedded_items
                if now_embedded != embedded:
                    embedded, changed_at = now_embedded, time.monotonic()
                    progress.update(task, completed=embedded)
                elif time.monotonic() - changed_at > _EMBEDDING_STALLS_S:
                    raise CommandError(
                        f"{count - embedded} items are still without a vector, and none came for a minute",
                        hint="the log of gpu_worker says why",
                    )
                else:
                    await asyncio.sleep(_POLL_S)


async def wait_until_applied(state: StackState) -> None:
    """Wait until every service has read what was written so far."""
    with share_progress() as progress:
        task = progress.add_task("Applying events", total=None)
        most = 0

        def show(lags: Mapping[str, int]) -> None:
            nonlocal most
            behind = sum(lags.values())
            most = max(most, behind)
            progress.update(task, total=max(most, 1), completed=max(most, 1) - behind)

        await wait_until_caught_up(state.services, on_lag=show)


async def train_model(
    state: StackState, gateway: Gateway, *, hold_out: HoldOut, seed: int, activate: bool = True
) -> Training:
    """Train, and when the version was activated wait until the gateway serves it."""
    async with connected(state, "gpu_worker") as channel:
        with share_progress() as progress:
            task = progress.add_task("Training", total=1.0)

            def show(stage: str, share: float) -> None:
                progress.update(task, completed=share, description=f"Training: {stage}" if stage else "Training")

            training = await Trainer(channel, state.tenant).train(
                hold_out=hold_out, seed=seed, activate=activate, on_progress=show
            )
            progress.update(task, completed=1.0, description="Training")
    if training.activated:
        await wait_until_served(gateway, training.version)
    return training


async def wait_until_served(gateway: Gateway, version: str) -> None:
    """Wait until the gateway's lists are made with a version.

    Raises:
        CommandError: They are not after half a minute.
    """
    give_up = time.monotonic() + _SWITCH_S
    while (await gateway.trending(limit=1)).model_version != version:
        if time.monotonic() > give_up:
            raise CommandError(f"The gateway does not serve version {version} after {_SWITCH_S:.0f} s")
        await asyncio.sleep(_POLL_S)
