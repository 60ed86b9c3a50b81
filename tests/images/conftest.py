"""Every image, replayed once."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from images.replay import DOCKERFILES, Replay, python_for_everybody

_AT_ONCE = 2
_MAKING_S = 1_800


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give whoever may be the first the time that making all images takes."""
    for item in items:
        if isinstance(item, pytest.Function) and "images" in item.fixturenames:
            item.add_marker(pytest.mark.timeout(_MAKING_S))


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder that other users may enter, which pytest's own is not."""
    made = Path(tempfile.mkdtemp(prefix="images-"))
    made.chmod(0o755)
    yield made
    subprocess.run(["chmod", "-R", "u+w", str(made)], check=True)
    shutil.rmtree(made)


@pytest.fixture(scope="session")
def images(folder: Path) -> dict[str, Replay]:
    """All images by name, made."""
    python = python_for_everybody()
    replays = {name: Replay(name, folder / name, python, folder / "pip") for name in DOCKERFILES}
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(Replay.make, replays.values()))
    return replays


@pytest.fixture(params=sorted(DOCKERFILES))
def image(request: pytest.FixtureRequest, images: dict[str, Replay]) -> Replay:
    """Each image."""
    return images[request.param]
