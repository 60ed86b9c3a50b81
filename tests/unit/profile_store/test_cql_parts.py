"""The parts of the store on CQL that need no server."""

import inspect
import io
import struct
import subprocess
import sys
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any

import cassandra
import cassandra.cluster
import cassandra.connection
import cassandra.pool
import cassandra.protocol
import cassandra.query
import numpy as np
import pytest
from cassandra.cqltypes import DoubleType, Int32Type, LongType, UTF8Type
from cassandra.policies import RetryPolicy

from profile_store.adapters.cql import policies
from profile_store.adapters.cql.agent_policies import policy_shard
from profile_store.adapters.cql.agent_records import RECORD_BUCKET_MS, record_bucket
from profile_store.adapters.cql.columns import _ColumnsResult
from profile_store.adapters.cql.connection import CqlAddress, _prepared
from profile_store.adapters.cql.errors import ERRORS, translated
from profile_store.adapters.cql.feed import SLOT_MS, event_key, first_arrival, slot_of
from profile_store.adapters.cql.histories import BUCKET_MS, USER_SHARDS, bucket_of, shard_of
from profile_store.adapters.cql.items import name_shard
from profile_store.adapters.cql.migration_target import schema
from profile_store.adapters.cql.session import batches
from profile_store.adapters.cql.store import STATEMENTS
from profile_store.adapters.cql.types import type_key
from profile_store.domain.items import ItemRef
from servicekit.errors import DeadlineExceededError, InternalError, ServiceError, StartupError, UnavailableError

MODULES = (
    cassandra,
    cassandra.cluster,
    cassandra.connection,
    cassandra.pool,
    cassandra.protocol,
    cassandra.query,
)
NEVER_RAISED_TO_US = {
    "DependencyException",  # at import
    "TraceUnavailable",  # we do not trace
    "UserTypeDoesNotExist",  # we have no user types
}


def exception_classes(module: ModuleType) -> list[type[Exception]]:
    return [
        kind
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, Exception) and kind.__module__.startswith("cassandra")
    ]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_exception_of_the_driver_is_in_the_table(module: ModuleType) -> None:
    for kind in exception_classes(module):
        is_in_table = issubclass(kind, tuple(theirs for theirs, _ in ERRORS))
        assert is_in_table == (kind.__name__ not in NEVER_RAISED_TO_US), kind


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (cassandra.OperationTimedOut(), DeadlineExceededError),
        (cassandra.ReadTimeout("slow", consistency=6, required_responses=2, received_responses=1), UnavailableError),
        (cassandra.WriteTimeout("slow", write_type=0), UnavailableError),
        (cassandra.Unavailable("few", consistency=6, required_replicas=2, alive_replicas=1), UnavailableError),
        (cassandra.cluster.NoHostAvailable("none", {}), UnavailableError),
        (cassandra.connection.ConnectionShutdown("gone"), UnavailableError),
        (cassandra.protocol.OverloadedErrorMessage(0x1001, "busy", None), UnavailableError),
        (cassandra.InvalidRequest("what?"), InternalError),
        (cassandra.Unauthorized("no"), InternalError),
        (cassandra.AuthenticationFailed("who?"), InternalError),
    ],
)
def test_what_becomes_of_an_error(theirs: Exception, ours: type[ServiceError]) -> None:
    told = translated(theirs)
    assert type(told) is ours
    assert told.__cause__ is theirs
    assert "\n" not in str(told)


def test_other_errors_stay_as_they_are() -> None:
    bug = KeyError("x")
    assert translated(bug) is bug


@pytest.mark.parametrize("method", ["on_read_timeout", "on_write_timeout", "on_unavailable", "on_request_error"])
def test_a_statement_is_tried_once_more_when_it_may_be(method: str) -> None:
    class Query:
        is_idempotent = True

    query, policy = Query(), policies.OneMoreTryPolicy()
    assert getattr(policy, method)(query, 6, "x", retry_num=0)[0] in {
        RetryPolicy.RETRY,
        RetryPolicy.RETRY_NEXT_HOST,
    }
    assert getattr(policy, method)(query, 6, "x", retry_num=1)[0] == RetryPolicy.RETHROW
    query.is_idempotent = False
    assert getattr(policy, method)(query, 6, "x", retry_num=0)[0] == RetryPolicy.RETHROW


def test_reads_are_hedged_and_all_is_asked_of_a_local_quorum() -> None:
    profiles = policies.execution_profiles(datacenter="east", timeout_s=2.0, speculative_delay_s=0.05)
    assert {profile.consistency_level for profile in profiles.values()} == {cassandra.ConsistencyLevel.LOCAL_QUORUM}
    delays = {
        name: profile.speculative_execution_policy.new_plan(None, None).next_execution(None)
        for name, profile in profiles.items()
    }
    assert delays[policies.READ] == 0.05
    assert delays[policies.WRITE] == delays[policies.CONDITIONAL] == -1
    without = policies.execution_profiles(datacenter="", timeout_s=2.0, speculative_delay_s=0.0)[policies.READ]
    assert without.speculative_execution_policy.new_plan(None, None).next_execution(None) == -1


