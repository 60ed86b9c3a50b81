"""`python -m fleet_controller neo4j|qdrant [--dry-run]`: one run; without DRY_RUN=false it only tells."""

import argparse
import sys
from collections.abc import Sequence

from fleet_controller.bootstrap import run_neo4j, run_qdrant
from fleet_controller.settings import FleetSettings
from servicekit.command import run_command
from servicekit.settings import load_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Give 0 when all is as it should be or has been told, 1 when something failed, 2 for a wrong configuration."""
    parser = argparse.ArgumentParser(prog="fleet_controller", description=__doc__)
    parser.add_argument("controller", choices=("neo4j", "qdrant"))
    parser.add_argument("--dry-run", action="store_true", help="only tell, whatever DRY_RUN says")
    chosen = parser.parse_args(arguments)
    settings = load_settings(FleetSettings)
    if chosen.dry_run:
        settings = settings.model_copy(update={"dry_run": True})
    return run_command(run_neo4j(settings) if chosen.controller == "neo4j" else run_qdrant(settings))


if __name__ == "__main__":
    sys.exit(main())
