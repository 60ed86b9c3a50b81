"""What only the SQLite log has: other logs on the same files, locks, the write-ahead log's length, idle cost."""

import asyncio
import os
import sqlite3
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from servicekit.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    StartupError,
    UnavailableError,
)
from servicekit.eventlog.memory import MemoryEventLog
from servicekit.eventlog.open import open_event_log
from servicekit.eventlog.partitions import partition_of, share_partitions
from servicekit.eventlog.port import NewRecord, TopicPartition, TopicSpec
from servicekit.eventlog.sqlite import SqliteEventLog, connection
from servicekit.eventlog.sqlite.doorbell import Doorbell, Ringer
from servicekit.eventlog.topics import default_specs, dlq

TOPIC = "done"


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteEventLog]:
    log = SqliteEventLog(tmp_path, sync="normal")
    await log.ensure_topics([TopicSpec(TOPIC), TopicSpec("other", 1)])
    yield log
    await log.close()


@pytest.fixture
async def second_log(tmp_path: Path, log: SqliteEventLog) -> AsyncIterator[SqliteEventLog]:  # noqa: ARG001 - made after
    second = SqliteEventLog(tmp_path, sync="normal")
    yield second
    await second.close()


async def test_an_append_elsewhere_wakes_within_milliseconds(log: SqliteEventLog, second_log: SqliteEventLog) -> None:
    consumer = log.consumer([TOPIC], group="g")
    producer = second_log.producer()
    await producer.append([NewRecord(TOPIC, "k", b"")])
    await consumer.poll(max_records=10, timeout_s=1)
    waits = []
    for _ in range(15):
        poll = asyncio.create_task(consumer.poll(max_records=10, timeout_s=1))
        await asyncio.sleep(0.013)
        await producer.append([NewRecord(TOPIC, "k", b"")])
        started = time.perf_counter()
        assert len(await poll) == 1
        waits.append(time.perf_counter() - started)
    assert statistics.median(waits) < 0.02


async def test_the_bell_of_a_dead_process_is_taken_down(tmp_path: Path) -> None:
    dead, living = Doorbell(tmp_path, TOPIC, "dead"), Doorbell(tmp_path, TOPIC, "living")
    ringer = Ringer(tmp_path, own="own")
    ringer.ring(TOPIC)
    os.close(dead.fileno())  # as the kernel does for a killed process
    for _ in range(3):
        ringer.ring(TOPIC)
    assert [path.name for path in (tmp_path / "wake" / TOPIC).iterdir()] == ["living"]
    assert os.read(living.fileno(), 10) == bytes(4)
    abandoned = tmp_path / "wake" / TOPIC / "abandoned"
    os.mkfifo(abandoned)
    os.utime(abandoned, (1, 1))
    ringer.ring(TOPIC)
    assert not abandoned.exists()
    ringer.close()
    living.close()


async def test_idle_consumers_cost_little(log: SqliteEventLog) -> None:
    await log.ensure_topics(default_specs())
    consumers = [log.consumer([spec.name], group="g") for spec in default_specs()[:3]]
    polls = [asyncio.create_task(consumer.poll(max_records=1, timeout_s=2)) for consumer in consumers]
    await asyncio.sleep(0.5)
    started = time.process_time()
    await asyncio.sleep(1)
    assert time.process_time() - started < 0.03  # measured: 0.006; the margin is for a busy machine
    for poll in polls:
        poll.cancel()


async def test_a_refused_call_does_not_hurt_its_neighbours(log: SqliteEventLog) -> None:
    producer = log.producer()
    calls = [producer.append([NewRecord(topic, "k", b"")]) for topic in (TOPIC, "no.such", TOPIC, "other")]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(outcome, NotFoundError) for outcome in outcomes] == [False, True, False, False]


