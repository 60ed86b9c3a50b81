"""How much CPU each process of a stack used during a run."""

from collections.abc import Mapping

import psutil

from recommend_cli.stack.folder import StackState
from recommend_cli.stack.leftovers import process_of
from recommend_cli.stack.usage import usage_of


class CpuMeter:
    """Reads the CPU clocks of processes; made before a run, asked after it."""

    def __init__(self, processes: Mapping[str, psutil.Process | None]) -> None:
        self._processes = processes
        self._before = self._read()

    @classmethod
    def of_stack(cls, state: StackState) -> "CpuMeter":
        """Measure all services."""
        return cls({name: process_of(service) for name, service in state.services.items()})

    def milliseconds_per(self, requests: int) -> dict[str, float]:
        """Give each process's CPU milliseconds a request since the start, and their total."""
        after = self._read()
        spent = {name: (after[name] - before) * 1000 / requests for name, before in self._before.items()}
        return {**spent, "total": sum(spent.values())}

    def _read(self) -> dict[str, float]:
        return {name: usage_of(process).cpu_s for name, process in self._processes.items()}
