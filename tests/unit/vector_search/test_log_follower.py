"""What every replica applies of the log is as old as it is told to be."""

import asyncio
import time
from collections.abc import Mapping

from prometheus_client import REGISTRY

from recommendation.events.v1 import events_pb2
from servicekit.eventlog.memory import MemoryEventLog
from servicekit.eventlog.port import NewRecord, TopicPartition, TopicSpec
from servicekit.eventlog.topics import CONTENT_CHANGED, CONTENT_EMBEDDED, MODEL_PUBLISHED
from servicekit.testing import eventually
from vector_search.consumer import LogFollower
from vector_search.domain.changes import Change
from vector_search.testing import TENANT, make_item

WHERE: Mapping[TopicPartition, int] = {TopicPartition(MODEL_PUBLISHED, 0): 0}


def embedded(item_id: str) -> bytes:
    return events_pb2.ContentEmbedded(item=make_item(TENANT, item_id)).SerializeToString()


async def append(log: MemoryEventLog, topic: str, value: bytes, *, age_s: float) -> None:
    stamp = int((time.time() - age_s) * 1000)
    await log.producer().append([NewRecord(topic, f"{TENANT}/x", value, timestamp_ms=stamp)])


async def test_records_that_come_are_told_by_their_age_and_those_read_again_at_a_start_are_not() -> None:
    log = MemoryEventLog()
    await log.ensure_topics([TopicSpec(each, 1) for each in (CONTENT_CHANGED, CONTENT_EMBEDDED, MODEL_PUBLISHED)])
    await append(log, CONTENT_EMBEDDED, embedded("old"), age_s=5_000_000)
    applied: list[Change] = []
    highest: dict[str, float] = {}

    def apply(change: Change) -> None:
        applied.append(change)

    def told(topic: str) -> float:
        lag = REGISTRY.get_sample_value("replication_lag_seconds", {"topic": topic}) or 0.0
        highest[topic] = max(lag, highest.get(topic, 0.0))
        return highest[topic]

    stop = asyncio.Event()
    follower = LogFollower(log, apply, known={}, published=WHERE)
    task = asyncio.create_task(follower.run(stop))
    await asyncio.wait_for(follower.caught_up.wait(), 10)
    await eventually(lambda: len(applied) == 1)
    assert told(CONTENT_EMBEDDED) < 1_000_000

    await append(log, CONTENT_EMBEDDED, embedded("new"), age_s=40)
    published = events_pb2.ModelPublished(tenant=TENANT, version="v1").SerializeToString()
    await append(log, MODEL_PUBLISHED, published, age_s=90)
    await eventually(lambda: 39 < told(CONTENT_EMBEDDED) < 60 and 89 < told(MODEL_PUBLISHED) < 110)
    stop.set()
    await task
