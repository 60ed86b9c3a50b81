"""One real stack for the journeys: five processes on a folder of their own, started by the command."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from e2e.stack import START_S, Stack, until


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    data_dir = tmp_path_factory.mktemp("stack")
    with (data_dir / "up.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "recommend_cli", "up", "--data-dir", str(data_dir), "--port", "0"],
            stdout=log,
            stderr=log,
            env={**os.environ, "COLUMNS": "100"},
        )
        try:
            state = data_dir / "run" / "stack.json"

            def ready() -> bool:
                assert process.poll() is None, (data_dir / "up.log").read_text()
                return state.exists() and json.loads(state.read_text())["phase"] == "ready"

            until(ready, within_s=START_S, what="the stack is up")
            key = (data_dir / "run" / "api_key").read_text().strip()
            url = json.loads(state.read_text())["urls"][0]
            with httpx.Client(base_url=url, headers={"X-API-Key": key}, timeout=10.0) as client:
                yield Stack(data_dir, client)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=30)
