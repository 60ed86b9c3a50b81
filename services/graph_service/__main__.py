"""Starts graph_service: `python -m graph_service`."""

import sys

from graph_service import bootstrap
from graph_service.settings import GraphServiceSettings
from servicekit.lifecycle import run
from servicekit.logs import configure_logging
from servicekit.settings import load_settings


def main() -> int:
    """Read the settings and run until told to stop; give the exit code."""
    settings = load_settings(GraphServiceSettings)
    configure_logging("graph_service", level=settings.log_level, format=settings.log_format)
    return run(lambda stop: bootstrap.run(settings, stop))


if __name__ == "__main__":
    sys.exit(main())
