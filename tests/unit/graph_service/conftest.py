"""What the tests of the use cases and of the ways in share: a graph on a memory store, running."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from graph_service.adapters.memory import MemoryGraphStore
from graph_service.bootstrap import Graph, make_graph
from graph_service.settings import GraphServiceSettings
from servicekit.clock import ManualClock
from servicekit.tasks import BackgroundTasks

NOW_MS = 1_700_000_000_000


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW_MS)


@pytest.fixture
def store() -> MemoryGraphStore:
    return MemoryGraphStore()


@pytest.fixture
def settings() -> GraphServiceSettings:
    return GraphServiceSettings(
        genre_damping=0.5,
        user_damping=0.5,
        person_weight=1.0,
        genre_weight=1.0,
        fill_timeout_s=5.0,
        list_min_age_s=0.0,
        warm_lists=0,
    )


@pytest.fixture
async def graph(settings: GraphServiceSettings, store: MemoryGraphStore, clock: ManualClock) -> AsyncIterator[Graph]:
    graph = make_graph(settings, store, clock)
    async with BackgroundTasks(asyncio.Event()) as tasks:
        graph.start(tasks)
        yield graph
