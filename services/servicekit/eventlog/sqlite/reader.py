"""What the consumers of a process share: a thread that reads and a watch for what others append."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from servicekit.errors import FailedPreconditionError
from servicekit.eventlog.sqlite.connection import store_errors
from servicekit.eventlog.sqlite.group_file import GroupFile
from servicekit.eventlog.sqlite.topic_file import TopicFile

_WATCH_INTERVAL_S = 0.01

P = ParamSpec("P")
T = TypeVar("T")


class LogReader:
    """One thread for blocking reads, one timer for what other processes append.

    Every 10 ms the watch asks SQLite for each topic that has a consumer whether its file has changed (about 5 µs a
    topic). What this process appends is told by `wake` at once.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="event-log-reader")
        self._files: dict[str, TopicFile] = {}
        self._groups: GroupFile | None = None
        self._closed = False
        self._watched: dict[str, TopicFile] = {}
        self._sleepers: dict[asyncio.Event, frozenset[str]] = {}
        self._watch: asyncio.Task[None] | None = None

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do blocking work in the reading thread."""
        if self._closed:
            raise FailedPreconditionError("the event log is closed")

        def guarded() -> T:
            with store_errors():
                return work(*args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._thread, guarded)

    def topic(self, name: str) -> TopicFile:
        """Give a topic's file; only in the reading thread."""
        if name not in self._files:
            self._files[name] = TopicFile(self._folder, name, sync="normal")
        return self._files[name]

    def groups(self) -> GroupFile:
        """Give the groups' file; only in the reading thread."""
        if self._groups is None:
            self._groups = GroupFile(self._folder)
        return self._groups

    async def watch(self, topics: Iterable[str], changed: asyncio.Event) -> None:
        """Set the event whenever one of the topics has changed, until `unwatch`."""
        names = frozenset(topics)
        for name in names - self._watched.keys():
            file = await self.run(TopicFile, self._folder, name, sync="normal")
            if name in self._watched:
                file.close()
            else:
                self._watched[name] = file
        self._sleepers[changed] = names
        if self._watch is None:
            self._watch = asyncio.create_task(self._look(), name="event-log-watch")

    def unwatch(self, changed: asyncio.Event) -> None:
        """Forget the event."""
        self._sleepers.pop(changed, None)
        if not self._sleepers and self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def wake(self, topics: Iterable[str]) -> None:
        """Set the events of those who watch one of the topics."""
        for changed, names in self._sleepers.items():
            if not names.isdisjoint(topics):
                changed.set()

    async def close(self) -> None:
        """End the watch and the thread, and close the files."""
        if self._closed:
            return
        self._sleepers.clear()
        if self._watch is not None:
            self._watch.cancel()
        await self.run(self._close_files)
        self._closed = True
        self._thread.shutdown()

    async def _look(self) -> None:
        versions: dict[str, int] = {}
        while True:
            changed = []
            for name, file in self._watched.items():
                version = _version_of(file)
                if versions.get(name) != version:
                    versions[name] = version
                    changed.append(name)
            if changed:
                self.wake(changed)
            await asyncio.sleep(_WATCH_INTERVAL_S)

    def _close_files(self) -> None:
        for file in (*self._files.values(), *self._watched.values()):
            file.close()
        if self._groups is not None:
            self._groups.close()


def _version_of(file: TopicFile) -> int:
    """Give a number that no version has when the file cannot be asked; whoever wakes and reads gets the error."""
    try:
        return file.version()
    except sqlite3.Error:
        return -1
