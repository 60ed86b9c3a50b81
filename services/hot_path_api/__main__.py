"""Runs the gateway: `python -m hot_path_api`."""

import asyncio
import sys

from hot_path_api.bootstrap import gateway
from hot_path_api.settings import Settings
from servicekit.costs import show_costs
from servicekit.lifecycle import run
from servicekit.logs import configure_logging
from servicekit.metrics import serve_metrics
from servicekit.settings import load_settings


def main() -> int:
    """Read the settings, serve until told to stop."""
    settings = load_settings(Settings)
    configure_logging("hot_path_api", level=settings.log_level, format=settings.log_format)

    async def serve(stop: asyncio.Event) -> None:
        async with gateway(settings) as server:
            await server.run(stop)

    show_costs("hot_path_api", settings)
    with serve_metrics(settings.metrics_port, settings.host):
        return run(serve)


if __name__ == "__main__":
    sys.exit(main())
