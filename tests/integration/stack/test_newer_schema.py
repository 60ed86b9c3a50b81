"""A rollout begins with the schema: today's services go on, and start again, on the one of the next version."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

import graph_service.bootstrap
import profile_store.bootstrap
import vector_search.bootstrap
from e2e import inside
from e2e.stack import Stack, until
from e2e.traffic import Traffic, wait_until_stored
from graph_service.adapters.neo4j.schema import migrations as graph_migrations
from graph_service.settings import GraphServiceSettings
from profile_store.settings import ProfileStoreSettings
from recommend_cli.stack.folder import stores_of
from recommend_cli.stack.plan import stack_environment
from servicekit.migrations import Migration, MigrationTarget, migrate, parse_migrations
from servicekit.settings import load_settings
from vector_search.adapters.qdrant_schema import migrations as vector_migrations
from vector_search.settings import VectorSearchSettings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

LATELY = 40
FEW = 8  # of them may miss a deadline: two of each service and all servers share the machine
MORE_CQL = """\
-- migration 9999 expand: what the next version needs
ALTER TABLE interactions ADD IF NOT EXISTS place text;
CREATE TABLE IF NOT EXISTS places (place text PRIMARY KEY);
"""
MORE_CYPHER = """\
// migration 9999 expand: what the next version needs
CREATE CONSTRAINT place_key IF NOT EXISTS FOR (place:Place) REQUIRE place.key IS UNIQUE;
CREATE INDEX item_place IF NOT EXISTS FOR (item:Item) ON (item.place);
"""
MORE_VECTORS = """\
# migration 9999 expand: what the next version needs
INDEX attributes.n.price FLOAT;
"""


async def _expand(
    opened: AbstractAsyncContextManager[MigrationTarget], today: Sequence[Migration], more: str, comment: str
) -> None:
    newer = [*today, *parse_migrations(more, comment=comment)]
    async with opened as target:
        await migrate(target, newer)
        assert await target.applied() == {each.number: each.checksum for each in newer}


def _vectors() -> Coroutine[Any, Any, None]:
    settings = load_settings(VectorSearchSettings)
    return _expand(vector_search.bootstrap.migration_target(settings), vector_migrations(), MORE_VECTORS, "#")


def _graph() -> Coroutine[Any, Any, None]:
    settings = load_settings(GraphServiceSettings)
    return _expand(graph_service.bootstrap.migration_target(settings), graph_migrations(), MORE_CYPHER, "//")


def _profiles() -> Coroutine[Any, Any, None]:
    settings = load_settings(ProfileStoreSettings)
    opened = profile_store.bootstrap.open_migration_target(settings)
    return _expand(opened, profile_store.bootstrap.read_migrations(settings), MORE_CQL, "--")


@pytest.mark.parametrize(
    ("service", "expand"),
    [("profile_store", _profiles), ("graph_service", _graph), ("vector_search", _vectors)],
    ids=["CQL", "Cypher", "vectors"],
)
def test_services_of_today_go_on_and_start_on_the_schema_of_the_next_version(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, service: str, expand: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    for name, value in stack_environment(stores_of(stack.data_dir)).items():
        monkeypatch.setenv(name, value)
    with Traffic(stack).flowing() as seen:
        until(lambda: len(seen.reads) > 20, within_s=30, what="visitors come")
        asyncio.run(expand())
        # One that was there before the migration and one that started after it serve side by side.
        killed = stack.replicas(service)[0]["pid"]
        os.kill(killed, signal.SIGKILL)
        until(lambda: inside.is_replaced(stack, service, killed), within_s=60, what=f"{service} is back")
        reads, writes = len(seen.reads), len(seen.writes)
        until(
            lambda: (
                len(seen.reads) > reads + LATELY and sum(bool(each.degraded) for each in seen.reads[-LATELY:]) <= FEW
            ),
            within_s=60,
            what="lists are whole",
        )
        until(lambda: len(seen.writes) > writes + 10, within_s=30, what="visitors go on")
    assert set(seen.statuses(seen.reads)) == {200}
    assert set(seen.statuses(seen.writes)) <= {200, 201, 202}
    wait_until_stored(stack, seen)
    for visitor in seen.likes:
        assert len({tuple(sorted(each)) for each in inside.histories(stack, visitor)}) == 1
