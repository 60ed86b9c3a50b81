"""Servers join and leave a Neo4j as its manual asks for, over a stand-in that refuses what Neo4j refuses."""

from collections.abc import Mapping
from typing import Any, cast

import neo4j
import pytest
from neo4j.exceptions import ClientError

from fleet_controller.adapters.neo4j_cluster import Neo4jCluster
from servicekit.errors import FailedPreconditionError, InvalidArgumentError


class Record:
    """One row."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self._row = dict(row)

    def data(self) -> dict[str, Any]:
        return self._row


class Result:
    """What a driver gives."""

    def __init__(self, *rows: Mapping[str, Any]) -> None:
        self.records = [Record(row) for row in rows]


class Cluster:
    """A driver whose servers change their states as the commands say; emptying one takes until `emptied`."""

    def __init__(self, **states: str) -> None:
        self.servers = {
            name.replace("_", "-"): {"state": state, "address": f"{name.replace('_', '-')}.neo4j-peers:7687"}
            for name, state in states.items()
        }
        self.secondaries = 2
        self.commands: list[str] = []

    def emptied(self) -> None:
        for server in self.servers.values():
            if server["state"] == "Deallocating":
                server["state"] = "Deallocated"

    async def execute_query(self, command: str, parameters: Mapping[str, Any], *, database_: str) -> Result:
        assert database_ == "system"
        if command.startswith("SHOW SERVERS"):
            return Result(*({"name": name, **server} for name, server in self.servers.items()))
        if command.startswith("SHOW DATABASE"):
            return Result({"primaries": 3, "secondaries": self.secondaries})
        name = parameters.get("name", "")
        self.commands.append(command.replace("$name", name))
        if command.startswith("ALTER DATABASE"):
            return Result()
        before, after = {
            "ENABLE": ({"Free", "Cordoned"}, "Enabled"),
            "DEALLOCATE": ({"Enabled", "Cordoned"}, "Deallocating"),
            "DROP": ({"Deallocated"}, "Dropped"),
        }[command.split(maxsplit=1)[0]]
        if self.servers[name]["state"] not in before:
            raise ClientError(f"cannot {command} a server that is {self.servers[name]['state']}")
        self.servers[name]["state"] = after
        return Result()


def graph(cluster: Cluster) -> Neo4jCluster:
    return Neo4jCluster(cast("neo4j.AsyncDriver", cluster), database="neo4j", replica_set="neo4j-replica")


async def test_a_server_is_dropped_only_when_it_is_empty() -> None:
    cluster = Cluster(neo4j_0="Enabled", neo4j_replica_0="Enabled", neo4j_replica_1="Enabled")
    members = graph(cluster)
    assert await members.leaving() == frozenset()
    assert not await members.release(1)
    assert cluster.commands == ["DEALLOCATE DATABASES FROM SERVERS neo4j-replica-1"]
    assert not await members.release(1)  # a later run, and it is not empty yet
    assert len(cluster.commands) == 1
    assert await members.leaving() == {1}
    cluster.emptied()
    assert await members.leaving() == {1}
    assert await members.release(1)
    assert cluster.commands[1:] == ["DROP SERVER neo4j-replica-1"]
    assert await members.leaving() == {1}
    assert await members.release(1)  # its process was not stopped: nothing is asked again
    assert len(cluster.commands) == 2


async def test_a_free_server_holds_nothing_and_may_stop() -> None:
    cluster = Cluster(neo4j_replica_0="Enabled", neo4j_replica_1="Free")
    assert await graph(cluster).release(1)
    assert cluster.commands == []


async def test_a_new_server_at_the_address_of_a_dropped_one_stays() -> None:
    cluster = Cluster(neo4j_replica_0="Enabled", neo4j_replica_1="Dropped")
    cluster.servers["another"] = {"state": "Enabled", "address": "neo4j-replica-1.neo4j-peers:7687"}
    assert await graph(cluster).leaving() == frozenset()


async def test_only_free_servers_are_enabled() -> None:
    cluster = Cluster(neo4j_0="Free", neo4j_replica_0="Deallocated", neo4j_replica_1="Deallocating")
    assert await graph(cluster).admit_new() == 1
    assert cluster.commands == ["ENABLE SERVER neo4j-0"]


@pytest.mark.parametrize(("count", "topology"), [(2, None), (3, "3 PRIMARIES 3 SECONDARIES"), (0, "3 PRIMARIES")])
async def test_the_topology_is_changed_when_it_is_another_one(count: int, topology: str | None) -> None:
    cluster = Cluster()
    await graph(cluster).set_secondaries(count)
    assert cluster.commands == ([] if topology is None else [f"ALTER DATABASE `neo4j` SET TOPOLOGY {topology} WAIT"])


async def test_what_neo4j_refuses_is_told() -> None:
    cluster = Cluster(neo4j_replica_0="Dropped")
    with pytest.raises(FailedPreconditionError, match="Neo4j"):
        await graph(cluster)._run("ENABLE SERVER $name", name="neo4j-replica-0")
    with pytest.raises(InvalidArgumentError, match="no name of a database"):
        Neo4jCluster(cast("neo4j.AsyncDriver", cluster), database="x`; DROP", replica_set="neo4j-replica")
