"""Migrates the schema of the store on CQL: `python -m profile_store.migrate [--phase expand|contract] [--dry-run]`."""

import sys
from collections.abc import Sequence

from profile_store.bootstrap import open_migration_target, read_migrations
from profile_store.settings import ProfileStoreSettings
from servicekit.logs import configure_logging
from servicekit.migrate_command import run_migrate_command
from servicekit.settings import load_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the settings and do what the command line says; give the exit code."""
    settings = load_settings(ProfileStoreSettings)
    configure_logging("profile_store", level=settings.log_level, format=settings.log_format)
    if not settings.profile_store_url:
        sys.stdout.write("PROFILE_STORE_URL is not set: the store in the data folder migrates itself at start\n")
        return 0
    return run_migrate_command(
        "profile_store", lambda: open_migration_target(settings), read_migrations(settings), arguments
    )


if __name__ == "__main__":
    sys.exit(main())
