"""Keeps the services of one stack running: starts them all at once, restarts what dies, stops in the reverse order."""

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Final

from recommend_cli.errors import CommandError
from recommend_cli.stack.folder import Phase, RunFolder, ServiceState, StackState
from recommend_cli.stack.health import wait_until_ready
from recommend_cli.stack.leftovers import created_at, kill_group, stop_leftovers
from recommend_cli.stack.plan import ServicePlan, StackPlan

READY_TIMEOUT_S: Final = 90.0
STOP_TIMEOUT_S: Final = 8.0  # longer than a service's own grace
_FIRST_BACKOFF_S: Final = 0.1
_LONGEST_BACKOFF_S: Final = 10.0
_STABLE_S: Final = 30.0  # whoever lived this long starts again without a wait
_START_TRIES: Final = 3
_BAD_SETTINGS_EXIT: Final = 2
_TETHER: Final = Path(__file__).with_name("tether.py")


def tethered(command: Sequence[str]) -> tuple[str, ...]:
    """Give a command that runs the given one and is stopped when this process is gone, whatever ended it."""
    return (sys.executable, "-ISE", str(_TETHER), str(os.getpid()), *command)


class Supervisor:
    """Runs one stack: `start`, then `run` until cancelled, then `stop`. The caller holds the folder's lock meanwhile.

    Args:
        plan: The services.
        folder: Where state and logs go.
        tell: Takes a sentence for people whenever something happens to a service.
        on_ready: Takes the name of a service each time it became ready.
    """

    def __init__(
        self,
        plan: StackPlan,
        folder: RunFolder,
        *,
        tell: Callable[[str], None],
        on_ready: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._tell = tell
        self._on_ready = on_ready
        self._ready = {service.name: asyncio.Event() for service in plan.services}
        self._processes: dict[str, Process] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._state = StackState(
            supervisor_pid=os.getpid(),
            supervisor_started_at=created_at(os.getpid()),
            phase="starting",
            urls=plan.urls,
            auth=plan.auth,
            settings_file=str(plan.stores.file or ""),
            tenant=plan.stores.tenant,
        )

    @property
    def state(self) -> StackState:
        """The stack as it is now."""
        return self._state

    async def start(self) -> None:
        """Start all services and wait until they are ready.

        Raises:
            CommandError: One does not start, or is not ready in time; the others are stopped again.
        """
        left = self._folder.read_state()
        if left is not None and (count := await asyncio.to_thread(stop_leftovers, left, timeout_s=STOP_TIMEOUT_S)):
            self._tell(f"Stopped {count} services that an earlier stack had left behind")
        self._enter_phase("starting")
        self._keepers = [asyncio.create_task(self._keep(service)) for service in self._plan.services]
        try:
            await self._wait_until_all_ready()
        except BaseException:
            await self.stop()
            raise
        self._enter_phase("ready")

    async def run(self) -> None:
        """Keep the services running until cancelled."""
        await asyncio.gather(*self._keepers)

    async def stop(self) -> None:
        """Stop all services, who asks before who is asked. Cancelling this kills what is still there."""
        self._enter_phase("stopping")
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        try:
            for _, replicas in groupby(reversed(self._plan.services), key=lambda each: each.service):
                await asyncio.gather(*(self._stop_one(each.name) for each in replicas))
        finally:
            for process in self._processes.values():
                kill_group(process.pid)
            self._folder.remove_state()

    async def _wait_until_all_ready(self) -> None:
        ready = asyncio.create_task(self._all_ready())
        try:
            done, _ = await asyncio.wait(
                {ready, *self._keepers}, timeout=READY_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            ready.cancel()
        for task in done - {ready}:
            task.result()  # a keeper only ends by its error
        late = [name for name, event in self._ready.items() if not event.is_set()]
        if late:
            raise CommandError(
                f"Not ready within {READY_TIMEOUT_S:.0f} s: {', '.join(late)}",
                hint=self._log_hint(late[0]),
            )

    async def _all_ready(self) -> None:
        for event in self._ready.values():
            await event.wait()

    async def _keep(self, service: ServicePlan) -> None:
        """Start a service again whenever it ends.

        Raises:
            CommandError: It never became ready in the first tries.
        """
        backoff_s, restarts = 0.0, 0
        while True:
            started, logged = time.monotonic(), self._folder.rotate_log(service.name)
            process = await self._spawn(service, restarts)
            watcher = asyncio.create_task(self._announce_when_ready(service, started, restarts))
            try:
                code = await process.wait()
            finally:
                watcher.cancel()
            kill_group(process.pid)
            said = self._folder.plain_lines(service.name, logged) if code == _BAD_SETTINGS_EXIT else ()
            how = " | ".join(said) or (f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}")
            if not self._ready[service.name].is_set() and (code == _BAD_SETTINGS_EXIT or restarts + 1 >= _START_TRIES):
                raise CommandError(
                    f"{service.name} does not start: {how}", hint="" if said else self._log_hint(service.name)
                )
            stable = time.monotonic() - started > _STABLE_S
            backoff_s = _FIRST_BACKOFF_S if stable or not backoff_s else min(2 * backoff_s, _LONGEST_BACKOFF_S)
            restarts += 1
            self._tell(f"{service.name} ended ({how}); it starts again in {backoff_s:.1f} s")
            await asyncio.sleep(backoff_s)

    async def _announce_when_ready(self, service: ServicePlan, started: float, restarts: int) -> None:
        await wait_until_ready(service.endpoint, service.protocol)
        self._ready[service.name].set()
        self._on_ready(service.name)
        if restarts:
            self._tell(f"{service.name} serves again after {time.monotonic() - started:.1f} s")

    async def _spawn(self, service: ServicePlan, restarts: int) -> Process:
        with self._folder.log_path(service.name).open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *tethered(service.command),
                stdin=DEVNULL, stdout=log, stderr=log, env=dict(service.environment),
                start_new_session=True,  # so that Ctrl-C reaches the supervisor alone, which stops them in order
            )  # fmt: skip
        self._processes[service.name] = process
        state = ServiceState(
            service=service.service,
            pid=process.pid,
            started_at=created_at(process.pid),
            endpoint=service.endpoint,
            protocol=service.protocol,
            metrics_port=service.metrics_port,
            restarts=restarts,
        )
        self._state = replace(self._state, services={**self._state.services, service.name: state})
        self._folder.write_state(self._state)
        return process

    async def _stop_one(self, name: str) -> None:
        process = self._processes.get(name)
        if process is None:
            return
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await process.wait()
            except TimeoutError:
                self._tell(f"{name} did not stop within {STOP_TIMEOUT_S:.0f} s and was killed")
        kill_group(process.pid)
        await process.wait()

    def _enter_phase(self, phase: Phase) -> None:
        self._state = replace(self._state, phase=phase)
        self._folder.write_state(self._state)

    def _log_hint(self, name: str) -> str:
        return f"the end of {self._folder.log_path(name)}:\n{self._folder.log_tail(name)}"
