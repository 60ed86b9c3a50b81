"""The services run from read-only trees as another user, say so themselves, serve, and stop when told."""

import asyncio
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from images.replay import Replay
from servicekit.testing import eventually, free_port

_START_S = 120.0
_GRACE_S = 5
_STACK = ("profile-store", "vector-search", "graph-service", "gpu-worker", "hot-path-api")
_ENDPOINTS = {
    "profile-store": "AGENTDB_ENDPOINT",
    "vector-search": "VECTOR_DB_ENDPOINT",
    "graph-service": "GRAPH_DB_ENDPOINT",
    "gpu-worker": "GPU_WORKER_ENDPOINT",
}


@dataclass
class Container:
    """A process from an image, and what it was told."""

    image: Replay
    settings: dict[str, str]
    log: Path
    before: dict[str, tuple[int, int]] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str) -> None:
        self.before = self.image.contents()
        self.process = self.image.start(*arguments, log=self.log, **self.settings)

    def is_healthy(self) -> bool:
        return self.image.is_healthy(**self.settings)

    def wait_until_healthy(self, *, says: str = "") -> None:
        assert self.process is not None
        deadline = time.monotonic() + _START_S
        while not self.is_healthy() or says not in self.log.read_text():
            assert self.process.poll() is None, f"{self.image.service} ended:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"{self.image.service} does not serve:\n{self.log.read_text()}"

    def stop(self) -> int:
        """Stop as an engine does: it kills who is still there after the grace."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(_GRACE_S + 10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def kernels(image: Replay) -> dict[str, bytes]:
    """What was compiled ahead."""
    (folder,) = (image.environment / "kernels").iterdir()
    return files(folder)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def container(image: Replay, folder: Path, **settings: str) -> Container:
    common = {
        "HOST": "127.0.0.1",
        "METRICS_PORT": "0",
        "SHUTDOWN_GRACE_S": str(_GRACE_S),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    return Container(image, {**common, **settings}, folder / f"{image.service}.log")


@pytest.fixture(scope="module")
def shared(folder: Path) -> Path:
    """Where the services of a stack with embedded stores meet."""
    made = folder / "shared"
    made.mkdir()
    if os.geteuid() == 0:
        os.chown(made, 1000, 1000)
    return made


@pytest.fixture(scope="module")
def stack(images: dict[str, Replay], folder: Path, shared: Path) -> Iterator[dict[str, Container]]:
    ports = {name: str(free_port()) for name in _STACK}
    told = {
        "EVENT_LOG_URL": f"sqlite:///{shared}/log",
        "MODEL_STORE_URL": (shared / "models").as_uri(),
        "AUTH_REQUIRED": "false",
        "AGENTDB_PORT": str(free_port()),
        **{setting: f"127.0.0.1:{ports[name]}" for name, setting in _ENDPOINTS.items()},
    }
    containers = {
        name: container(images[name], folder, **told, GRPC_PORT=ports[name], HTTP_PORT=ports[name]) for name in _STACK
    }
    with all_stopped(*containers.values()):
        for each in containers.values():
            assert not each.is_healthy()
            each.start()
        for each in containers.values():
            each.wait_until_healthy()
        yield containers


@contextmanager
def all_stopped(*containers: Container) -> Iterator[None]:
    try:
        yield
    finally:
        for each in containers:
            if each.process is not None and each.process.poll() is None:
                each.process.kill()
                each.process.wait()


def call(gateway: Container, method: str, path: str, body: object = None) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{gateway.settings['HTTP_PORT']}{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
        method=method,
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=30) as answer:
        got: dict[str, Any] = json.load(answer)
    return got


async def test_all_of_them_make_a_list_together(stack: dict[str, Container]) -> None:
    gateway = stack["hot-path-api"]
    items = [{"item_id": f"film-{n}", "item_type": "film", "title": f"Film {n}"} for n in range(5)]
    call(gateway, "POST", "/api/v1/items/bulk", {"items": items})
    events = [
        {"user_id": user, "item_id": "film-0", "item_type": "film", "interaction_type": "like"}
        for user in ("ann", "bob")
    ]
    call(gateway, "POST", "/api/v1/interactions/bulk", {"interactions": events})

    async def has_a_list() -> bool:  # the services hear of items by the event log
        answer = await asyncio.to_thread(call, gateway, "GET", "/api/recommendations?user_id=ann&limit=3")
        return len(answer["items"]) == 3

    await eventually(has_a_list, timeout_s=60.0)


@pytest.mark.parametrize("service", ["vector-search", "graph-service"])
def test_nothing_is_compiled_at_the_start(service: str, stack: dict[str, Container]) -> None:
    image = stack[service].image
    assert len(kernels(image)) > 10
    assert files(Path(image.settings()["NUMBA_CACHE_DIR"])) == kernels(image)


def test_each_stops_when_told_and_its_tree_is_as_it_was(stack: dict[str, Container]) -> None:
    for each in reversed(stack.values()):
        assert each.stop() == 0, each.log.read_text()
        assert not each.is_healthy()
        assert each.image.contents() == each.before


def test_the_laptops_image_runs_everything_in_one_container(images: dict[str, Replay], folder: Path) -> None:
    laptop = container(images["laptop"], folder, HTTP_PORT=str(free_port()))
    with all_stopped(laptop):
        assert not laptop.is_healthy()
        laptop.start()
        laptop.wait_until_healthy(says="Up in")  # until then to be stopped is to be interrupted
        assert files(Path(laptop.image.settings()["NUMBA_CACHE_DIR"])) == kernels(laptop.image)
        assert laptop.stop() == 0, laptop.log.read_text()
    assert laptop.image.contents() == laptop.before


def test_the_laptops_image_has_the_command(images: dict[str, Replay]) -> None:
    laptop = images["laptop"]
    done = laptop.run([str(laptop.environment / "bin" / "recommend"), "--help"])
    assert done.returncode == 0, done.stderr
    assert "demo" in done.stdout


def test_the_fleet_controller_is_a_job(images: dict[str, Replay], folder: Path) -> None:
    job = container(images["fleet-controller"], folder, QDRANT_REST_URL=f"http://127.0.0.1:{free_port()}")
    job.start("qdrant", "--dry-run")
    assert job.process is not None
    assert job.process.wait(_START_S) == 1
    assert len(job.log.read_text().splitlines()) == 1
    assert job.is_healthy()


@pytest.mark.parametrize("service", ["profile-store", "graph-service"])
def test_an_image_migrates_its_own_store(service: str, images: dict[str, Replay]) -> None:
    image = images[service]
    module = f"{service.replace('-', '_')}.migrate"
    done = image.run([str(image.environment / "bin" / "python"), "-m", module])
    assert (done.returncode, done.stderr) == (0, "")
    assert "migrates itself" in done.stdout


def test_the_probe_can_be_named_too(images: dict[str, Replay]) -> None:
    image = images["profile-store"]
    probe = [str(image.environment / "bin" / "python"), "-m", "servicekit.probe"]
    assert image.run(probe).returncode == 2
    assert image.run([*probe, f"127.0.0.1:{free_port()}"]).returncode == 1
