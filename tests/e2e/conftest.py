"""One real stack for the journeys: five processes on a folder of their own, started by the command."""

from collections.abc import Iterator

import pytest

from e2e.stack import Stack, running_stack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack
