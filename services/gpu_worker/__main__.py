"""Starts gpu_worker: `python -m gpu_worker`."""

import sys

from gpu_worker import bootstrap
from gpu_worker.settings import GpuWorkerSettings
from servicekit.lifecycle import run
from servicekit.logs import configure_logging
from servicekit.settings import load_settings


def main() -> int:
    """Read the settings and run until told to stop; give the exit code."""
    settings = load_settings(GpuWorkerSettings)
    configure_logging("gpu_worker", level=settings.log_level, format=settings.log_format)
    return run(lambda stop: bootstrap.run(settings, stop))


if __name__ == "__main__":
    sys.exit(main())
