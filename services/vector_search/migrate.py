"""Migrates the collections in Qdrant: `python -m vector_search.migrate`; the embedded ones need it not."""

import sys
from collections.abc import Sequence

from servicekit.migrate_command import run_migrate_command
from servicekit.settings import load_settings
from vector_search import bootstrap
from vector_search.settings import VectorSearchSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and give the exit code."""
    settings = load_settings(VectorSearchSettings)
    if not settings.vector_store_url:
        sys.stdout.write("vector_search: the embedded collections migrate themselves\n")
        return 0
    from vector_search.adapters.qdrant_schema import migrations  # noqa: PLC0415 - only who has Qdrant needs its driver

    return run_migrate_command("vector_search", lambda: bootstrap.migration_target(settings), migrations(), arguments)


if __name__ == "__main__":
    sys.exit(main())
