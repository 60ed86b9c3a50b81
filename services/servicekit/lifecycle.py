"""Runs a service: the event loop, the signals, the exit code."""

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable

import uvloop

from servicekit.errors import ServiceError, StartupError
from servicekit.logs import get_logger
from servicekit.settings import BAD_SETTINGS_EXIT_CODE

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# A terminal's Ctrl-C and a supervisor's SIGTERM may both arrive for one wish to stop.
_SAME_WISH_S = 1.0
# Each request makes thousands of objects and hardly any cycle. With Python's own thresholds the search for cycles costs
# a tenth of all CPU time, and its pauses double the slowest answers.
_COLLECT_AFTER = (100_000, 50, 100)
_STARTED_AFTER_S = 5.0


def run(main: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    """Run `main` on uvloop until it returns, and give the process's exit code.

    `main` starts the service, waits for the event, which the first SIGTERM or SIGINT sets, stops the service and
    returns. Another signal, a second later or more, ends the process at once. An exception out of `main` is logged and
    gives code 1; a StartupError is one line on standard error and gives code 2, as a bad setting does.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_until_done(main))


async def _until_done(main: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    log = get_logger(__name__)
    loop = asyncio.get_running_loop()
    gc.set_threshold(*_COLLECT_AFTER)
    loop.call_later(_STARTED_AFTER_S, gc.freeze)  # what the start made stays; it is not searched again
    stop = asyncio.Event()
    stopping: list[asyncio.TimerHandle] = []

    def on_signal(number: signal.Signals) -> None:
        if not stopping:
            log.info("stopping", signal=number.name)
            stopping.append(loop.call_later(_SAME_WISH_S, restore_signals))
            stop.set()

    def restore_signals() -> None:
        for each in _SIGNALS:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        await main(stop)
    except StartupError as error:
        sys.stderr.write(f"{error}\n")
        return BAD_SETTINGS_EXIT_CODE
    except ServiceError as error:
        log.error("the service cannot run", error=error.message)  # noqa: TRY400 - said for people, no bug to trace
        return 1
    except Exception:
        log.exception("the service failed")
        return 1
    return 0
