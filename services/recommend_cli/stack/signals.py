"""Ends a command by Ctrl-C, SIGTERM or a closed terminal the way its author meant."""

import asyncio
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final

_INTERRUPTED_EXIT: Final = 128 + signal.SIGINT
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_until_stopped(main: Coroutine[Any, Any, None]) -> None:
    """Run to the end, or until the first signal, which cancels it; a further one cancels its cleaning up, too.

    Raises:
        SystemExit: It was cancelled and did not take that for its end.
    """
    if not asyncio.run(_cancelled_by_signals(main)):
        sys.exit(_INTERRUPTED_EXIT)


async def wait_for_stop(work: Coroutine[Any, Any, None]) -> None:
    """Do work that has no end of its own: to be cancelled is the end that is meant."""
    with suppress(asyncio.CancelledError):
        await work


async def _cancelled_by_signals(main: Coroutine[Any, Any, None]) -> bool:
    task = asyncio.ensure_future(main)
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return False
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
    return True
