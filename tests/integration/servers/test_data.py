"""What a real server acknowledged is there after `kill -9` and a restart, and a stranger does not get in."""

from pathlib import Path

import pytest
from cassandra.cluster import Cluster
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic
from neo4j import GraphDatabase
from neo4j.exceptions import AuthError
from servers.fleet import start_cassandra, start_kafka, start_neo4j
from servers.server import HOST

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]  # two starts of a server on a busy machine


def test_kafka_keeps_its_records(tmp_path: Path) -> None:
    with start_kafka(tmp_path) as server:
        admin = KafkaAdminClient(bootstrap_servers=server.address)
        admin.create_topics([NewTopic("kept", 1, 1)])
        admin.close()
        producer = KafkaProducer(bootstrap_servers=server.address, acks="all")
        producer.send("kept", b"yes").get(timeout=30)
        producer.close()

        server.kill()
        assert not server.answers()
        server.restart()

        consumer = KafkaConsumer("kept", bootstrap_servers=server.address, auto_offset_reset="earliest")
        (records,) = consumer.poll(timeout_ms=30_000).values()
        consumer.close()
        assert [record.value for record in records] == [b"yes"]


def test_cassandra_keeps_its_rows(tmp_path: Path) -> None:
    def ask(port: int, *statements: str) -> list[tuple[object, ...]]:
        with Cluster([HOST], port=port, protocol_version=5) as cluster:
            session = cluster.connect()
            answers = [list(session.execute(statement, timeout=30)) for statement in statements]
        return [tuple(row) for row in answers[-1]]

    with start_cassandra(tmp_path) as server:
        ask(
            server.port,
            "CREATE KEYSPACE k WITH replication = {'class': 'NetworkTopologyStrategy', 'datacenter1': 1}",
            "CREATE TABLE k.kept (name text PRIMARY KEY, value int)",
            "INSERT INTO k.kept (name, value) VALUES ('a', 1)",
        )
        server.kill()
        assert not server.answers()
        server.restart()
        assert ask(server.port, "SELECT name, value FROM k.kept") == [("a", 1)]


def test_neo4j_keeps_its_nodes_and_its_password(tmp_path: Path) -> None:
    def ask(address: str, password: str, query: str) -> list[list[object]]:
        with GraphDatabase.driver(address, auth=("neo4j", password)) as driver:
            return [record.values() for record in driver.execute_query(query).records]

    with start_neo4j(tmp_path) as server:
        password = server.password
        ask(server.address, password, "CREATE (:Kept {name: 'a'})")
        with pytest.raises(AuthError):
            ask(server.address, "wrong", "RETURN 1")

        server.kill()
        assert not server.answers()
        server.restart()

        assert server.password == password
        assert ask(server.address, password, "MATCH (n:Kept) RETURN n.name") == [["a"]]
