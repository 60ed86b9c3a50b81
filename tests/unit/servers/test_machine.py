"""A missing program is told with the Debian package that has it; the right Java is found among several."""

from pathlib import Path

import pytest
from servers.errors import ServerError
from servers.machine import java, program


def a_java(folder: Path, release: str) -> Path:
    path = folder / "bin" / "java"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho 'openjdk version \"{release}\" 2025-01-01' >&2\n")
    path.chmod(0o755)
    return path


def test_a_missing_program_is_told_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerError, match=r"^mvn is not installed: apt-get install maven$"):
        program("mvn", package="maven")


def test_the_first_java_of_the_right_release_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_java(tmp_path / "home", "21.0.2")
    right = a_java(tmp_path / "path", "17.0.15")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", f"{right.parent}:/bin:/usr/bin")
    assert java("") == str(right)


def test_a_java_that_is_named_must_be_the_right_one(tmp_path: Path) -> None:
    assert java(named := str(a_java(tmp_path / "right", "17.0.15"))) == named
    wrong = a_java(tmp_path / "wrong", "21.0.2")
    with pytest.raises(ServerError, match=r"^SERVERS_JAVA is .*/wrong/bin/java, which is no Java 17$"):
        java(str(wrong))
    with pytest.raises(ServerError, match="which is no Java 17"):
        java(str(tmp_path / "nowhere"))
