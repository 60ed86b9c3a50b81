"""The small rules of the gateway, one by one."""

import asyncio
import json
from collections.abc import Sequence

import numpy as np
import pytest

from hot_path_api.api.cursors import read_cursor, write_cursor
from hot_path_api.api.filters import read_filter, read_weights
from hot_path_api.api.problems import STATUS_BY_ERROR, status_of
from hot_path_api.application.idempotency import RepeatedWrites
from hot_path_api.application.served import ServedLists
from hot_path_api.domain.events import Event, ListServed, write_id
from hot_path_api.domain.plan import plan_algorithm, plan_weights
from hot_path_api.domain.recommendations import Algorithm
from hot_path_api.domain.serving import UNTRAINED, parse_serving
from hot_path_api.domain.users import InteractionType, SessionEvent, UserContext, with_session
from servicekit import errors
from servicekit.filters import Operator, Predicate

SERVING = {
    "version": "v1",
    "sources": {"cooccurrence": {"weight": 1.0}, "session": {"weight": 2.0}, "content": {"weight": 0.5}},
    "features": [
        "sqrt(cooccurrence)",
        "sqrt(session)",
        "sqrt(content)",
        "sqrt(graph)",
        "sqrt(factors)",
        "log_popularity",
    ],
    "weights": [0.8, 0.1, 0.1, 0.2, 0.5, -0.5],
    "trending": {"window": "7d"},
}


def test_a_serving_document_is_read() -> None:
    model = parse_serving(json.dumps(SERVING))
    assert model.version == "v1"
    assert model.trending_window == "7d"
    assert model.sources >= {"cooccurrence", "session", "transition", "content", "nearest", "graph", "trending"}
    assert model.blend.features == {"cooccurrence", "session", "content", "graph", "factors", "log_popularity"}
    assert parse_serving("") is UNTRAINED


@pytest.mark.parametrize(
    "document", ["{", "[]", "{}", json.dumps(SERVING | {"weights": [1]}), json.dumps(SERVING | {"sources": {"a": 1}})]
)
def test_a_serving_document_that_cannot_be_used_is_an_error(document: str) -> None:
    with pytest.raises(errors.InternalError, match="serving document"):
        parse_serving(document)


def test_algorithms_ask_their_sources_with_learned_weights() -> None:
    model = parse_serving(json.dumps(SERVING))
    hybrid = plan_algorithm(model, Algorithm.HYBRID)
    assert hybrid.retrieval_weights is None
    assert hybrid.retrieval
    assert hybrid.graph
    collaborative = plan_algorithm(model, Algorithm.COLLABORATIVE)
    assert collaborative.retrieval_weights == {"cooccurrence": 1.0, "session": 2.0, "transition": 1.0}
    assert not collaborative.graph
    assert collaborative.blend.features == {"cooccurrence", "session", "factors", "log_popularity"}
    graph = plan_algorithm(model, Algorithm.GRAPH)
    assert not graph.retrieval
    assert graph.tops_up


def test_callers_weights_replace_everything() -> None:
    model = parse_serving(json.dumps(SERVING))
    factors = plan_weights(model, {"factors": 1.0})
    assert factors.retrieval
    assert factors.retrieval_weights is None
    assert not factors.graph
    session = plan_weights(model, {"session": 1.0, "trending": 0.5})
    assert session.retrieval_weights == {"session": 1.0}
    assert session.trending
    assert not session.tops_up
    with pytest.raises(errors.InvalidArgumentError, match="no source 'magic'"):
        plan_weights(model, {"magic": 1.0})


def test_a_session_stands_before_the_stored_history() -> None:
    stored = UserContext(
        history_keys=np.array([3, 2, 1]),
        history_weights=np.array([1, 1, 1], np.float32),
        history_times_ms=np.array([30, 20, 10]),
    )
    events = [SessionEvent(2, 1.0, 40), SessionEvent(7, 2.0, 50), SessionEvent(2, 0.5, 60)]
    context = with_session(stored, events)
    assert context.history_keys.tolist() == [2, 7, 3, 1]
    assert context.history_weights.tolist() == [1.5, 2.0, 1.0, 1.0]
    assert context.history_times_ms.tolist() == [60, 50, 30, 10]
    assert with_session(stored, []) is stored


def test_an_interaction_weighs_by_its_type() -> None:
    assert InteractionType("view", 1.0).weigh(None) == 1.0
    assert InteractionType("rating", 1.0, centre=3.0).weigh(1.0) == -2.0
    assert InteractionType("rating", 1.0, centre=3.0).weigh(None) == 0.0


