"""Asks the gateway for the lists that a protocol needs: the served one, and that of each source alone."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from recommend_cli.clients.gateway import Gateway, RecommendedList
from recommend_cli.datasets.files import Record
from recommend_cli.errors import CommandError
from recommend_cli.evaluation.metrics import CUTOFF
from recommend_cli.evaluation.scores import Prediction

SERVED: Final = "served"

_USERS_AT_ONCE: Final = 4
_PATIENCE_S: Final = 5.0


@dataclass(slots=True)
class Asked:
    """The predictions of each system, and what the gateway said about its answers.

    `knowing_ms` are the times from a POST to the end of the first answer that was seen to know it; `unchanged` counts
    those of them that were like the list before.
    """

    predictions: dict[str, list[Prediction]] = field(default_factory=dict)
    degraded: int = 0
    knowing_ms: list[float] = field(default_factory=list)
    unchanged: int = 0

    def add(self, system: str, user: int, answer: RecommendedList, relevant: frozenset[str]) -> None:
        """Note one prediction."""
        self.degraded += bool(answer.degraded)
        self.predictions.setdefault(system, []).append(Prediction(user, answer.ids, relevant))

    @property
    def median_knowing_ms(self) -> float:
        """The median of those times."""
        return float(np.median(self.knowing_ms))


@dataclass(frozen=True, slots=True)
class Examined:
    """A user and what comes next: the interactions to predict, in the order in which they happened."""

    user: int
    coming: Sequence[Record]


class Examiner:
    """Asks for lists of users, of the whole system and of each source alone.

    Args:
        gateway: Whom to ask.
        sources: Which sources to ask alone.
        on_user: Called when one user is done.
    """

    def __init__(self, gateway: Gateway, sources: Sequence[str], *, on_user: Callable[[], None]) -> None:
        self._gateway = gateway
        self._sources = sources
        self._on_user = on_user
        self._asked = Asked()

    async def predict_all_at_once(self, users: Sequence[Examined]) -> Asked:
        """Ask once for each user; everything that comes is relevant."""
        slots = asyncio.Semaphore(_USERS_AT_ONCE)

        async def examine(examined: Examined) -> None:
            relevant = frozenset(record["item_id"] for record in examined.coming)
            async with slots:
                self._asked.add(SERVED, examined.user, await self._served(examined.user), relevant)
                await self._ask_sources(examined.user, relevant)
            self._on_user()

        async with asyncio.TaskGroup() as group:
            for examined in users:
                group.create_task(examine(examined))
        return self._asked

    async def replay(self, users: Sequence[Examined]) -> Asked:
        """For each interaction that comes: ask, score it on that one, post it, go on.

        One user after the other, so that the times are those of a system at rest.
        """
        for examined in users:
            served = await self._served(examined.user)
            for record in examined.coming:
                relevant = frozenset([record["item_id"]])
                self._asked.add(SERVED, examined.user, served, relevant)
                await self._ask_sources(examined.user, relevant)
                served = await self._post(examined.user, record, served)
            self._on_user()
        return self._asked

    async def _post(self, user: int, record: Record, before: RecommendedList) -> RecommendedList:
        """Post an interaction and give the first list that is seen to know it.

        That is one without the item which differs from the list before, or which was asked for when the history was
        seen to hold the interaction: now and then one more does not change the first ten.
        """
        posted = time.perf_counter()
        await self._gateway.append_interaction(record)
        is_in_history = False
        while True:
            served = await self._served(user)
            if record["item_id"] not in served.ids and (is_in_history or served.ids != before.ids):
                self._asked.knowing_ms.append((time.perf_counter() - posted) * 1000)
                self._asked.unchanged += served.ids == before.ids
                return served
            if time.perf_counter() - posted > _PATIENCE_S:
                raise CommandError(f"An interaction of user {user} was not known {_PATIENCE_S:.0f} s after its POST")
            is_in_history = await self._gateway.knows(str(user), record["event_id"])

    async def _ask_sources(self, user: int, relevant: frozenset[str]) -> None:
        if not self._sources:
            return
        answers = await self._gateway.recommend_by_each(str(user), self._sources, limit=CUTOFF)
        for source, answer in zip(self._sources, answers, strict=True):
            self._asked.add(source, user, answer, relevant)

    async def _served(self, user: int) -> RecommendedList:
        return await self._gateway.recommend(str(user), limit=CUTOFF)
