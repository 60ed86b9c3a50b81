"""What the machine must have, and which Debian package has it."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from servers.errors import ServerError

JAVA_RELEASE = 17  # the only one that Kafka 4.4, Cassandra 5.0 and Neo4j 5.26 all run on


def program(name: str, *, package: str) -> str:
    """Give the path of a program.

    Raises:
        ServerError: It is not there; the Debian package is named.
    """
    found = shutil.which(name)
    if found is None:
        raise ServerError(f"{name} is not installed: apt-get install {package}")
    return found


def java(named: str) -> str:
    """Give the path of a Java 17: the one that is named, else the first one found.

    Raises:
        ServerError: There is none, or the named one is another release.
    """
    if named:
        if _release(named) != JAVA_RELEASE:
            raise ServerError(f"SERVERS_JAVA is {named}, which is no Java {JAVA_RELEASE}")
        return named
    for path in _candidates():
        if _release(path) == JAVA_RELEASE:
            return path
    raise ServerError(
        f"Java {JAVA_RELEASE} is not installed: apt-get install openjdk-{JAVA_RELEASE}-jre-headless, "
        "or name one in SERVERS_JAVA"
    )


def _candidates() -> Iterator[str]:
    if home := os.environ.get("JAVA_HOME"):
        yield f"{home}/bin/java"
    if found := shutil.which("java"):
        yield found
    yield from (str(path) for path in sorted(Path("/usr/lib/jvm").glob(f"*{JAVA_RELEASE}*/bin/java")))


def _release(path: str) -> int:
    try:
        said = subprocess.run([path, "-version"], capture_output=True, text=True, check=True, timeout=30).stderr
    except (OSError, subprocess.SubprocessError):
        return 0
    found = re.search(r'version "(\d+)', said)
    return int(found[1]) if found else 0
