"""Migrations, and what a start says when something is wrong: one line, exit code 2."""

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
from contract.profile_store.profile_store_contract import a_deed, an_item, context_of, key, popular, tenant_of
from contract.servicekit.migration_target_contract import MigrationTargetContract
from integration.profile_store.cql_stores import open_cql
from pydantic import SecretStr
from servers.cassandra_server import USER, CassandraServer
from servers.fleet import start_cassandra

from profile_store.adapters.cql.connection import CqlAddress, CqlConnection, CqlOptions
from profile_store.adapters.cql.migration_target import CqlMigrationTarget, schema
from profile_store.adapters.cql.store import CqlProfileStore
from profile_store.bootstrap import open_migration_target
from profile_store.domain.interactions import Interaction
from profile_store.domain.popularity import Window
from profile_store.settings import ProfileStoreSettings
from servicekit.errors import DeadlineExceededError, ResourceExhaustedError, StartupError, UnavailableError
from servicekit.migrations import migrate, parse_migrations
from servicekit.testing import eventually, free_port

pytestmark = pytest.mark.integration

TEXT = """
-- migration 0001 expand: one
CREATE TABLE IF NOT EXISTS one (a int PRIMARY KEY);
-- migration 0002 expand: a column
ALTER TABLE one ADD IF NOT EXISTS b int;
-- migration 0003 contract: the column goes
ALTER TABLE one DROP IF EXISTS b;
"""


@pytest.fixture
def new_url(cassandra: str, keyspaces: list[str]) -> str:
    name = f"profiles_{uuid.uuid4().hex[:12]}"
    keyspaces.append(name)
    return f"cql://{cassandra}/{name}"


class TestCqlMigrationTarget(MigrationTargetContract):
    adapter: ClassVar = "cql"
    text, comment = TEXT, "--"

    @pytest.fixture
    async def target(self, new_url: str) -> AsyncIterator[CqlMigrationTarget]:
        async with await CqlConnection.open(CqlAddress.parse(new_url), CqlOptions(wait_s=5.0)) as connection:
            yield CqlMigrationTarget(connection, scylla=False, replication_factor=1)


def environment(url: str, **settings: str) -> dict[str, str]:
    return {
        **os.environ,
        "PROFILE_STORE_URL": url,
        "CQL_REPLICATION_FACTOR": "1",
        "LOG_LEVEL": "ERROR",
        "GRPC_PORT": "0",
        "AGENTDB_PORT": "0",
        "METRICS_PORT": "0",
        "STORE_WAIT_S": "1",
        **settings,
    }


