"""What the library lacks around tasks: background tasks do not die unseen, a cancellation shows whose it is."""

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self

from servicekit.logs import get_logger


def is_being_cancelled() -> bool:
    """Tell, on a CancelledError, the current task's own cancellation from that of what it waited for.

    A gRPC call raises it too when its channel is closed.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def look_at_failure(task: "asyncio.Task[Any]") -> None:
    """Look at a failure that nobody may be waiting for any more, so that asyncio does not report it as lost."""
    if not task.cancelled():
        task.exception()


class BackgroundTasks:
    """Runs the tasks of a service beside its server, as an async context manager around the service's life.

    A task may end by itself. One that raises sets the stop event, and the first such error is raised when the block is
    left, so that the process ends with a code that says so. Leaving the block cancels what still runs.
    """

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._log = get_logger(__name__)

    def start(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        """Begin to run a task."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._failure is not None and error is None:
            raise self._failure

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        failure = task.exception()
        if failure is None:
            return
        self._log.error("a background task failed; stopping", task=task.get_name(), exc_info=failure)
        self._failure = self._failure or failure
        self._stop.set()
