"""How long after a POST the list has changed."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final
from uuid import uuid4

import numpy as np

from recommend_cli.clients.gateway import Gateway
from recommend_cli.errors import CommandError

BENCH_VISITOR: Final = "bench-"
"""What the ids of the visitors begin with that this makes up."""

_PATIENCE_S: Final = 5.0


async def measure_freshness(
    gateway: Gateway, users: Sequence[str], *, tries: int, on_try: Callable[[], None]
) -> dict[str, float]:
    """View the first item of a list and ask until it is gone from it, so many times; milliseconds from POST to list.

    The visitors are new ones, who begin by viewing what somebody else was recommended, so that nobody's history is
    spoiled.
    """
    times_ms = []
    for number in range(tries):
        visitor = f"{BENCH_VISITOR}{uuid4().hex[:12]}"
        start = await gateway.recommend(users[number % len(users)], limit=1)
        await gateway.append_interaction(_view(visitor, start.items[0].item_type, start.items[0].item_id))
        first = (await gateway.recommend(visitor)).items[0]
        posted = time.perf_counter()
        await gateway.append_interaction(_view(visitor, first.item_type, first.item_id))
        await wait_until_changed(gateway, visitor, first.item_id, since=posted)
        times_ms.append((time.perf_counter() - posted) * 1000)
        on_try()
    return {"p50": float(np.percentile(times_ms, 50)), "p99": float(np.percentile(times_ms, 99))}


async def wait_until_changed(gateway: Gateway, visitor: str, item_id: str, *, since: float) -> None:
    """Ask until the item is gone from the visitor's list; `since` is when it was viewed, by `time.perf_counter`.

    Raises:
        CommandError: It was there for too long.
    """
    while item_id in (await gateway.recommend(visitor)).ids:
        if time.perf_counter() - since > _PATIENCE_S:
            raise CommandError(f"A list had not changed {_PATIENCE_S:.0f} s after the view")


def _view(visitor: str, item_type: str, item_id: str) -> dict[str, Any]:
    return {
        "event_id": uuid4().hex,
        "user_id": visitor,
        "item_type": item_type,
        "item_id": item_id,
        "interaction_type": "view",
    }
