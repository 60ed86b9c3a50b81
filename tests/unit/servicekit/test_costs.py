"""Costs are shown as the settings tell them."""

from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY, generate_latest

from servicekit.costs import show_costs
from servicekit.metrics import COMPUTE_COST, STORAGE_COST
from servicekit.settings import ServiceSettings


@pytest.fixture(autouse=True)
def _forgotten_afterwards() -> Iterator[None]:
    yield
    COMPUTE_COST.clear()
    STORAGE_COST.clear()


def _costs() -> list[str]:
    lines = generate_latest(REGISTRY).decode().splitlines()
    return sorted(line for line in lines if "_cost_usd" in line and not line.startswith("#"))


def test_prices_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGION", "eu-west-1")
    monkeypatch.setenv("COMPUTE_COST_USD_PER_HOUR", "0.34")
    monkeypatch.setenv("STORAGE_COSTS_USD_PER_MONTH", '{"ssd": 120, "bucket": 23.5}')
    show_costs("gpu_worker", ServiceSettings())
    assert _costs() == [
        'compute_cost_usd_per_hour{region="eu-west-1",service="gpu_worker"} 0.34',
        'storage_cost_usd_per_month{region="eu-west-1",storage_type="bucket"} 23.5',
        'storage_cost_usd_per_month{region="eu-west-1",storage_type="ssd"} 120.0',
    ]


def test_what_is_not_told_is_not_shown() -> None:
    show_costs("gpu_worker", ServiceSettings())
    assert _costs() == []


@pytest.mark.parametrize(
    ("name", "value"), [("compute_cost_usd_per_hour", -1), ("storage_costs_usd_per_month", {"ssd": -1})]
)
def test_a_negative_price_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        ServiceSettings(**{name: value})  # type: ignore[arg-type]
