"""Neo4j under trouble: replicas writing at once, a server killed under writes, frozen, refusing, behind."""

import asyncio
import os
import random
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
from contract.graph_service.test_graph_store import assert_same, put, random_mutation, took
from servers.neo4j_server import Neo4jServer
from servers.server import free_port

from graph_service.adapters.memory import MemoryGraphStore
from graph_service.adapters.neo4j.client import Neo4jClient, Neo4jOptions, Transaction
from graph_service.adapters.neo4j.schema import Neo4jMigrationTarget, migrations
from graph_service.adapters.neo4j.store import Neo4jGraphStore
from graph_service.domain.graph import Interaction, Mutation
from graph_service.domain.ports import RelatednessRule
from servicekit.deadline import deadline_after
from servicekit.errors import DeadlineExceededError, ServiceError, StartupError, UnavailableError
from servicekit.migrations import migrate

pytestmark = [pytest.mark.integration, pytest.mark.timeout(500)]

RULE = RelatednessRule()


async def opened(options: Neo4jOptions, *, patience_s: float = 30.0) -> Neo4jGraphStore:
    return await Neo4jGraphStore.open(options, known_degrees=1_000, known_for_s=300.0, patience_s=patience_s)


@pytest.fixture
async def replicas(client: Neo4jClient, options: Neo4jOptions) -> AsyncIterator[list[Neo4jGraphStore]]:  # noqa: ARG001 - the client empties the database
    stores = [await opened(options) for _ in range(2)]
    yield stores
    for store in stores:
        await store.close()


async def test_two_replicas_that_write_the_same_at_once_make_one_graph(replicas: list[Neo4jGraphStore]) -> None:
    rng = random.Random(2)
    changes = [random_mutation(rng, at_ms=at_ms) for at_ms in range(1, 600)]
    orders = [rng.sample(changes, len(changes)) for _ in replicas]

    async def write(store: Neo4jGraphStore, order: list[Mutation]) -> None:
        for start in range(0, len(order), 50):
            await store.apply(order[start : start + 50])

    await asyncio.gather(*(write(*pair) for pair in zip(replicas, orders, strict=True)))
    reference = MemoryGraphStore()
    await reference.apply(changes)
    everything = np.arange(1, 62)
    for mine, theirs in zip(
        await replicas[0].related(everything, RULE), await reference.related(everything, RULE), strict=True
    ):
        assert_same(mine, theirs)
    again = await replicas[1].apply(changes)
    assert (again.facts, again.nodes, again.new_edges) == ({}, frozenset(), {}), "all of it is there already"


async def test_what_another_replica_writes_is_seen_after_a_look(replicas: list[Neo4jGraphStore]) -> None:
    one, other = replicas
    item, its_user = np.array([1]), 7
    await one.apply([put(1), took(its_user, 1), took(its_user, 2)])
    before = (await other.related(item, RULE))[0].scores[0, 2]
    await one.apply([took(user, 2) for user in range(20, 40)])
    assert (await other.related(item, RULE))[0].scores[0, 2] == before, "how many users an item has is remembered"
    facts = await other.look_again(np.array([1]), np.array([2]))
    assert list(facts) == [1]
    assert (await other.related(item, RULE))[0].scores[0, 2] < before


async def test_a_query_that_takes_too_long_is_given_up_here_and_there(client: Neo4jClient) -> None:
    endless = "UNWIND range(1, 1000000000) AS number RETURN count(number)"

    async def work(transaction: Transaction) -> None:
        await transaction.execute(endless)

    with deadline_after(0.5), pytest.raises(DeadlineExceededError):
        await client.read(work)

    async def running(transaction: Transaction) -> list[str]:
        result = await transaction.raw.run("SHOW TRANSACTIONS YIELD currentQuery RETURN currentQuery")
        return [query for (query,) in await result.values()]

    async def is_gone() -> bool:
        return endless not in await client.read(running)

    give_up = monotonic() + 30.0
    while not await is_gone():
        assert monotonic() < give_up, "the server still works for nobody"


async def test_without_time_left_nothing_is_begun(client: Neo4jClient) -> None:
    with deadline_after(0.0), pytest.raises(DeadlineExceededError):
        await client.read(lambda transaction: transaction.run("ping"))


# --- what is wrong at the start ---


async def test_a_schema_that_is_behind_is_refused_and_then_migrated(client: Neo4jClient, options: Neo4jOptions) -> None:
    await client.write(lambda transaction: transaction.execute("MATCH (done:SchemaMigration) DELETE done"))
    with pytest.raises(StartupError, match="recommend migrate"):
        await opened(options)
    target = Neo4jMigrationTarget(client)
    assert await migrate(target, migrations()) == list(migrations())
    assert await migrate(target, migrations()) == []
    store = await opened(options)
    await store.close()


