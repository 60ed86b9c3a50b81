"""The jars of a server: fetched from Maven once, by the pom of that name, then taken from the cache."""

import fcntl
import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from servers.errors import ServerError
from servers.machine import program

POMS = Path(__file__).parent / "poms"
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
FETCH_S = 600.0


def jars(name: str, cache_dir: Path) -> Path:
    """Give the folder of a server's jars; nothing is asked of the network when the pom is as it was.

    Raises:
        ServerError: Maven is missing or could not fetch them.
    """
    pom = POMS / f"{name}.xml"
    folder = cache_dir / f"{name}-{hashlib.sha256(pom.read_bytes()).hexdigest()[:12]}"
    if folder.exists():
        return folder
    with locked(cache_dir / "lock"):  # Maven's repository is no place for two
        if not folder.exists():
            _fetch(pom, folder, repository=cache_dir / "maven")
    return folder


def _fetch(pom: Path, folder: Path, *, repository: Path) -> None:
    maven = program("mvn", package="maven")
    unfinished = folder.with_suffix(".part")
    shutil.rmtree(unfinished, ignore_errors=True)
    options = [f"-Dmaven.repo.local={repository}", f"-DoutputDirectory={unfinished}", "-DincludeScope=runtime"]
    command = [maven, "--batch-mode", "--quiet", "--strict-checksums", "--file", str(pom), *options, COPY]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=FETCH_S)
    except subprocess.TimeoutExpired as error:
        raise ServerError(f"fetching {pom.stem} took more than {FETCH_S:.0f} s") from error
    if done.returncode != 0:
        raise ServerError(f"fetching {pom.stem} failed:\n{(done.stdout + done.stderr)[-2_000:]}")
    unfinished.rename(folder)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock against other threads and processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
