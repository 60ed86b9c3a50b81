"""How inner loops are compiled: by numba at their first call, without the GIL, into a cache that outlives the process.

The cache lies beside the modules, or in NUMBA_CACHE_DIR. A service with such loops fills it ahead by
`python -m SERVICE.warm`.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])

compiled = cast("Callable[[Function], Function]", numba.njit(cache=True, nogil=True))
"""Compiles a function that gives exactly what Python would give."""

compiled_loosely = cast("Callable[[Function], Function]", numba.njit(cache=True, nogil=True, fastmath=True))
"""Compiles a function whose sums may be taken in any order, so that they are vectorised."""


@contextmanager
def quickly_loaded() -> Iterator[None]:
    """Spare numba the load of all linear algebra, as long as nobody has imported it yet; for the first calls."""
    module = "scipy.linalg"
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]  # the documented way to say that it cannot be imported
    try:
        yield
    finally:
        del sys.modules[module]


def run_warming(warm: Callable[[], None]) -> None:
    """Compile, and say how long it took: the command `python -m SERVICE.warm`."""
    began = time.perf_counter()
    warm()
    sys.stdout.write(f"kernels compiled in {time.perf_counter() - began:.1f} s\n")
