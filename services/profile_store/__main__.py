"""Starts profile_store: `python -m profile_store`."""

import sys

from profile_store import bootstrap
from profile_store.settings import ProfileStoreSettings
from servicekit.lifecycle import run
from servicekit.logs import configure_logging
from servicekit.settings import load_settings


def main() -> int:
    """Read the settings and run until told to stop; give the exit code."""
    settings = load_settings(ProfileStoreSettings)
    configure_logging("profile_store", level=settings.log_level, format=settings.log_format)
    return run(lambda stop: bootstrap.run(settings, stop))


if __name__ == "__main__":
    sys.exit(main())
