"""The controllers over stand-ins of the servers that they ask: a dry run changes nothing."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from fleet_controller.__main__ import main
from fleet_controller.adapters.kubernetes import CHANGED_AT, StatefulSetReplicas, account_of
from fleet_controller.adapters.prometheus import PrometheusMeasurements
from fleet_controller.adapters.qdrant_cluster import QdrantCluster
from fleet_controller.application.control import control_replicas, control_shards
from fleet_controller.domain.replicas import ReplicaRule
from servicekit.clock import SystemClock
from servicekit.errors import FailedPreconditionError, StartupError, UnavailableError


class Server:
    """Answers requests from a table, and remembers those that change something."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.changes: list[tuple[str, str, Any]] = []

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url="http://server", transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if request.method != "GET":
            self.changes.append((request.method, request.url.path, json.loads(request.content)))
            return httpx.Response(200, json={"result": True})
        found = self.answers.get(request.url.path)
        return httpx.Response(404, text="no such thing") if found is None else httpx.Response(200, json=found)


class Members:
    """A GraphCluster that only notes what it is told."""

    def __init__(self, *, free: int = 0, leaving: frozenset[int] = frozenset(), empty: bool = True) -> None:
        self.told: list[str] = []
        self._free = free
        self._leaving = leaving
        self._empty = empty

    async def admit_new(self) -> int:
        self.told.append("admit")
        return self._free

    async def set_secondaries(self, count: int) -> None:
        self.told.append(f"secondaries {count}")

    async def leaving(self) -> frozenset[int]:
        return self._leaving

    async def release(self, count: int) -> bool:
        self.told.append(f"release to {count}")
        return self._empty


def prometheus(*values: str) -> Server:
    return Server({"/api/v1/query": {"data": {"result": [{"value": [0, value]} for value in values]}}})


def stateful_set(replicas: int, ready: int) -> Server:
    path = "/apis/apps/v1/namespaces/recommendation/statefulsets/neo4j-replica"
    return Server({path: {"metadata": {}, "spec": {"replicas": replicas}, "status": {"readyReplicas": ready}}})


async def control(measured: Server, kubernetes: Server, members: Members, *, dry_run: bool = False) -> list[str]:
    lines: list[str] = []
    async with measured.client() as asked, kubernetes.client() as api:
        await control_replicas(
            measurements=PrometheusMeasurements(asked),
            replica_set=StatefulSetReplicas(api, namespace="recommendation", name="neo4j-replica", clock=SystemClock()),
            graph=members,
            query="query_latency_p99",
            rule=ReplicaRule(),
            dry_run=dry_run,
            tell=lines.append,
        )
    return lines


async def test_slow_reads_bring_more_replicas() -> None:
    kubernetes, members = stateful_set(2, 2), Members()
    (line,) = await control(prometheus("12.5", "NaN", "4"), kubernetes, members)
    assert line == "2 read replicas, 2 ready; are to be 4: p99 is 12.5 ms, above 10 ms"
    ((method, _, body),) = kubernetes.changes
    assert (method, body["spec"]) == ("PATCH", {"replicas": 4})
    assert int(body["metadata"]["annotations"][CHANGED_AT]) > 1_700_000_000_000
    assert members.told == ["admit", "secondaries 2"]


async def test_quick_reads_empty_a_replica_before_it_stops() -> None:
    kubernetes, members = stateful_set(4, 4), Members()
    await control(prometheus("1.0"), kubernetes, members)
    assert members.told == ["secondaries 3", "release to 3"]
    assert kubernetes.changes[0][2]["spec"] == {"replicas": 3}


async def test_a_replica_stops_only_when_it_is_empty() -> None:
    kubernetes, members = stateful_set(4, 4), Members(empty=False)
    lines = await control(prometheus("1.0"), kubernetes, members)
    assert members.told == ["secondaries 3", "release to 3"]
    assert kubernetes.changes == []
    assert lines[-1] == "waiting until all from number 3 on are empty"


