"""The compose files in each combination, as docker-compose itself understands them."""

import functools
import itertools
import subprocess
from pathlib import Path
from typing import Any

import yaml

from images.replay import DOCKER, ROOT

BASE = DOCKER / "compose.yaml"
EXAMPLES = DOCKER / "example.env"
ADDED = tuple(sorted(DOCKER.glob("compose.*.yaml")))
COMBINATIONS = [(BASE, *chosen) for count in range(len(ADDED) + 1) for chosen in itertools.combinations(ADDED, count)]
"""The base alone, and with each choice of the others."""


def config(files: tuple[Path, ...], *, secrets: Path = EXAMPLES) -> subprocess.CompletedProcess[str]:
    """Let docker-compose put the files together."""
    chosen = [word for path in files for word in ("--file", str(path))]
    return subprocess.run(
        ["docker-compose", "--env-file", str(secrets), *chosen, "config"],
        check=False, cwd=ROOT, env={"PATH": "/usr/local/bin:/usr/bin:/bin"}, capture_output=True, text=True,
    )  # fmt: skip


@functools.cache
def composed(files: tuple[Path, ...]) -> dict[str, Any]:
    """Give what comes out; everybody gets the same, so change nothing."""
    done = config(files)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = yaml.safe_load(done.stdout)
    return document
