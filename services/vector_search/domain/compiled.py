"""How inner loops are compiled: by numba at their first call, without the GIL, into a cache that outlives the process.

`python -m vector_search.warm` fills the cache ahead.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., Any])

compiled = cast("Callable[[Function], Function]", numba.njit(cache=True, nogil=True))
"""Compiles a function that gives exactly what Python would give."""

compiled_loosely = cast("Callable[[Function], Function]", numba.njit(cache=True, nogil=True, fastmath=True))
"""Compiles a function whose sums may be taken in any order, so that they are vectorised."""