async def test_one_call_may_write_to_several_topics(log: SqliteEventLog) -> None:
    places = await log.producer().append([NewRecord(name, "k", b"") for name in (TOPIC, "other", TOPIC)])
    assert [(where.topic, offset) for where, offset in places] == [(TOPIC, 0), ("other", 0), (TOPIC, 1)]


async def test_a_lock_held_too_long_is_unavailable_and_leaves_nothing(
    log: SqliteEventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_BUSY_TIMEOUT_S", 0.05)
    other = sqlite3.connect(tmp_path / "other.topic.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    producer = log.producer()
    with pytest.raises(UnavailableError):
        await producer.append([NewRecord(TOPIC, "k", b""), NewRecord("other", "k", b"")])
    other.execute("ROLLBACK")
    other.close()
    assert set((await log.end_offsets([TOPIC, "other"])).values()) == {0}
    await producer.append([NewRecord(TOPIC, "k", b""), NewRecord("other", "k", b"")])


async def test_the_write_ahead_log_stays_short_beside_readers(log: SqliteEventLog, tmp_path: Path) -> None:
    consumer = log.consumer([TOPIC], group=None)
    producer = log.producer()
    for number in range(60):
        await producer.append([NewRecord(TOPIC, str(number), bytes(1 << 20))])
        await consumer.poll(max_records=10, timeout_s=1)
    assert (tmp_path / f"{TOPIC}.topic.sqlite3-wal").stat().st_size < 40 << 20


async def test_closing_finishes_what_was_accepted(log: SqliteEventLog, second_log: SqliteEventLog) -> None:
    producer = log.producer()
    calls = [asyncio.create_task(producer.append([NewRecord(TOPIC, "k", b"")])) for _ in range(20)]
    await asyncio.sleep(0)
    await log.close()
    assert len(await asyncio.gather(*calls)) == 20
    assert sum((await second_log.end_offsets([TOPIC])).values()) == 20
    with pytest.raises(FailedPreconditionError, match="closed"):
        await producer.append([NewRecord(TOPIC, "k", b"")])


async def test_processes_that_make_the_same_topic_at_once_agree(tmp_path: Path) -> None:
    logs = [SqliteEventLog(tmp_path / "new") for _ in range(8)]
    await asyncio.gather(*(log.ensure_topics(default_specs()) for log in logs))
    for log in logs:
        await log.close()


async def test_topic_names_are_file_names(log: SqliteEventLog) -> None:
    for name in ("", "../up", "a/b", "Ünder"):
        with pytest.raises(InvalidArgumentError):
            await log.ensure_topics([TopicSpec(name)])


async def test_the_url_says_which_log(tmp_path: Path) -> None:
    assert isinstance(open_event_log("memory://"), MemoryEventLog)
    log = open_event_log(f"sqlite://{tmp_path}?sync=normal")
    assert isinstance(log, SqliteEventLog)
    await log.close()
    for url in ("sqlite://relative/folder", "kafka://x", "", f"sqlite://{tmp_path}?sync=off"):
        with pytest.raises(StartupError, match="EVENT_LOG_URL"):
            open_event_log(url)


def test_the_partition_of_a_key_never_changes() -> None:
    assert [partition_of(key, 4) for key in ("", "a", "tenant/film/1", "ключ")] == [0, 3, 1, 2]


def test_partitions_are_dealt_evenly_to_those_who_read_them() -> None:
    shares = share_partitions({"b": {"x"}, "a": {"x", "y"}, "c": set()}, {"x": 5, "y": 2})
    assert {member: len(share) for member, share in shares.items()} == {"a": 5, "b": 2, "c": 0}
    assert shares["a"] | shares["b"] == {TopicPartition("x", n) for n in range(5)} | {
        TopicPartition("y", n) for n in range(2)
    }


def test_every_topic_has_dead_letters() -> None:
    names = [spec.name for spec in default_specs()]
    assert [dlq(name) for name in names[: len(names) // 2]] == names[len(names) // 2 :]