@pytest.mark.parametrize(
    ("change", "told"),
    [({"password": "wrong"}, "NEO4J_PASSWORD"), ({"database": "elsewhere"}, "NEO4J_DATABASE")],
)
async def test_bad_options_are_told_in_one_line(options: Neo4jOptions, change: dict[str, str], told: str) -> None:
    with pytest.raises(StartupError, match=told) as caught:
        await opened(replace(options, **change))  # type: ignore[arg-type]  # both are texts
    assert len(str(caught.value).splitlines()) == 1


async def test_a_server_that_is_not_there_is_waited_for() -> None:
    options = Neo4jOptions(f"bolt://127.0.0.1:{free_port()}", "neo4j", "any", connect_timeout_s=0.2)
    with pytest.raises(StartupError, match="GRAPH_STORE_URL"):
        await opened(options, patience_s=1.0)


@pytest.mark.parametrize("name", ["graph_service", "graph_service.migrate"])
async def test_the_process_ends_in_one_line(options: Neo4jOptions, tmp_path: Path, name: str) -> None:
    settings = {
        "DATA_DIR": str(tmp_path),
        "METRICS_PORT": "0",
        "GRPC_PORT": "0",
        "GRAPH_STORE_URL": options.url,
        "NEO4J_PASSWORD": "wrong",
        "OMP_NUM_THREADS": "1",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", name, env=os.environ | settings, stdout=DEVNULL, stderr=PIPE
    )
    _, told = await process.communicate()
    assert process.returncode == 2
    (line,) = told.decode().splitlines()
    assert "NEO4J_PASSWORD" in line


# --- a server that is hurt ---


@pytest.mark.usefixtures("client")
async def test_a_frozen_server_blocks_nobody_beyond_his_deadline(
    neo4j_server: Neo4jServer, options: Neo4jOptions
) -> None:
    store = await opened(options)
    await store.apply([put(1)])
    neo4j_server.pause()
    try:
        with deadline_after(0.5), pytest.raises(ServiceError):
            await store.facts(np.array([1]))
        with deadline_after(0.5), pytest.raises(ServiceError):
            await store.apply([put(2)])
    finally:
        neo4j_server.resume()
    assert list(await store.facts(np.array([1]))) == [1]
    await store.apply([put(2)])
    assert list(await store.facts(np.array([2]))) == [2]
    await store.close()


@pytest.mark.usefixtures("client")
async def test_killed_under_writes_nothing_acknowledged_is_lost_and_nothing_is_there_twice(
    neo4j_server: Neo4jServer, options: Neo4jOptions
) -> None:
    rng = random.Random(4)
    options = replace(options, write_timeout_s=20.0, connect_timeout_s=2.0)
    stores = [await opened(options) for _ in range(2)]
    acknowledged: list[Interaction] = []
    tried: list[Interaction] = []
    stop = asyncio.Event()
    enough = asyncio.Event()

    async def write(store: Neo4jGraphStore) -> None:
        while not stop.is_set():
            at_ms = rng.randrange(1_000, 9_000)
            batch = [took(rng.randrange(100, 200), rng.randrange(1_000, 1_050), at_ms) for _ in range(10)]
            tried.extend(batch)
            while True:  # as the consumer does: the same batch again, until it is done
                try:
                    await store.apply(batch)
                except (UnavailableError, DeadlineExceededError):
                    await asyncio.sleep(0.1)
                else:
                    break
            acknowledged.extend(batch)
            if len(acknowledged) > 300:
                enough.set()

    async with asyncio.TaskGroup() as writers:
        for store in stores:
            writers.create_task(write(store))
        await asyncio.wait_for(enough.wait(), 200.0)
        await asyncio.to_thread(neo4j_server.kill)
        await asyncio.to_thread(neo4j_server.start)
        enough.clear()
        await asyncio.wait_for(enough.wait(), 200.0)
        stop.set()
    assert len(acknowledged) == len(tried)

    reference = MemoryGraphStore()
    await reference.apply(acknowledged)
    items = np.arange(1_000, 1_050)
    fresh = await opened(options, patience_s=60.0)
    for mine, theirs in zip(await fresh.related(items, RULE), await reference.related(items, RULE), strict=True):
        assert_same(mine, theirs)
    for store in (fresh, *stores):
        await store.close()