def started(url: str, folder: Path, **settings: str) -> tuple[int, str]:
    """Start the service and give how it ended and what it said."""
    ended = subprocess.run(
        [sys.executable, "-m", "profile_store"],
        env=environment(url, DATA_DIR=str(folder), **settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stderr


async def test_of_runs_at_once_one_migrates_and_a_killed_one_is_finished(new_url: str) -> None:
    command = [sys.executable, "-m", "profile_store.migrate"]
    settings = ProfileStoreSettings(profile_store_url=new_url, cql_replication_factor=1)

    async def tables() -> int:
        async with open_migration_target(settings) as target:
            assert isinstance(target, CqlMigrationTarget)
            rows = await target._run(
                "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s",
                new_url.rpartition("/")[2],
                in_keyspace=False,
            )
        return len(rows)

    async def has_begun() -> bool:
        return await tables() >= 4

    killed = await asyncio.create_subprocess_exec(*command, env=environment(new_url))
    await eventually(has_begun, timeout_s=60.0)
    killed.kill()
    await killed.wait()
    # What the killed one held is free again after its time; here two minutes are too long to wait.
    async with open_migration_target(settings) as target:
        assert isinstance(target, CqlMigrationTarget)
        assert await target.applied() == {}
        await target._run("TRUNCATE schema_lock")
    with pytest.raises(StartupError, match="is behind"):
        await open_cql(new_url)
    runs = [
        await asyncio.create_subprocess_exec(*command, env=environment(new_url), stdout=asyncio.subprocess.PIPE)
        for _ in range(2)
    ]
    said = sorted([(await run.communicate())[0].decode() for run in runs], key=len)
    assert "nothing to expand" in said[0]
    assert said[1].count("applied") == len(schema())
    async with await open_cql(new_url) as store:
        tenant_of.renew()
        assert await store.append([a_deed("a")]) == [True]


async def test_a_service_works_on_the_schema_of_a_newer_one(new_url: str) -> None:
    newer = """
-- migration 9999 expand: what the next version needs
ALTER TABLE interactions ADD IF NOT EXISTS place text;
CREATE TABLE IF NOT EXISTS places (place text PRIMARY KEY);
"""
    settings = ProfileStoreSettings(profile_store_url=new_url, cql_replication_factor=1)
    async with open_migration_target(settings) as target:
        await migrate(target, schema())
        async with await open_cql(new_url) as running:
            tenant_of.renew()
            assert await running.append([a_deed("a")]) == [True]
            await migrate(target, [*schema(), *parse_migrations(newer, comment="--")])
            assert await running.append([a_deed("b")]) == [True]
            async with await open_cql(new_url) as started_later:
                assert await started_later.append([a_deed("c")]) == [True]
                assert (await context_of(started_later)).interaction_count == 3
                assert (await context_of(running)).interaction_count == 3


@pytest.mark.parametrize(
    ("change", "settings", "said"),
    [
        (lambda url: url, {"CQL_DATACENTER": "moon"}, "CQL_DATACENTER is 'moon' and the cluster has datacenter1"),
        (lambda url: f"{url}_no", {}, "which does not exist: run `recommend migrate`"),
        (lambda url: url.replace("cql:", "http:"), {}, "give cql://host:port"),
        (lambda _: f"cql://127.0.0.1:{free_port()}/shop", {}, "within 1 s: start the cluster or correct the address"),
        (lambda _: "cql://nowhere.invalid:9042/shop", {}, "within 1 s: start the cluster or correct the address"),
    ],
    ids=["datacenter", "keyspace", "address", "nobody there", "no such host"],
)
def test_what_is_wrong_is_said_in_one_line(
    keyspace_url: str, tmp_path: Path, change: Callable[[str], str], settings: dict[str, str], said: str
) -> None:
    code, told = started(change(keyspace_url), tmp_path, **settings)
    assert code == 2
    assert said in told
    assert told.count("\n") == 1


def test_a_schema_that_is_behind_is_said_in_one_line(new_url: str, tmp_path: Path) -> None:
    async def make_the_keyspace_alone() -> None:
        settings = ProfileStoreSettings(profile_store_url=new_url, cql_replication_factor=1)
        async with open_migration_target(settings) as target:
            await target.lock("test", 60.0)

    asyncio.run(make_the_keyspace_alone())
    code, told = started(new_url, tmp_path)
    assert code == 2
    assert "lacks migration 0001 expand: all tables: run `recommend migrate`" in told
    assert told.count("\n") == 1


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CassandraServer]:
    """A server of its own, which wants a login and may be killed."""
    with start_cassandra(tmp_path_factory.mktemp("cassandra"), guarded=True) as server:
        yield server


async def test_a_wrong_password_is_said_in_one_line(guarded: CassandraServer, tmp_path: Path) -> None:
    url = f"cql://{guarded.address}/shop"
    code, told = await asyncio.to_thread(
        started, url, tmp_path, SCYLLADB_USERNAME=USER, SCYLLADB_PASSWORD=f"not {USER}"
    )
    assert code == 2
    assert "correct SCYLLADB_USERNAME and SCYLLADB_PASSWORD" in told
    assert told.count("\n") == 1
    code, told = await asyncio.to_thread(started, url, tmp_path)
    assert code == 2
    assert "SCYLLADB_USERNAME" in told


@pytest.mark.timeout(400)  # the server starts twice
async def test_nothing_acknowledged_is_lost_when_the_server_is_killed(guarded: CassandraServer) -> None:
    """Two replicas write while the server is killed and started again."""
    settings = ProfileStoreSettings(
        profile_store_url=f"cql://{guarded.address}/shop",
        cql_replication_factor=1,
        scylladb_username=USER,
        scylladb_password=SecretStr(USER),
    )
    async with open_migration_target(settings) as target:
        await migrate(target, schema())
    tenant_of.renew()
    options = CqlOptions(username=USER, password=USER, wait_s=30.0, timeout_s=30.0)
    async with (
        await open_cql(settings.profile_store_url, options=options) as one,
        await open_cql(settings.profile_store_url, options=options) as two,
    ):
        await keep_writing_through_kills(guarded, one, two)


async def keep_writing_through_kills(server: CassandraServer, one: CqlProfileStore, two: CqlProfileStore) -> None:
    acknowledged: set[str] = set()
    tried: dict[str, Interaction] = {}
    stop = asyncio.Event()
    await one.put_items([an_item("a")])

    async def write(store: CqlProfileStore, user_id: str) -> None:
        while not stop.is_set():
            deeds = [a_deed("a", user_id=user_id) for _ in range(5)]
            tried.update({deed.event_id: deed for deed in deeds})
            try:
                await store.append(deeds)
            except (UnavailableError, DeadlineExceededError, ResourceExhaustedError):
                await asyncio.sleep(0.2)  # refused at once while the server is away
            else:
                acknowledged.update(deed.event_id for deed in deeds)

    writing = [asyncio.create_task(write(store, f"u{n}")) for n, store in enumerate((one, two, one, two))]
    await eventually(lambda: len(acknowledged) > 200, timeout_s=60.0)
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)
    before = len(acknowledged)
    await eventually(lambda: len(acknowledged) > before + 50, timeout_s=120.0)
    stop.set()
    await asyncio.gather(*writing)

    for store in (one, two):
        assert acknowledged <= await eventually(partial(stored_now, store), timeout_s=60.0)
    # Whoever was not answered sends it again; then all of it is there, once.
    for user in range(4):
        of_user = [deed for deed in tried.values() if deed.user_id == f"u{user}"]
        for start in range(0, len(of_user), 100):
            await two.append(of_user[start : start + 100])
    assert await stored_events(one) == set(tried)
    counts = [(await context_of(one, f"u{user}")).interaction_count for user in range(4)]
    assert sum(counts) == len(tried)
    for store in (one, two):
        assert await popular(store, Window.ALL) == {key("a"): float(len(tried))}


async def stored_now(store: CqlProfileStore) -> set[str]:
    """Give what is stored, nothing while the store's connections are not back yet."""
    try:
        return await stored_events(store)
    except UnavailableError:
        return set()


async def stored_events(store: CqlProfileStore) -> set[str]:
    found: set[str] = set()
    for user in range(4):
        listed = await store.list_interactions(tenant_of(), f"u{user}", newest_first=True, after=None, limit=1_000_000)
        found |= {each.interaction.event_id for each in listed}
    return found
