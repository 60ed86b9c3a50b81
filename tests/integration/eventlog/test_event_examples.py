"""The producers of docs/examples run as they stand, and the engine understands what they send."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from servers.addresses import Addresses

from recommendation.events.v1.events_pb2 import ContentChanged, InteractionRecorded
from servicekit.eventlog.decode import decode
from servicekit.eventlog.kafka.log import KafkaEventLog
from servicekit.eventlog.kafka.producer import partition_of
from servicekit.eventlog.port import Record
from servicekit.eventlog.topics import CONTENT_CHANGED, USER_INTERACTIONS, default_specs

pytestmark = pytest.mark.integration

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"


async def sent_by(server: str, example: str, topic: str, arguments: Sequence[str]) -> list[Record]:
    """Run an example, and give what it appended."""
    log = KafkaEventLog([server])
    await log.ensure_topics(default_specs())
    consumer = log.consumer([topic], group=None, start=await log.end_offsets([topic]))
    await consumer.poll(max_records=1, timeout_s=0)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "ignore", str(EXAMPLES / example), server, *arguments],
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found = [*await consumer.poll(max_records=10, timeout_s=10)]
    await log.close()
    return found


def assert_stands_where_ours_would(record: Record) -> None:
    assert record.partition == partition_of(record.key.encode(), 4)


async def test_the_json_example(servers: Addresses, unique_name: str) -> None:
    arguments = ["--tenant", unique_name, "--user", "anna", "--item", "film/m42"]
    (record,) = await sent_by(servers.kafka, "produce_json.py", USER_INTERACTIONS, arguments)
    event = decode(record, InteractionRecorded)
    assert record.key == f"{unique_name}/anna"
    assert (event.tenant, event.user_id, event.item_type, event.item_id) == (unique_name, "anna", "film", "m42")
    assert event.interaction_type == "like"
    assert event.event_id
    assert 0 <= record.timestamp_ms - event.occurred_at_ms < 60_000
    assert_stands_where_ours_would(record)


async def test_the_protobuf_example(servers: Addresses, unique_name: str) -> None:
    where = ["--tenant", unique_name, "--item", "film/m42"]
    (record,) = await sent_by(
        servers.kafka, "produce_protobuf.py", CONTENT_CHANGED, [*where, "--title", "A Film", "--genres", "Drama"]
    )
    item = decode(record, ContentChanged).put
    assert record.key == f"{unique_name}/film/m42"
    assert (item.tenant, item.item_type, item.item_id, item.title) == (unique_name, "film", "m42", "A Film")
    assert list(item.attributes["genres"].texts.values) == ["Drama"]
    assert_stands_where_ours_would(record)
    (record,) = await sent_by(servers.kafka, "produce_protobuf.py", CONTENT_CHANGED, [*where, "--delete"])
    assert decode(record, ContentChanged).deleted.item_id == "m42"
