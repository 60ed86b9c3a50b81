"""`python -m fleet_controller neo4j|qdrant [--dry-run]`: one run; without DRY_RUN=false it only tells."""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from fleet_controller.bootstrap import run_neo4j, run_qdrant
from fleet_controller.settings import FleetSettings
from servicekit.errors import ServiceError, StartupError
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
    try:
        asyncio.run(run_neo4j(settings) if chosen.controller == "neo4j" else run_qdrant(settings))
    except StartupError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except ServiceError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
