"""How much CPU each process of a stack used during a run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psutil

from recommend_cli.stack.folder import StackState
from recommend_cli.stack.leftovers import process_of
from recommend_cli.stack.usage import usage_of


class CpuMeter:
    """Reads the CPU clocks of processes before and after each turn of a load."""

    def __init__(self, processes: Mapping[str, psutil.Process | None]) -> None:
        self._processes = processes
        self._spent_s = dict.fromkeys(processes, 0.0)

    @classmethod
    def of_stack(cls, state: StackState) -> "CpuMeter":
        """Measure all services."""
        return cls({name: process_of(service) for name, service in state.services.items()})

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what is used during this block."""
        before = self._read()
        yield
        for name, after_s in self._read().items():
            self._spent_s[name] += after_s - before[name]

    def milliseconds_per(self, requests: int) -> dict[str, float]:
        """Give each process's CPU milliseconds a request, and their total."""
        spent = {name: spent_s * 1000 / requests for name, spent_s in self._spent_s.items()}
        return {**spent, "total": sum(spent.values())}

    def _read(self) -> dict[str, float]:
        return {name: usage_of(process).cpu_s for name, process in self._processes.items()}
