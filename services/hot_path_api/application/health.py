"""What the gateway can see of the others, and whether it may be sent traffic."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Protocol

REQUIRED = "profile_store"
"""Without having met it once, the gateway has nothing to answer with."""


class Peer(Protocol):
    """Another service."""

    async def is_serving(self) -> bool:
        """Tell whether it says that it serves; False when it cannot be reached."""
        ...


class State(StrEnum):
    """How well the gateway can do its work."""

    STARTING = "starting"
    OK = "ok"
    DEGRADED = "degraded"
    DRAINING = "draining"


class Health:
    """Asks the others every so often.

    The gateway is ready from the moment when it has met profile_store and is prepared, or has waited long enough for
    that, until it drains. It stays ready when others go away later, since it answers with what is left, and all
    gateways would otherwise leave at the same time.

    Args:
        peers: The others by name.
        is_prepared: Tells whether the serving models are known; lists made before that are untrained ones.
        patience_s: How long that is waited for once profile_store was met: vector_search may be away.
    """

    def __init__(self, peers: Mapping[str, Peer], *, is_prepared: Callable[[], bool], patience_s: float = 5.0) -> None:
        self._peers = peers
        self._is_prepared = is_prepared
        self._patience_s = patience_s
        self._begins_at = math.inf
        self._serving = dict.fromkeys(peers, False)
        self._draining = False

    @property
    def state(self) -> State:
        """Give the state."""
        if self._draining:
            return State.DRAINING
        if not self._has_begun():
            return State.STARTING
        return State.OK if all(self._serving.values()) else State.DEGRADED

    @property
    def is_ready(self) -> bool:
        """Tell whether traffic may come."""
        return self.state in {State.OK, State.DEGRADED}

    def services(self) -> Mapping[str, str]:
        """Give each service's state as last seen."""
        return {name: "serving" if serving else "unreachable" for name, serving in self._serving.items()}

    def drain(self) -> None:
        """Say from now on that no more traffic shall come."""
        self._draining = True

    async def look(self) -> None:
        """Ask all others once."""
        answers = await asyncio.gather(*(peer.is_serving() for peer in self._peers.values()))
        self._serving = dict(zip(self._peers, answers, strict=True))
        if self._serving[REQUIRED]:
            self._begins_at = min(self._begins_at, time.monotonic() + self._patience_s)

    def _has_begun(self) -> bool:
        if math.isfinite(self._begins_at) and self._is_prepared():
            self._begins_at = -math.inf
        return time.monotonic() >= self._begins_at

    async def run(self, stop: asyncio.Event, *, every_s: float, hurry_s: float = 0.05) -> None:
        """Ask again and again until stopped, in quick succession as long as not all were met."""
        stopping = asyncio.create_task(stop.wait())
        while not stopping.done():
            await self.look()
            pause_s = every_s if self.state is State.OK else (hurry_s if self.state is State.STARTING else every_s / 2)
            await asyncio.wait((stopping,), timeout=pause_s)
