"""Jars are fetched once; a fetch that fails or dies leaves nothing that looks whole."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from servers.artifacts import jars
from servers.errors import ServerError

FETCHES = """
for argument in "$@"; do case "$argument" in -DoutputDirectory=*) folder="${argument#*=}";; esac; done
mkdir "$folder" && echo jar >"$folder/a.jar"
"""


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
    return folder


def a_maven(folder: Path, script: str) -> Path:
    """A Maven that writes down each call and runs the script."""
    path = folder / "mvn"
    path.write_text(f'#!/bin/sh\necho "$@" >>{folder}/calls\n{script}')
    path.chmod(0o755)
    return folder / "calls"


def test_jars_are_fetched_once_however_many_ask(tmp_path: Path, bin_folder: Path) -> None:
    calls = a_maven(bin_folder, FETCHES)
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: jars("kafka", tmp_path / "cache"), range(4)))
    assert len(set(folders)) == 1
    assert [path.name for path in folders[0].iterdir()] == ["a.jar"]
    (call,) = calls.read_text().splitlines()
    assert f"-Dmaven.repo.local={tmp_path}/cache/maven" in call


def test_what_is_in_the_cache_needs_no_maven(tmp_path: Path, bin_folder: Path) -> None:
    a_maven(bin_folder, FETCHES)
    folder = jars("kafka", tmp_path / "cache")
    (bin_folder / "mvn").unlink()
    assert jars("kafka", tmp_path / "cache") == folder


def test_a_fetch_that_failed_is_told_and_made_again(tmp_path: Path, bin_folder: Path) -> None:
    a_maven(bin_folder, FETCHES + "echo no such host; exit 1\n")
    with pytest.raises(ServerError, match="fetching kafka failed:\nno such host"):
        jars("kafka", tmp_path / "cache")
    calls = a_maven(bin_folder, FETCHES)
    assert (jars("kafka", tmp_path / "cache") / "a.jar").exists()
    assert len(calls.read_text().splitlines()) == 2
