"""Starts vector_search: `python -m vector_search`."""

import sys

from servicekit.lifecycle import run
from servicekit.logs import configure_logging
from servicekit.settings import load_settings
from vector_search import bootstrap
from vector_search.settings import VectorSearchSettings

_SWITCH_INTERVAL_S = 0.001  # the engine of dense vectors holds the GIL in each call: let others in after every one


def main() -> int:
    """Read the settings and run until told to stop; give the exit code."""
    settings = load_settings(VectorSearchSettings)
    configure_logging("vector_search", level=settings.log_level, format=settings.log_format)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    return run(lambda stop: bootstrap.run(settings, stop))


if __name__ == "__main__":
    sys.exit(main())
