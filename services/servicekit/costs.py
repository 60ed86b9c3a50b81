"""Shows what the settings say about costs: nobody else knows the prices, and dashboards add the replicas up."""

from servicekit.metrics import COMPUTE_COST, STORAGE_COST
from servicekit.settings import ServiceSettings


def show_costs(service: str, settings: ServiceSettings) -> None:
    """Set the gauges of this process; what the settings do not tell has no series.

    Args:
        service: Its name in the metrics.
        settings: Whose region and prices are shown.
    """
    if settings.compute_cost_usd_per_hour:
        COMPUTE_COST.labels(settings.region, service).set(settings.compute_cost_usd_per_hour)
    for storage_type, usd in settings.storage_costs_usd_per_month.items():
        STORAGE_COST.labels(settings.region, storage_type).set(usd)
