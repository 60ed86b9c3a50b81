"""What a journey holds: a running stack, and the patience to wait for it."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

START_S = 60.0


@dataclass(frozen=True)
class Stack:
    """A running stack and a client of its gateway."""

    data_dir: Path
    client: httpx.Client

    def state(self) -> dict[str, Any]:
        """Read what the supervisor says of its services."""
        state: dict[str, Any] = json.loads((self.data_dir / "run" / "stack.json").read_text())
        return state

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
