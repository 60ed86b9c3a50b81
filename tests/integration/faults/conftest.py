"""A stack on servers of its own, which these tests kill, freeze and feed with poison."""

from collections.abc import Iterator

import pytest
from servers.stores import Places, settings_for

from e2e.private_servers import private_servers
from e2e.shop import fill, visit_and_train
from e2e.stack import Stack, running_stack


@pytest.fixture(scope="package")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    with private_servers(tmp_path_factory.mktemp("servers")) as servers:
        yield servers


@pytest.fixture(scope="package")
def stack(private: Places, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("faults")
    settings = folder / "stores.env"
    settings.write_text(settings_for(private))
    with running_stack(folder, "--settings", str(settings)) as stack:
        fill(stack)
        visit_and_train(stack)
        yield stack
