"""What a process and those that it started use of the machine."""

import time
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Usage:
    """Resident memory, and the CPU time since the start; all zero for a process that is gone."""

    pid: int = 0
    memory_bytes: int = 0
    cpu_s: float = 0.0
    age_s: float = 0.0


def usage_of(process: psutil.Process | None, *, with_descendants: bool = True) -> Usage:
    """Measure a process, unless told otherwise together with its descendants, those that have ended included."""
    if process is None:
        return Usage()
    try:
        age_s = time.time() - process.create_time()
        own = process.cpu_times()
        cpu_s = own.user + own.system
        memory_bytes = process.memory_info().rss
        descendants = process.children(recursive=True) if with_descendants else []
    except psutil.NoSuchProcess:
        return Usage()
    if with_descendants:
        cpu_s += own.children_user + own.children_system
    for descendant in descendants:
        try:
            times = descendant.cpu_times()
            memory_bytes += descendant.memory_info().rss
        except psutil.NoSuchProcess:
            continue
        cpu_s += times.user + times.system
    return Usage(process.pid, memory_bytes, cpu_s, age_s)
