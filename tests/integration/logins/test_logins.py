"""A service that may not enter a store ends at start with code 2 and one line; with the right login it comes in."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from servers.addresses import Addresses
from servers.cassandra_server import USER as CASSANDRA_USER
from servers.fleet import start_cassandra, start_kafka
from servers.kafka_server import USER as KAFKA_USER

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

KEYSPACE = "absent"


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Settings of a log that wants a login, but for the password, which is `right`."""
    with start_kafka(tmp_path_factory.mktemp("kafka"), password="right") as server:  # noqa: S106 - nobody's
        yield {
            "EVENT_LOG_URL": f"kafka://{server.address}",
            "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "KAFKA_SASL_MECHANISM": "PLAIN",
            "KAFKA_USERNAME": KAFKA_USER,
        }


@pytest.fixture(scope="module")
def cql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Settings of a profile store that wants a login, but for the password, which is the user's name."""
    with start_cassandra(tmp_path_factory.mktemp("cassandra"), guarded=True) as server:
        yield {"PROFILE_STORE_URL": f"cql://{server.address}/{KEYSPACE}", "SCYLLADB_USERNAME": CASSANDRA_USER}


def end_of(service: str, settings: Mapping[str, str], folder: Path) -> tuple[int, str]:
    """Start a service that is expected to end by itself, and give its code and what it said on standard error."""
    environment = {"PATH": os.environ["PATH"], "DATA_DIR": str(folder), "METRICS_PORT": "0", "LOG_LEVEL": "ERROR"}
    done = subprocess.run(
        [sys.executable, "-m", service],
        env={**environment, **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stderr


def assert_told_in_one_line(ended: tuple[int, str], setting: str) -> None:
    code, said = ended
    assert code == 2, said
    assert said.count("\n") == 1, said
    assert setting in said


def test_a_wrong_password_of_kafka(kafka: dict[str, str], tmp_path: Path) -> None:
    ended = end_of("profile_store", {**kafka, "KAFKA_PASSWORD": "wrong", "STORE_WAIT_S": "5"}, tmp_path)
    assert_told_in_one_line(ended, "KAFKA_PASSWORD")


def test_kafka_without_a_login_where_one_is_wanted(kafka: dict[str, str], tmp_path: Path) -> None:
    ended = end_of("profile_store", {"EVENT_LOG_URL": kafka["EVENT_LOG_URL"], "STORE_WAIT_S": "5"}, tmp_path)
    assert_told_in_one_line(ended, "KAFKA_SECURITY_PROTOCOL")


def test_a_wrong_password_of_the_cql_cluster(cql: dict[str, str], tmp_path: Path) -> None:
    ended = end_of("profile_store", {**cql, "SCYLLADB_PASSWORD": "wrong"}, tmp_path)
    assert_told_in_one_line(ended, "SCYLLADB_PASSWORD")


def test_the_right_password_of_the_cql_cluster_leads_to_the_next_question(cql: dict[str, str], tmp_path: Path) -> None:
    ended = end_of("profile_store", {**cql, "SCYLLADB_PASSWORD": CASSANDRA_USER}, tmp_path)
    assert_told_in_one_line(ended, KEYSPACE)


def test_a_wrong_password_of_neo4j(servers: Addresses, tmp_path: Path) -> None:
    settings = {"GRAPH_STORE_URL": servers.neo4j, "NEO4J_USERNAME": servers.neo4j_user, "NEO4J_PASSWORD": "wrong"}
    assert_told_in_one_line(end_of("graph_service", settings, tmp_path), "NEO4J_PASSWORD")
