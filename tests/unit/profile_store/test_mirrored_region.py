"""A region that mirrors another one tells how far it lags; any other has nothing to tell."""

import asyncio
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from profile_store.bootstrap import run
from profile_store.settings import ProfileStoreSettings
from servicekit.eventlog.open import open_event_log
from servicekit.eventlog.port import NewRecord, TopicSpec
from servicekit.testing import eventually

TOPIC = "primary.heartbeats"


def told() -> float | None:
    return REGISTRY.get_sample_value("replication_lag_seconds", {"topic": TOPIC})


@pytest.mark.parametrize("topic", [TOPIC, ""])
async def test_the_heartbeats_are_followed_where_they_come(tmp_path: Path, topic: str) -> None:
    settings = ProfileStoreSettings(
        data_dir=tmp_path,
        grpc_port=0,
        agentdb_port=0,
        metrics_port=0,
        heartbeats_topic=topic,
        event_log_prefix="ours.",  # the mirror knows nothing of it
    )
    log = open_event_log(settings.event_log_url)
    await log.ensure_topics([TopicSpec(TOPIC, 1)])
    await log.producer().append([NewRecord(TOPIC, "k", b"", timestamp_ms=1)])
    stop = asyncio.Event()
    task = asyncio.create_task(run(settings, stop))
    if topic:
        await eventually(lambda: (told() or 0.0) > 1e9)  # since 1970: it is the record's time that counts
    else:
        await asyncio.sleep(0.3)
        assert told() is None
    stop.set()
    await task
    await log.close()
    assert told() is None
