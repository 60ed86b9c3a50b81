"""A store that is slow or away for a moment costs an activation time; the requests of users do not wait for it."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from contract.vector_search.qdrant_support import memory_store
from qdrant_client import AsyncQdrantClient

from servicekit.deadline import deadline_after
from servicekit.errors import CircuitOpenError, UnavailableError
from servicekit.eventlog.memory import MemoryEventLog
from servicekit.metrics import CIRCUIT_OPENED
from servicekit.testing import eventually
from vector_search.adapters import qdrant_connection
from vector_search.adapters.qdrant_connection import QdrantConnection
from vector_search.application import versions
from vector_search.domain.patience import patience_s, patient
from vector_search.testing import COUNT, V1, V2, Replica, draft, film, key, running, vectors

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect", "ignore:Local mode performs exact")
STATUSES = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)


class FailingClient:
    """A client in memory whose calls fail as `fails` says of a method's name and the number of the call."""

    def __init__(self) -> None:
        self._client = AsyncQdrantClient(":memory:")
        self.asked: Counter[str] = Counter()
        self.fails: Callable[[str, int], bool] = lambda _name, _number: False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.asked[name] += 1
            if name != "close" and self.fails(name, self.asked[name]):
                status = STATUSES[self.asked[name] % 2]
                raise grpc.aio.AioRpcError(status, grpc.aio.Metadata(), grpc.aio.Metadata(), details="slow")
            return await method(*args, **kwargs)

        return call


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdrant_connection, "_FIRST_PAUSE_S", 0.01)


@pytest.fixture
def client() -> FailingClient:
    return FailingClient()


@pytest.fixture
def connection(client: FailingClient) -> QdrantConnection:
    return QdrantConnection(client, timeout_s=5.0)  # type: ignore[arg-type]  # as far as it is used


@pytest.fixture
async def replica(tmp_path: Path, log: MemoryEventLog, client: FailingClient) -> AsyncIterator[Replica]:
    """A service with an active version, and beside it one whose encoder's vectors nobody has stored."""
    draft().write(tmp_path / "models", active=True)
    store = memory_store(client)  # type: ignore[arg-type]  # as far as it is used
    async with running(Replica(tmp_path / "models", log, store)) as each:
        await each.upsert([film(number) for number in range(COUNT)], vectors())
        draft(V2, vectors=vectors()[:, :8], encoder="bigger").write(each.models)
        yield each
    await store.close()


async def serving(replica: Replica) -> str:
    *_, result = await replica.candidates([key("f1")])
    return str(result.model_version)


async def test_an_activation_outlasts_calls_that_fail(replica: Replica, client: FailingClient) -> None:
    client.asked.clear()
    client.fails = lambda _name, number: number <= 2
    answer = await replica.activate(V2)
    assert (answer.previous_version, answer.recall_at_10) == (V1, 1.0)
    assert await serving(replica) == V2
    needed = {"create_collection", "update_collection_aliases", "upsert", "scroll", "query_batch_points", "count"}
    assert not needed - {name for name, times in client.asked.items() if times > 2}


async def test_an_activation_waits_for_an_open_circuit(replica: Replica, client: FailingClient) -> None:
    opened = CIRCUIT_OPENED.labels("qdrant")._value.get()
    client.asked.clear()
    client.fails = lambda _name, _number: client.asked.total() <= 8
    assert (await replica.activate(V2)).recall_at_10 == 1.0
    assert await serving(replica) == V2
    assert CIRCUIT_OPENED.labels("qdrant")._value.get() > opened


async def test_what_served_goes_on_when_the_store_never_answers(
    replica: Replica, client: FailingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "_PATIENCE_S", 0.3)
    client.fails = lambda _name, _number: True
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await replica.activate(V2)
    # No UNAVAILABLE: a channel would make the whole activation again.
    assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    told = refused.value.details() or ""
    assert f"version {V2} could not be verified, and what served before goes on serving" in told
    assert "activate it again when its stores answer" in told
    assert await serving(replica) == V1

    client.fails = lambda _name, _number: False

    async def is_back() -> bool:
        try:
            return (await replica.activate(V2)).previous_version == V1
        except grpc.aio.AioRpcError:
            return False

    await eventually(is_back)
    assert await serving(replica) == V2


async def test_without_patience_a_call_fails_at_once(connection: QdrantConnection, client: FailingClient) -> None:
    client.fails = lambda _name, _number: True
    for number in range(1, 6):
        with pytest.raises(UnavailableError, match="slow"):
            await connection.collections()
        assert client.asked["get_collections"] == number
    with pytest.raises(CircuitOpenError):
        await connection.collections()
    assert client.asked["get_collections"] == 5


async def test_patience_ends_with_the_deadline(connection: QdrantConnection, client: FailingClient) -> None:
    client.fails = lambda _name, _number: True
    with patient(60.0), deadline_after(1.0), pytest.raises(UnavailableError):
        await connection.collections()
    assert client.asked["get_collections"] > 1
    assert patience_s() == 0.0


async def test_who_is_late_is_given_more_time(connection: QdrantConnection) -> None:
    given: list[float] = []

    async def hang(seconds: float) -> None:
        given.append(seconds)
        if len(given) < 4:
            raise TimeoutError

    with patient(60.0):
        await connection._watched("hanging", hang, 5.0)
    assert given == [5.0, 10.0, 20.0, 40.0]