@pytest.mark.parametrize("latency", ["5", "12.5"])
async def test_a_replica_that_has_begun_to_leave_goes_whatever_the_latency_says(latency: str) -> None:
    kubernetes, members = stateful_set(4, 4), Members(leaving=frozenset({3}))
    await control(prometheus(latency), kubernetes, members)
    assert members.told == ["secondaries 3", "release to 3"]
    assert kubernetes.changes[0][2]["spec"] == {"replicas": 3}


async def test_one_that_leaves_in_the_middle_takes_nobody_with_it() -> None:
    kubernetes, members = stateful_set(4, 4), Members(leaving=frozenset({1}))
    await control(prometheus("5"), kubernetes, members)
    assert (kubernetes.changes, members.told) == ([], ["admit", "secondaries 4"])


async def test_a_replica_that_has_started_is_let_in() -> None:
    kubernetes, members = stateful_set(4, 4), Members(free=2)
    lines = await control(prometheus("5"), kubernetes, members)
    assert lines[-1] == "2 new servers were let in"
    assert members.told == ["admit", "secondaries 4"]
    assert kubernetes.changes == []


async def test_a_dry_run_only_tells() -> None:
    kubernetes, members = stateful_set(2, 2), Members()
    (line,) = await control(prometheus("12.5"), kubernetes, members, dry_run=True)
    assert "would be 4" in line
    assert (kubernetes.changes, members.told) == ([], [])


QDRANT = {
    "/cluster": {"result": {"peers": {"1": {}, "2": {}, "3": {}}}},
    "/collections": {"result": {"collections": [{"name": "content"}]}},
    "/collections/content/cluster": {
        "result": {
            "peer_id": 1,
            "local_shards": [{"shard_id": shard, "state": "Active"} for shard in range(4)],
            "remote_shards": [{"shard_id": 4, "state": "Active", "peer_id": 2}],
            "shard_transfers": [],
        }
    },
}


@pytest.mark.parametrize("dry_run", [True, False])
async def test_shards_are_moved(dry_run: bool) -> None:
    server = Server(QDRANT)
    lines: list[str] = []
    async with server.client() as client:
        await control_shards(cluster=QdrantCluster(client), threshold=0.2, most=1, dry_run=dry_run, tell=lines.append)
    assert lines[0] == "the fullest peer has 140% more than the mean, over 20%"
    assert lines[1] == f"{'would move' if dry_run else 'moving'} shard 0 of content from peer 1 to 3"
    operation = {"move_shard": {"shard_id": 0, "from_peer_id": 1, "to_peer_id": 3}}
    assert server.changes == ([] if dry_run else [("POST", "/collections/content/cluster", operation)])


async def test_what_servers_say_is_told() -> None:
    async with Server({}).client() as client:
        with pytest.raises(FailedPreconditionError, match="refused GET /cluster: 404 no such thing"):
            await QdrantCluster(client).state()

    def fail(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("nobody there")

    async with httpx.AsyncClient(base_url="http://server", transport=httpx.MockTransport(fail)) as client:
        with pytest.raises(UnavailableError, match="did not answer"):
            await PrometheusMeasurements(client).value("x")


def test_it_needs_the_account_of_a_pod(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="token cannot be read"):
        account_of(tmp_path)
    (tmp_path / "token").write_text("t\n")
    (tmp_path / "namespace").write_text("recommendation")
    assert account_of(tmp_path) == ("t", "recommendation", tmp_path / "ca.crt")


def test_the_command_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("QDRANT_REST_URL", "http://127.0.0.1:9")
    assert main(["qdrant", "--dry-run"]) == 1
    assert "http://127.0.0.1:9 did not answer GET /cluster" in capsys.readouterr().err
    monkeypatch.setenv("KUBERNETES_ACCOUNT_DIR", "/nowhere")
    assert main(["neo4j", "--dry-run"]) == 2
    assert "runs in a pod" in capsys.readouterr().err
