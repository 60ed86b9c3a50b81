"""A whole vector_search on a free port, with memory twins behind it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from contract.vector_search.qdrant_support import qdrant

from servicekit.eventlog.memory import MemoryEventLog
from servicekit.eventlog.topics import default_specs
from vector_search.adapters.exact_collections import ExactDenseStore
from vector_search.testing import Replica, draft, running

__all__ = ["qdrant"]


@pytest.fixture
async def log() -> AsyncIterator[MemoryEventLog]:
    memory = MemoryEventLog()
    await memory.ensure_topics(default_specs())
    yield memory
    await memory.close()


@pytest.fixture
async def replica(tmp_path: Path, log: MemoryEventLog) -> AsyncIterator[Replica]:
    """A service without any version."""
    async with running(Replica(tmp_path / "models", log, ExactDenseStore())) as each:
        yield each


@pytest.fixture
async def trained(tmp_path: Path, log: MemoryEventLog) -> AsyncIterator[Replica]:
    """A service that starts with an active version of 40 films."""
    draft().write(tmp_path / "models", active=True)
    async with running(Replica(tmp_path / "models", log, ExactDenseStore())) as each:
        yield each
