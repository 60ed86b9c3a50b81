"""What a journey holds: a running stack, and the patience to wait for it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

START_S = 120.0
STOP_S = 60.0
TIMEOUT_S = 10.0


@contextmanager
def running_stack(data_dir: Path, *options: str, inside: Sequence[str] = ()) -> Iterator["Stack"]:
    """Run `recommend up` on a folder while the context is open; `inside` is a command that runs it."""
    with (data_dir / "up.log").open("w") as log:
        process = subprocess.Popen(
            [
                *inside,
                sys.executable,
                "-m",
                "recommend_cli",
                "up",
                "--data-dir",
                str(data_dir),
                "--port",
                "0",
                *options,
            ],
            stdout=log,
            stderr=log,
            env={**os.environ, "COLUMNS": "200"},
        )
    state = data_dir / "run" / "stack.json"

    def ready() -> bool:
        assert process.poll() is None, (data_dir / "up.log").read_text()
        return state.exists() and json.loads(state.read_text())["phase"] == "ready"

    with ExitStack() as opened:
        opened.callback(process.wait, timeout=STOP_S)
        opened.callback(process.send_signal, signal.SIGINT)
        until(ready, within_s=START_S, what="the stack is up")
        headers = {"X-API-Key": (data_dir / "run" / "api_key").read_text().strip()}
        clients = [
            opened.enter_context(httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S))
            for url in json.loads(state.read_text())["urls"]
        ]
        yield Stack(data_dir, tuple(clients))


@dataclass(frozen=True)
class Stack:
    """A running stack and a client of each of its gateways."""

    data_dir: Path
    clients: tuple[httpx.Client, ...]

    @property
    def client(self) -> httpx.Client:
        """The first gateway's client."""
        return self.clients[0]

    def state(self) -> dict[str, Any]:
        """Read what the supervisor says of its services."""
        state: dict[str, Any] = json.loads((self.data_dir / "run" / "stack.json").read_text())
        return state

    def replicas(self, service: str) -> list[dict[str, Any]]:
        """Read what the supervisor says of a service's processes."""
        return [each for each in self.state()["services"].values() if each["service"] == service]

    def recommend(self, *arguments: str) -> str:
        """Run a subcommand on this stack."""
        done = subprocess.run(
            [sys.executable, "-m", "recommend_cli", *arguments, "--data-dir", str(self.data_dir)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def list_for(self, user_id: str, **parameters: Any) -> dict[str, Any]:
        """Ask for a user's list."""
        answer = self.client.get("/api/recommendations", params={"user_id": user_id, **parameters})
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def ids_for(self, user_id: str, **parameters: Any) -> list[str]:
        """Ask for a user's list and give its item ids."""
        return [item["item_id"] for item in self.list_for(user_id, **parameters)["items"]]

    def interact(self, user_id: str, item_id: str, interaction_type: str = "like", **more: Any) -> None:
        """Post one interaction."""
        body = {"user_id": user_id, "item_id": item_id, "item_type": "film", "interaction_type": interaction_type}
        answer = self.client.post("/api/v1/interactions", json=body | more)
        assert answer.status_code == 201, answer.text


def until(check: Callable[[], Any], *, within_s: float, what: str) -> float:
    """Wait until the check gives something true; give the seconds it took."""
    started = time.monotonic()
    while not check():
        if time.monotonic() - started > within_s:
            pytest.fail(f"not within {within_s} s: {what}")
        time.sleep(0.02)
    return time.monotonic() - started
