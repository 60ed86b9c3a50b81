"""What all tests share: the real servers, names of one's own, and what is told at the end of a run."""

import uuid
from pathlib import Path

import pytest
from contract_table import ContractTable
from no_skips import NoSkips
from servers.addresses import Addresses
from servers.settings import ServersSettings


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("recommendation engine")
    group.addoption("--contract-report", metavar="FILE", type=Path, help="write the table of contract tests as JSON")
    group.addoption("--no-skips", action="store_true", help="a skipped integration test fails the run")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "contract: of a class that holds a port's promises; set by itself")
    # kafka-python reads its schemas by functions that Python 3.11 calls deprecated and 3.13 does not.
    config.addinivalue_line("filterwarnings", "ignore:(read|open)_text is deprecated:DeprecationWarning")
    config.pluginmanager.register(ContractTable(config.getoption("--contract-report")))
    if config.getoption("--no-skips"):
        config.pluginmanager.register(NoSkips())


@pytest.fixture(scope="session")
def servers() -> Addresses:
    """Where the servers are that `make servers` started; asking for one that is not up fails the test."""
    return Addresses(ServersSettings())


@pytest.fixture
def unique_name() -> str:
    """A name that no other test has, fit for a topic, a keyspace, a bucket or a tenant: letters and digits only."""
    return f"t{uuid.uuid4().hex[:16]}"
