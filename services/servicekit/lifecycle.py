"""Runs a service: the event loop, the signals, the exit code."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

import uvloop

from servicekit.errors import ServiceError
from servicekit.logs import get_logger

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def run(main: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    """Run `main` on uvloop until it returns, and give the process's exit code.

    `main` starts the service, waits for the event, which the first SIGTERM or SIGINT sets, stops the service and
    returns. A second signal ends the process at once. An exception out of `main` is logged and gives code 1.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_until_done(main))


async def _until_done(main: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    log = get_logger(__name__)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        log.info("stopping", signal=number.name)
        for each in _SIGNALS:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        stop.set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    try:
        await main(stop)
    except ServiceError as error:
        log.error("the service cannot run", error=error.message)  # noqa: TRY400 - said for people, no bug to trace
        return 1
    except Exception:
        log.exception("the service failed")
        return 1
    return 0