def test_clauses_of_scylla_are_for_scylla() -> None:
    scans = [statement for statement in STATEMENTS if statement.kind == "scan"]
    assert scans
    for statement in STATEMENTS:
        assert statement.text("shop", scylla=False).replace("shop.", "") == statement.cql
        assert statement.text("shop", scylla=False).count(" shop.") == 1
        assert statement.text("shop", scylla=True).endswith("BYPASS CACHE USING TIMEOUT 30s") == (statement in scans)
        assert "ALLOW FILTERING" not in statement.cql


def test_only_conditional_statements_are_never_repeated() -> None:
    class Session:
        def prepare(self, _: str) -> SimpleNamespace:
            return SimpleNamespace(is_idempotent=None)

    for statement in STATEMENTS:
        is_conditional = " IF " in statement.cql
        assert (statement.kind == "conditional") == is_conditional
        assert ("FROM policies" in statement.cql or "INTO policies" in statement.cql) <= (
            is_conditional or statement.kind == "read"
        )
        assert _prepared(Session(), statement, statement.cql).is_idempotent == (not is_conditional)


def test_the_schema_is_one_that_can_be_run_again() -> None:
    for migration in schema():
        for statement in migration.statements:
            assert " IF NOT EXISTS " in statement or " IF EXISTS " in statement


@pytest.mark.parametrize(
    ("url", "hosts", "port"),
    [
        ("cql://db:9043/shop", ("db",), 9043),
        ("cql://a:1,b:1,c:1/shop", ("a", "b", "c"), 1),
        ("cql://a,b/shop", ("a", "b"), 9042),
        ("cql://[::1]:19/shop", ("::1",), 19),
    ],
)
def test_an_address_is_read(url: str, hosts: tuple[str, ...], port: int) -> None:
    assert CqlAddress.parse(url) == CqlAddress(hosts, port, "shop")


@pytest.mark.parametrize(
    "url", ["cql://db", "cql:///shop", "http://db/shop", "cql://a:1,b:2/shop", "cql://db/Shop", "cql://db/a-b", "db"]
)
def test_an_address_that_is_none_is_told(url: str) -> None:
    with pytest.raises(StartupError, match="cql://host:port"):
        CqlAddress.parse(url)


def test_numbers_that_stored_data_depends_on() -> None:
    assert type_key("view") == 3455179903801647660
    assert event_key("e", 1) == 5067085145683876692
    assert name_shard(ItemRef("t", "film", "dune")) == 2
    assert policy_shard("ann") == 35
    assert record_bucket(RECORD_BUCKET_MS - 1) == 0
    assert record_bucket(RECORD_BUCKET_MS) == 1
    assert bucket_of(BUCKET_MS - 1) == 0
    assert bucket_of(BUCKET_MS) == 1
    assert shard_of(0) == 0
    assert shard_of((1 << 63) - 1) == USER_SHARDS - 1
    assert slot_of(first_arrival(SLOT_MS * 7)) == 7
    assert slot_of(first_arrival(SLOT_MS * 7) - 1) == 6


class Result(_ColumnsResult):
    """A result whose metadata is said by the test."""

    def __init__(self, metadata: list[tuple[str, str, str, Any]]) -> None:
        self.column_metadata = metadata

    def recv_results_metadata(self, f: object, user_type_map: object) -> None:
        pass


def test_columns_are_read_as_arrays() -> None:
    random = Random(1)
    rows = [(random.randrange(2**63), random.random(), random.randrange(-5, 5)) for _ in range(100)]
    body = struct.pack(">i", len(rows))
    for key, value, kind in rows:
        body += struct.pack(">iqidii", 8, key, 8, value, 4, kind)
    result = Result([("k", "t", "key", LongType), ("k", "t", "value", DoubleType), ("k", "t", "kind", Int32Type)])
    result.recv_results_rows(io.BytesIO(body), 4, {}, None, None)
    assert list(zip(*(result.parsed_rows[name].tolist() for name in ("key", "value", "kind")), strict=True)) == rows
    assert result.parsed_rows["key"].dtype == np.int64
    assert result.parsed_rows["key"].flags.writeable


def test_columns_of_no_rows_are_empty() -> None:
    result = Result([("k", "t", "key", LongType)])
    result.recv_results_rows(io.BytesIO(struct.pack(">i", 0)), 4, {}, None, None)
    assert result.parsed_rows["key"].tolist() == []


def test_a_null_among_columns_is_no_number() -> None:
    result = Result([("k", "t", "key", LongType)])
    body = struct.pack(">iiqi", 2, 8, 5, -1) + bytes(8)
    with pytest.raises(ValueError, match="nulls"):
        result.recv_results_rows(io.BytesIO(body), 4, {}, None, None)
    text = Result([("k", "t", "name", UTF8Type)])
    with pytest.raises(KeyError):
        text.recv_results_rows(io.BytesIO(struct.pack(">i", 0)), 4, {}, None, None)


def test_the_embedded_store_needs_no_driver() -> None:
    program = "import sys, profile_store.__main__; sys.exit('cassandra' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_long_rows_travel_in_smaller_batches() -> None:
    short = [("a", 1)] * 25
    assert [len(each) for each in batches(short, 10)] == [10, 10, 5]
    long = [("x" * 1_300, 1)] * 5
    assert [len(each) for each in batches(long, 10)] == [2, 2, 1]
    mixed = [("a",), ("x" * 250_000,), (b"b",), ("c",)]
    assert [list(each) for each in batches(mixed, 10)] == [mixed[:1], mixed[1:2], mixed[2:]]
    assert list(batches([], 10)) == []
