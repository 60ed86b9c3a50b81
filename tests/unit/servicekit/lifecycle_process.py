"""A service for the tests of the life cycle: `python lifecycle_process.py MODE`."""

import asyncio
import sys

from servicekit.errors import FailedPreconditionError, StartupError
from servicekit.lifecycle import run


async def main(stop: asyncio.Event) -> None:
    mode = sys.argv[1]
    if mode == "crash":
        raise ValueError("broken")
    if mode == "refuse":
        raise FailedPreconditionError("the schema is too new")
    if mode == "misconfigured":
        raise StartupError("the keyspace is missing; run `recommend migrate`")
    sys.stdout.write(f"ready {type(asyncio.get_running_loop()).__module__}\n")
    sys.stdout.flush()
    await stop.wait()
    if mode == "slow":
        await asyncio.sleep(60)
    sys.stdout.write("finished\n")


sys.exit(run(main))