def test_cursors_are_read_back() -> None:
    assert read_cursor("") == 0
    for offset in (0, 10, 999):
        assert read_cursor(write_cursor(offset)) == offset


@pytest.mark.parametrize("cursor", ["abc", "é", "bzoxMDAw", "bzotMQ", "o:5", "=", "bzo"])
def test_strange_cursors_are_refused(cursor: str) -> None:
    with pytest.raises(errors.InvalidArgumentError):
        read_cursor(cursor)


def test_values_in_a_query_string_are_read_as_every_type_they_may_have() -> None:
    assert read_filter(("year:eq:1957", "new:in:true,x", "a:b:c:d".replace("b", "eq", 1)), "film") == (
        Predicate("year", Operator.IN, ("1957", 1957.0)),
        Predicate("new", Operator.IN, ("true", True, "x")),
        Predicate("a", Operator.IN, ("c:d",)),
        Predicate("item_type", Operator.EQ, ("film",)),
    )
    assert read_filter(("year:gte:1.5e3", "x:exists:false"), None) == (
        Predicate("year", Operator.GTE, (1500.0,)),
        Predicate("x", Operator.EXISTS, (False,)),
    )


def test_weights_are_read() -> None:
    assert read_weights("a:1,b:-.5") == {"a": 1.0, "b": -0.5}
    for text in ("a", "a:", ":1", "a:1,a:2", "a:inf", "a:1,,b:2"):
        with pytest.raises(errors.InvalidArgumentError):
            read_weights(text)


def test_every_error_has_a_status() -> None:
    for kind in errors.ServiceError.__subclasses__():
        if kind.__module__ == errors.__name__:
            assert kind in STATUS_BY_ERROR, kind
    assert status_of(errors.CircuitOpenError("")) == 503


def test_event_ids_depend_on_all_that_names_a_write() -> None:
    ids = {write_id(*parts) for parts in (("t", "k"), ("t", "k2"), ("t2", "k"), ("tk", ""))}
    assert len(ids) == 4
    assert all(len(each) == 32 for each in ids)
    assert write_id("t", "k") in ids


async def test_two_equal_writes_at_the_same_time_are_one() -> None:
    repeated: RepeatedWrites[int] = RepeatedWrites(capacity=2)
    done = 0

    async def write() -> int:
        nonlocal done
        done += 1
        await asyncio.sleep(0.01)
        return done

    pair = await asyncio.gather(*(repeated.once("k", b"x", write, is_final=lambda _: True) for _ in range(2)))
    assert pair == [1, 1]
    with pytest.raises(errors.InvalidArgumentError):
        await repeated.once("k", b"y", write, is_final=lambda _: True)
    for name in ("l", "m"):
        await repeated.once(name, b"x", write, is_final=lambda _: True)
    assert await repeated.once("k", b"y", write, is_final=lambda _: True) == 4


async def test_a_failed_write_is_done_again() -> None:
    repeated: RepeatedWrites[int] = RepeatedWrites()

    async def fail() -> int:
        await asyncio.sleep(0.01)
        raise errors.UnavailableError("down")

    async def work() -> int:
        return 1

    outcomes = await asyncio.gather(
        *(repeated.once("k", b"x", fail, is_final=lambda _: True) for _ in range(2)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [errors.UnavailableError] * 2
    assert await repeated.once("k", b"x", work, is_final=lambda _: False) == 1
    assert await repeated.once("k", b"y", work, is_final=lambda _: True) == 1


class Sink:
    """An EventSink that keeps what it gets."""

    def __init__(self) -> None:
        self.batches: list[list[Event]] = []
        self.error: errors.ServiceError | None = None

    async def append(self, event: Event) -> None:
        await self.append_many([event])

    async def append_many(self, events: Sequence[Event]) -> None:
        if self.error:
            raise self.error
        self.batches.append(list(events))


async def test_served_lists_are_written_in_batches_and_dropped_when_too_many_wait() -> None:
    sink = Sink()
    served = ServedLists(sink, capacity=5, every_s=0.01, batch=3)
    lists = [ListServed(str(n), "t", "u", [], [], [], "default", "", "", 0) for n in range(7)]
    for each in lists:
        served.record(each)
    stop = asyncio.Event()
    task = asyncio.create_task(served.run(stop))
    await asyncio.sleep(0.05)
    assert sink.batches == [lists[:3], lists[3:5]]
    sink.error = errors.UnavailableError("down")
    served.record(lists[5])
    await asyncio.sleep(0.05)
    sink.error = None
    served.record(lists[6])
    stop.set()
    await task
    assert sink.batches[2:] == [lists[6:]]
