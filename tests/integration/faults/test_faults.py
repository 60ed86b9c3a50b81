"""What breaks is survived: nothing acknowledged is lost, nothing counts twice, and a list comes while one can be made.

One stack lives through all of it, under load all the time; the last test counts.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic

import pytest
from servers.stores import Places

from e2e import inside
from e2e.shop import THEMES
from e2e.stack import Stack, until
from e2e.traffic import Observed, Traffic, wait_until_stored
from recommend_cli.clients.log import opened_log
from recommend_cli.stack.folder import stores_of
from recommendation.events.v1 import events_pb2
from servicekit.eventlog.port import NewRecord
from servicekit.eventlog.topics import USER_INTERACTIONS

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

OUTAGE_READS = 60  # lists asked for while something is away; about two seconds of them
HANG_S = 10.0
BACK_TO_NORMAL_S = 30.0
LATELY_S = 2.0
SLOWER = 3.0  # than before the fault is not normal,
QUICK_S = 0.25  # unless it is quicker than this anyway
WEIGHT = 2.0  # of a like
PARTS = ("profile", "vectors", "graph")
RARELY = 0.2  # of all lists: a machine on which servers start at the same time misses deadlines


@dataclass
class Liked:
    """What every test's visitors saw and did, and how popular all films together were before that."""

    popularity: float
    seen: list[Observed] = field(default_factory=list)


@pytest.fixture(scope="module")
def liked(stack: Stack) -> Liked:
    return Liked(_total_popularity(stack))


@contextmanager
def _visited(stack: Stack, liked: Liked) -> Iterator[tuple[Observed, Callable[[], None]]]:
    """Let visitors come and go; give what they see, and what waits until they see what they saw at first."""
    with Traffic(stack).flowing() as seen:
        liked.seen.append(seen)
        until(lambda: len(seen.reads) >= OUTAGE_READS, within_s=30, what="visitors come")
        normal_s = seen.latency_s(since=0.0)

        def wait_until_normal() -> None:
            until(
                lambda: _is_normal(seen, max(SLOWER * normal_s, QUICK_S)),
                within_s=BACK_TO_NORMAL_S,
                what=f"lists are whole again and as quick as before ({normal_s * 1000:.0f} ms)",
            )

        yield seen, wait_until_normal
    wait_until_stored(stack, seen)


def _is_normal(seen: Observed, quick_s: float) -> bool:
    since = monotonic() - LATELY_S
    reads = [answer for answer in list(seen.reads) if answer.at >= since]
    writes = [answer for answer in list(seen.writes) if answer.at >= since]
    return (
        len(reads) >= OUTAGE_READS / 4
        and all(answer.status == 200 for answer in reads)
        and sum(bool(answer.degraded) for answer in reads) <= RARELY * len(reads)
        and bool(writes)
        and all(answer.status in {200, 201} for answer in writes)
        and seen.latency_s(since=since) <= quick_s
    )


def _wait_for_reads(seen: Observed, count: int = OUTAGE_READS) -> None:
    asked = len(seen.reads)
    until(lambda: len(seen.reads) >= asked + count, within_s=60, what="visitors go on")


def _gateway_metric(stack: Stack, metric: str, **labels: str) -> float:
    return inside.metric(stack.replicas("hot_path_api")[0], metric, **labels)


def _told(stack: Stack) -> dict[str, float]:
    """Give how often each part was missing because it failed, and not because the machine was busy for a moment."""
    return {part: _gateway_metric(stack, "degraded_total", source=part, reason="unavailable") for part in PARTS}


def _assert_the_fault_is_told(stack: Stack, seen: Observed, told: dict[str, float], store: str, since: float) -> None:
    """Lists lack what was away; anything else but rarely, and only since a deadline was missed."""
    lacking, lists = seen.lacking(since), sum(answer.at >= since for answer in seen.reads)
    others = set(PARTS) - {MAY_LACK[store]}
    assert all(lacking[part] <= RARELY * lists for part in others), (lacking, lists)
    failed = {part for part, count in _told(stack).items() if count > told[part]}
    assert not failed & others
    if store == "cassandra":  # no cache stands before it
        assert failed == {"profile"}
        assert _gateway_metric(stack, "circuit_breaker_opened_total", name="profile_store") > 0
        assert _gateway_metric(stack, "circuit_breaker_state", name="profile_store") == 0


def _total_popularity(stack: Stack) -> float:
    (scores,) = inside.popularity(stack)
    return sum(scores.values())


# What lists may lack while a store is away.
MAY_LACK = {"kafka": "", "cassandra": "profile", "neo4j": "graph", "qdrant": "vectors", "redis": ""}

# A like that cannot be stored now waits in the log (202), from where it may be stored before the caller's turn (200).
TAKEN = {200, 201, 202}
NOT_ACKNOWLEDGED = {"kafka": {503}}


