"""Two of each service and two gateways on the servers of `make servers`, a model trained."""

from collections.abc import Iterator

import pytest
from servers.addresses import Addresses
from servers.stores import make_bucket, settings_for

from e2e.shop import fill, visit_and_train
from e2e.stack import Stack, running_stack


@pytest.fixture(scope="module")
def stack(servers: Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("replicas")
    settings = folder / "stores.env"
    settings.write_text(settings_for(servers))
    make_bucket(servers.settings.s3_port)
    with running_stack(folder, "--settings", str(settings), "--replicas", "2") as stack:
        fill(stack)
        visit_and_train(stack)
        yield stack
