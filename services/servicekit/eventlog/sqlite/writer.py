"""The thread that appends for a process: whatever waits when it is free goes into one transaction."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from servicekit.clock import Clock
from servicekit.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from servicekit.eventlog.port import MAX_VALUE_BYTES, NewRecord, TopicPartition
from servicekit.eventlog.sqlite.connection import Sync, store_errors
from servicekit.eventlog.sqlite.doorbell import Ringer
from servicekit.eventlog.sqlite.topic_file import TOPIC_SUFFIX, TopicFile
from servicekit.logs import get_logger

_GROUP_RECORDS = 20_000
_MAINTENANCE_INTERVAL_S = 300.0

_log = get_logger(__name__)

Places = list[tuple[TopicPartition, int]]


@dataclass(frozen=True, slots=True)
class _Append:
    records: Sequence[NewRecord]
    topics: frozenset[str]
    done: asyncio.Future[Places]


class AppendWriter:
    """Group commit: while one transaction reaches the disk, the next calls gather.

    Started by the first append, ended by `close`, which finishes what was accepted. Belongs to the event loop of the
    first append, where `on_commit` is told the topics written.
    """

    def __init__(
        self, folder: Path, *, name: str, sync: Sync, clock: Clock, on_commit: Callable[[Iterable[str]], None]
    ) -> None:
        self._folder = folder
        self._ringer = Ringer(folder, own=name)
        self._sync: Sync = sync
        self._clock = clock
        self._on_commit = on_commit
        self._files: dict[str, TopicFile] = {}
        self._waiting: list[_Append] = []
        self._wake = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    async def append(self, records: Sequence[NewRecord]) -> Places:
        """Append all or nothing; see EventProducer."""
        for record in records:
            if len(record.value) > MAX_VALUE_BYTES:
                raise InvalidArgumentError(
                    f"a record's value has {len(record.value)} bytes, more than {MAX_VALUE_BYTES}", field="value"
                )
        if not records:
            return []
        loop = asyncio.get_running_loop()
        call = _Append(tuple(records), frozenset(record.topic for record in records), loop.create_future())
        with self._wake:
            if self._closing:
                raise FailedPreconditionError("the event log is closed")
            self._waiting.append(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, args=(loop,), name="event-log-writer", daemon=True)
                self._thread.start()
            self._wake.notify()
        return await call.done

    async def close(self) -> None:
        """Finish what was accepted and end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        maintenance_due = time.monotonic() + _MAINTENANCE_INTERVAL_S
        while True:
            with self._wake:
                if not self._waiting and not self._closing:
                    self._wake.wait(max(0.0, maintenance_due - time.monotonic()))
                calls = self._take()
                if not calls and self._closing:
                    break
            while calls:
                together = [call for call in calls if call.topics == calls[0].topics]
                calls = [call for call in calls if call.topics != together[0].topics]
                self._append_together(together, loop)
            if time.monotonic() >= maintenance_due:
                maintenance_due = time.monotonic() + (0.0 if self._maintain() else _MAINTENANCE_INTERVAL_S)
        self._ringer.close()
        for file in self._files.values():
            file.close()

    def _take(self) -> list[_Append]:
        """Take calls in order, as many as make a transaction of bearable length."""
        room = _GROUP_RECORDS
        taken = 0
        for call in self._waiting:
            room -= len(call.records)
            if room < 0 and taken:
                break
            taken += 1
        calls, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return calls

    def _append_together(self, calls: Sequence[_Append], loop: asyncio.AbstractEventLoop) -> None:
        try:
            with store_errors():
                places = self._commit(calls)
        except Exception as error:  # noqa: BLE001 - the callers must not wait for ever, whatever happened
            loop.call_soon_threadsafe(_fail, calls, error)
        else:
            loop.call_soon_threadsafe(self._succeed, calls, places)
            for topic in calls[0].topics:
                self._ringer.ring(topic)
            self._keep_short(calls[0].topics)

    def _commit(self, calls: Sequence[_Append]) -> Places:
        """Write the calls, which are all to the same topics, and return the places of all their records in a row."""
        files = [self._file(topic) for topic in sorted(calls[0].topics)]
        records = [record for call in calls for record in call.records]
        now_ms = self._clock.now_ms()
        places: dict[int, tuple[TopicPartition, int]] = {}
        with ExitStack() as undo:
            for file in files:
                file.begin()
                undo.callback(file.rollback)
                chosen = [number for number, record in enumerate(records) if record.topic == file.name]
                stands = file.insert([records[number] for number in chosen], now_ms)
                places.update(zip(chosen, stands, strict=True))
            for file in files:
                file.commit()
        return [places[number] for number in range(len(records))]

    def _keep_short(self, topics: Iterable[str]) -> None:
        for topic in topics:
            try:
                self._file(topic).checkpoint_if_due()
            except (sqlite3.Error, OSError) as error:
                _log.warning("write-ahead log not shortened, trying again later", topic=topic, error=repr(error))

    def _maintain(self) -> bool:
        """Do a short step of maintenance on every topic of the folder; True when more is to do."""
        more = False
        for path in self._folder.glob(f"*{TOPIC_SUFFIX}"):
            try:
                more |= self._file(path.name.removesuffix(TOPIC_SUFFIX)).maintain(self._clock.now_ms())
            except (sqlite3.Error, NotFoundError) as error:
                _log.warning("topic not maintained, trying again later", topic=path.stem, error=repr(error))
        return more

    def _file(self, topic: str) -> TopicFile:
        if topic not in self._files:
            self._files[topic] = TopicFile(self._folder, topic, sync=self._sync)
        return self._files[topic]

    def _succeed(self, calls: Sequence[_Append], places: Places) -> None:
        first = 0
        for call in calls:
            if not call.done.done():
                call.done.set_result(places[first : first + len(call.records)])
            first += len(call.records)
        self._on_commit(calls[0].topics)


def _fail(calls: Sequence[_Append], error: Exception) -> None:
    """Give each caller an error of its own, since a raised one collects its caller's traceback."""
    for call in calls:
        if not call.done.done():
            copy = type(error)(*error.args)
            copy.__cause__ = error
            call.done.set_exception(copy)
