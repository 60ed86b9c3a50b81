"""Signals stop a process in order, and its exit code tells how it went."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def spawned() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def start(spawned: list[subprocess.Popen[str]], mode: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("lifecycle_process.py")), mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    spawned.append(process)
    return process


def wait_until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready uvloop\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_in_order(spawned: list[subprocess.Popen[str]], number: signal.Signals) -> None:
    process = start(spawned, "wait")
    wait_until_ready(process)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert f"signal={number.name}" in out
    assert out.endswith("\nfinished\n")


def test_a_later_signal_ends_it_at_once(spawned: list[subprocess.Popen[str]]) -> None:
    process = start(spawned, "slow")
    wait_until_ready(process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)  # the same wish to stop
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM


def test_a_crash_is_an_exit_code(spawned: list[subprocess.Popen[str]]) -> None:
    process = start(spawned, "crash")
    out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "ValueError: broken" in out + err


def test_a_refusal_is_told_without_a_traceback(spawned: list[subprocess.Popen[str]]) -> None:
    process = start(spawned, "refuse")
    out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "the schema is too new" in out + err
    assert "Traceback" not in out + err


def test_a_wrong_configuration_is_one_line(spawned: list[subprocess.Popen[str]]) -> None:
    process = start(spawned, "misconfigured")
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (2, "")
    assert err == "the keyspace is missing; run `recommend migrate`\n"