@contextmanager
def _visited_without(stack: Stack, liked: Liked, store: str) -> Iterator[Observed]:
    """Let visitors come while a store is taken away and given back inside; then all must be normal again, and told."""
    with _visited(stack, liked) as (seen, wait_until_normal):
        told, away_since = _told(stack), monotonic()
        yield seen
        wait_until_normal()
    assert set(seen.statuses(seen.reads)) == {200}
    assert set(seen.statuses(seen.writes)) <= TAKEN | NOT_ACKNOWLEDGED.get(store, set())
    _assert_the_fault_is_told(stack, seen, told, store, away_since)


@pytest.mark.parametrize("store", MAY_LACK)
def test_a_store_that_is_killed_comes_back(stack: Stack, private: Places, liked: Liked, store: str) -> None:
    server = private.by_name[store]
    with _visited_without(stack, liked, store) as seen:
        server.kill()
        _wait_for_reads(seen)
        server.start()


@pytest.mark.parametrize("store", MAY_LACK)
def test_a_store_that_hangs_goes_on(stack: Stack, private: Places, liked: Liked, store: str) -> None:
    server = private.by_name[store]
    with _visited_without(stack, liked, store):
        frozen_at = monotonic()
        server.pause()
        try:
            until(lambda: monotonic() - frozen_at > HANG_S, within_s=2 * HANG_S, what="the store has hung long enough")
        finally:
            server.resume()


@pytest.mark.parametrize(
    ("service", "lacks"),
    [
        ("profile_store", "profile"),
        ("vector_search", "vectors"),
        ("graph_service", "graph"),
        ("gpu_worker", ""),
        ("hot_path_api", ""),
    ],
)
def test_a_service_that_is_killed_comes_back(stack: Stack, liked: Liked, service: str, lacks: str) -> None:
    with _visited(stack, liked) as (seen, wait_until_normal):
        told = _gateway_metric(stack, "degraded_total", source=lacks) if lacks else 0.0
        killed_at, killed = monotonic(), stack.replicas(service)[0]["pid"]
        os.kill(killed, signal.SIGKILL)
        until(lambda: inside.is_replaced(stack, service, killed), within_s=60, what=f"{service} is back")
        wait_until_normal()
        if lacks:
            assert _gateway_metric(stack, "degraded_total", source=lacks) > told
            assert _gateway_metric(stack, "circuit_breaker_state", name=service) == 0
    # There is no other gateway to ask; and the one that was killed may have taken a like before it could say so.
    without = {0} if service == "hot_path_api" else set()
    assert set(seen.statuses(seen.reads)) <= {200} | without
    assert set(seen.statuses(seen.writes)) <= TAKEN | without
    lacking, lists = seen.lacking(killed_at), sum(answer.at >= killed_at for answer in seen.reads)
    assert bool(lacks) <= bool(lacking[lacks])
    assert all(lacking[part] <= RARELY * lists for part in set(PARTS) - {lacks}), (lacking, lists)


def test_a_poisoned_record_is_put_aside_and_nothing_waits_for_it(stack: Stack, liked: Liked) -> None:
    letters = stack.recommend("dlq", "list")
    user = "poisoner"
    good = events_pb2.InteractionRecorded(
        event_id="after-the-poison",
        occurred_at_ms=1,
        tenant=inside.tenant_of(stack),
        user_id=user,
        item_type="film",
        item_id=f"{next(iter(THEMES))}-1",
        interaction_type="view",
    )
    key = f"{good.tenant}/{user}"
    with _visited(stack, liked) as (_, wait_until_normal):
        asyncio.run(
            _append(
                stack,
                NewRecord(USER_INTERACTIONS, key, b"\xff\xff\xff poison"),
                NewRecord(USER_INTERACTIONS, key, good.SerializeToString()),
            )
        )
        until(
            lambda: inside.histories(stack, user) == [["after-the-poison"]], within_s=10, what="what follows is applied"
        )
        wait_until_normal()
    until(
        lambda: len(stack.recommend("dlq", "list").splitlines()) > len(letters.splitlines()),
        within_s=20,
        what="it is listed",
    )
    assert (
        inside.metric(stack.replicas("profile_store")[0], "consumer_dead_letters_total", topic=USER_INTERACTIONS) >= 1
    )


def test_at_the_end_each_like_counts_once(stack: Stack, liked: Liked) -> None:
    likes = sum(len(events) for seen in liked.seen for events in seen.likes.values())
    assert likes > 100
    expected = liked.popularity + WEIGHT * likes + 1.0  # the view that followed the poison
    until(lambda: _total_popularity(stack) == pytest.approx(expected), within_s=30, what="all likes are counted, once")


async def _append(stack: Stack, *records: NewRecord) -> None:
    async with opened_log(stores_of(stack.data_dir)) as log:
        await log.producer().append(records)
