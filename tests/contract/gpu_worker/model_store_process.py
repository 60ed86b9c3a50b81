"""Writes a version and is killed while it does: `URL ENDPOINT STAGING TENANT VERSION FUNCTION N`.

The process ends itself as `kill -9` would, just before the N-th call of FUNCTION: `module:name` or `module:class.name`.
"""

import asyncio
import importlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gpu_worker.adapters.model_stores import open_model_store


def die_before(path: str, number: int) -> None:
    """See that the process ends before that call."""
    module, _, name = path.partition(":")
    *owners, attribute = name.split(".")
    owner: Any = importlib.import_module(module)
    for each in owners:
        owner = getattr(owner, each)
    original: Callable[..., Any] = getattr(owner, attribute)
    calls = 0

    def dying(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(owner, attribute, dying)


def main() -> None:
    """Write until the end comes."""
    url, endpoint, staging, tenant, version, function, number = sys.argv[1:]
    store = asyncio.run(open_model_store(url, s3_endpoint_url=endpoint, staging=Path(staging), wait_s=10))
    die_before(function, int(number))
    arrays = {"a": np.arange(3), "b": np.ones((2, 2))}
    store.write(tenant, version, arrays=arrays, items=[b"x"], manifest={"version": version})


if __name__ == "__main__":
    main()
