"""Ends a command of a service as people and scripts expect: a line about what is wrong, and an exit code."""

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any

from servicekit.errors import ServiceError, StartupError
from servicekit.settings import BAD_SETTINGS_EXIT_CODE


def run_command(work: Coroutine[Any, Any, None]) -> int:
    """Do the work; give 0, 1 when it failed, 2 when the configuration is wrong."""
    try:
        asyncio.run(work)
    except StartupError as error:
        sys.stderr.write(f"{error}\n")
        return BAD_SETTINGS_EXIT_CODE
    except ServiceError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    return 0
