"""Makes by hand what an engine would make of a Dockerfile, and runs it as an engine would.

Everything that the Dockerfile copies, runs and sets is read from it; only what it installs with a distribution's
package manager is taken from this machine. An absolute path of the image lies below the replay's own folder.
"""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from images.dockerfile import Stage, read_dockerfile

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
RECIPE = "docker/make-environment.sh"
CUDA_REQUIREMENTS = "requirements/gpu-worker-cuda.txt"
PACKAGE_MANAGERS = ("apt-get", "dnf")
DOCKERFILES = {
    **dict.fromkeys(
        ("hot-path-api", "vector-search", "graph-service", "profile-store", "fleet-controller", "laptop"),
        DOCKER / "python-service.Dockerfile",
    ),
    "gpu-worker": DOCKER / "gpu-worker.Dockerfile",
}
"""Every image, and what it is made by."""
_PASSED_ON = ("PIP_", "SSL_CERT_", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@dataclass(frozen=True)
class Replay:
    """One image below a folder of its own."""

    service: str
    folder: Path
    python: Path
    pip_cache: Path

    @cached_property
    def stages(self) -> Mapping[str, Stage]:
        """What the Dockerfile says."""
        return read_dockerfile(DOCKERFILES[self.service])

    @property
    def image(self) -> Stage:
        """The last stage."""
        return self.stages[""]

    @property
    def building(self) -> Stage:
        """The stage in which the environment is made."""
        return self.stages["build"]

    @property
    def environment(self) -> Path:
        """Where the environment is."""
        return self.inside(self.recipe[2])

    @property
    def recipe(self) -> list[str]:
        """The command that makes the environment, as the Dockerfile has it, with the service's name put in."""
        (command,) = (command for command in self.building.runs() if command.startswith(RECIPE))
        return shlex.split(command.replace("${SERVICE}", self.service))

    def inside(self, path: str) -> Path:
        """Give where a path of the image lies here."""
        return self.folder / path.removeprefix("/")

    def make(self) -> None:
        """Do what the build stage does, then take away every right to write."""
        source = self.inside(self.building.only("WORKDIR"))
        for copy in self.building.copies():
            for each in copy.sources:
                _copy_known_files(each, source / copy.target)
        for command in self.building.runs():
            if not command.startswith(PACKAGE_MANAGERS):
                self._run(command, source)
        for copy in self.image.copies():
            assert copy.target == copy.sources[0], "a path is the same in both stages"
            assert self.inside(copy.target).exists()
            if copy.owner and os.geteuid() == 0:
                user, group = copy.owner.split(":")
                os.chown(self.inside(copy.target), int(user), int(group))
        self.inside("/tmp").mkdir(mode=0o777)  # noqa: S108 - the image's
        self.inside("/tmp").chmod(0o1777)  # noqa: S108 - the image's
        subprocess.run(["chmod", "-R", "a-w,a+rX", str(self.environment)], check=True)

    def _run(self, command: str, source: Path) -> None:
        words = self.recipe if command.startswith(RECIPE) else shlex.split(command)
        words = [str(self.inside(word)) if word.startswith("/") else word for word in words]
        if words[-1] == CUDA_REQUIREMENTS:
            words.pop()  # gigabytes for a device that is not here; without it the recipe takes those for the CPU
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        environment = {
            **{name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)},
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "PYTHON": str(self.python),
            "PIP_CACHE_DIR": str(self.pip_cache),
            "HOME": str(home),
        }
        done = subprocess.run(words, check=False, cwd=source, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    def settings(self, **settings: str) -> dict[str, str]:
        """Give the environment of a container's process: what the Dockerfile sets, and these."""
        return {**{name: self._here(value) for name, value in self.image.pairs("ENV").items()}, **settings}

    def _here(self, value: str) -> str:
        """Put paths of the image where they are here; those of the system stay."""
        own = tuple(copy.target for copy in self.image.copies())
        parts = (str(self.inside(part)) if part.startswith((*own, "/tmp")) else part for part in value.split(":"))  # noqa: S108 - the image's
        return ":".join(parts)

    def start(self, *arguments: str, log: Path, **settings: str) -> subprocess.Popen[bytes]:
        """Start what the image runs, as its user."""
        entrypoint = [self._here(word) for word in self.image.command("ENTRYPOINT")]
        with log.open("wb") as output:
            return subprocess.Popen(
                [*entrypoint, *arguments], env=self.settings(**settings), stdout=output, stderr=output,
                cwd=self.inside(self.image.only("WORKDIR")), **self._user(),
            )  # fmt: skip

    def is_healthy(self, **settings: str) -> bool:
        """Ask as the engine does."""
        command = [self._here(word) for word in self.image.command("HEALTHCHECK")]
        return self.run(command, **settings).returncode == 0

    def run(self, command: list[str], **settings: str) -> subprocess.CompletedProcess[str]:
        """Run another program in the container, as its user."""
        return subprocess.run(
            command, check=False, env=self.settings(**settings), capture_output=True, text=True, timeout=60,
            cwd=self.inside("/tmp"), **self._user(),  # noqa: S108 - the image's
        )  # fmt: skip

    def ask_python(self, code: str, *arguments: str) -> str:
        """Run a piece of Python in the environment; give what it prints."""
        done = self.run([str(self.environment / "bin" / "python"), "-c", code, *arguments])
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _user(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}  # only root can become somebody else; what is read-only is so for its owner too
        user, group = map(int, self.image.only("USER").split(":"))
        return {"user": user, "group": group, "extra_groups": []}

    def contents(self) -> dict[str, tuple[int, int]]:
        """Give each file of the environment with its size and time."""
        stats = {str(path): path.stat() for path in self.environment.rglob("*") if path.is_file()}
        return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


def python_for_everybody() -> Path:
    """Give a Python 3.11 with venv that another user may run too.

    Raises:
        RuntimeError: There is none.
    """
    for candidate in (Path("/usr/bin/python3.11"), Path(sys.base_prefix) / "bin" / "python3.11"):
        reachable = os.geteuid() != 0 or all(folder.stat().st_mode & 0o001 for folder in candidate.parents)
        if candidate.exists() and reachable:
            tried = subprocess.run([candidate, "-c", "import ensurepip, venv"], check=False, capture_output=True)
            if tried.returncode == 0:
                return candidate
    raise RuntimeError("no Python 3.11 with venv that another user may run: apt-get install python3.11-venv")


def known_files(path: str) -> list[str]:
    """Give the files below a path of the repository that git knows or would add: none that is generated."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "--", path]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [name for name in names if (ROOT / name).is_file()]


def _copy_known_files(source: str, target: Path) -> None:
    """Copy as COPY does: what is in a folder, or a file."""
    names = known_files(source)
    assert names, f"COPY of {source}, which is not there"
    folder = Path(source) if (ROOT / source).is_dir() else Path(source).parent
    for name in names:
        place = target / Path(name).relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, place)
