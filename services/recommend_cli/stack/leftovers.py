"""Finds and stops processes that a stack left behind."""

import os
import signal
from contextlib import suppress
from typing import Final

import psutil

from recommend_cli.stack.folder import ServiceState, StackState

_SAME_PROCESS_S: Final = 2.0  # creation times are counted from the boot time, which the clock may correct


def created_at(pid: int) -> float:
    """Give the creation time of a process, which together with its pid identifies it.

    Raises:
        psutil.NoSuchProcess: It is gone.
    """
    return psutil.Process(pid).create_time()


def process_of(service: ServiceState) -> psutil.Process | None:
    """Give the service's process, if it is the one that the stack started and still lives."""
    return _process(service.pid, service.started_at)


def supervisor_of(state: StackState) -> psutil.Process | None:
    """Give the supervisor's process, if it still lives."""
    return _process(state.supervisor_pid, state.supervisor_started_at)


def stop_leftovers(state: StackState, *, timeout_s: float) -> int:
    """Stop the services of a stack whose supervisor is gone; give how many were still there."""
    processes = [process for service in state.services.values() if (process := process_of(service))]
    for process in processes:
        process.terminate()
    _, stubborn = psutil.wait_procs(processes, timeout=timeout_s)
    for process in stubborn:
        process.kill()
    psutil.wait_procs(stubborn, timeout=timeout_s)
    for service in state.services.values():
        if _is_same_or_gone(service):
            kill_group(service.pid)
    return len(processes)


def kill_group(leader: int) -> None:
    """Kill a service, if it still runs, and whatever it started: each service leads a process group of its own."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _is_same_or_gone(service: ServiceState) -> bool:
    """Tell whether the pid is not another process's by now."""
    try:
        return abs(created_at(service.pid) - service.started_at) < _SAME_PROCESS_S
    except psutil.NoSuchProcess:
        return True


def _process(pid: int, started_at: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started_at) < _SAME_PROCESS_S
    except psutil.NoSuchProcess:
        return None
    return process if same and process.status() != psutil.STATUS_ZOMBIE else None
