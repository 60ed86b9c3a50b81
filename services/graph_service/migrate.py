"""Migrates the schema of the graph in Neo4j: `python -m graph_service.migrate`; the embedded store needs none."""

import sys
from collections.abc import Sequence

from graph_service import bootstrap
from graph_service.settings import GraphServiceSettings
from servicekit.migrate_command import run_migrate_command
from servicekit.settings import load_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and give the exit code."""
    settings = load_settings(GraphServiceSettings)
    if not settings.graph_store_url:
        sys.stdout.write("graph_service: the embedded store migrates itself\n")
        return 0
    from graph_service.adapters.neo4j.schema import migrations  # noqa: PLC0415 - only who has Neo4j needs its driver

    return run_migrate_command("graph_service", lambda: bootstrap.migration_target(settings), migrations(), arguments)


if __name__ == "__main__":
    sys.exit(main())
