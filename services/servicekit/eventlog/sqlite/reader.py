"""What the consumers of a process share: a thread that reads and the news that there is something to read."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from servicekit.errors import FailedPreconditionError
from servicekit.eventlog.sqlite.connection import store_errors
from servicekit.eventlog.sqlite.doorbell import Doorbell
from servicekit.eventlog.sqlite.group_file import GroupFile
from servicekit.eventlog.sqlite.topic_file import TopicFile

_WATCH_INTERVAL_S = 0.5

P = ParamSpec("P")
T = TypeVar("T")


class LogReader:
    """One thread for blocking reads, and the news of each topic that has a consumer.

    News come from `wake` when this process has appended, from the topic's doorbell when another has, and, should a
    ring get lost, from a look at the file twice a second.
    """

    def __init__(self, folder: Path, *, name: str) -> None:
        self._folder = folder
        self._name = name
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="event-log-reader")
        self._files: dict[str, TopicFile] = {}
        self._groups: GroupFile | None = None
        self._closed = False
        self._bells: dict[str, Doorbell] = {}
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

    async def watch(self, topics: Iterable[str], news: asyncio.Event) -> None:
        """Set the event whenever one of the topics has changed, until `unwatch`."""
        names = frozenset(topics)
        for name in names:
            await self.run(self.topic, name)  # a topic that does not exist is told here
        for name in names - self._bells.keys():
            bell = Doorbell(self._folder, name, self._name)
            self._bells[name] = bell
            asyncio.get_running_loop().add_reader(bell.fileno(), self._hear, name)
        self._sleepers[news] = names
        if self._watch is None:
            self._watch = asyncio.create_task(self._look(), name="event-log-watch")

    def unwatch(self, news: asyncio.Event) -> None:
        """Forget the event."""
        self._sleepers.pop(news, None)
        if not self._sleepers and self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def wake(self, topics: Iterable[str]) -> None:
        """Set the events of those who watch one of the topics."""
        for news, names in self._sleepers.items():
            if not names.isdisjoint(topics):
                news.set()

    async def close(self) -> None:
        """End the watch and the thread, and close the files."""
        if self._closed:
            return
        self._sleepers.clear()
        if self._watch is not None:
            self._watch.cancel()
        for bell in self._bells.values():
            asyncio.get_running_loop().remove_reader(bell.fileno())
            bell.close()
        await self.run(self._close_files)
        self._closed = True
        self._thread.shutdown()

    def _hear(self, topic: str) -> None:
        self._bells[topic].clear()
        self.wake([topic])

    async def _look(self) -> None:
        versions: dict[str, int] = {}
        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            found = await self.run(self._versions, tuple(self._bells))
            self.wake([topic for topic, version in found.items() if versions.get(topic) != version])
            versions = found

    def _versions(self, topics: Iterable[str]) -> dict[str, int]:
        return {topic: _version_of(self.topic(topic)) for topic in topics}

    def _close_files(self) -> None:
        for file in self._files.values():
            file.close()
        if self._groups is not None:
            self._groups.close()


def _version_of(file: TopicFile) -> int:
    """Give a number that no version has when the file cannot be asked; whoever wakes and reads gets the error."""
    try:
        return file.version()
    except sqlite3.Error:
        return -1
