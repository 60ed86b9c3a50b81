"""What is configured wrong ends `recommend up` with one line that says what to do, and leaves nothing running."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from servers.addresses import Addresses
from servers.stores import make_bucket, settings_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("NEO4J_PASSWORD=wrong", "NEO4J_PASSWORD"),
        ("EVENT_LOG_URL=kafka://127.0.0.1:1", "EVENT_LOG_URL"),
        ("MODEL_STORE_URL=s3://nobody-made-this/models", "no such bucket"),
        ("VECTOR_STORE_URL=qdrant://127.0.0.1:1", "VECTOR_STORE_URL"),
    ],
)
def test_up_ends_with_one_line(servers: Addresses, tmp_path: Path, line: str, says: str) -> None:
    make_bucket(servers.settings.s3_port)
    settings = tmp_path / "stores.env"
    settings.write_text(f"{settings_for(servers)}{line}\nSTORE_WAIT_S=1\n")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "recommend_cli",
            "up",
            "--data-dir",
            str(tmp_path),
            "--settings",
            str(settings),
            "-p",
            "0",
        ],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 1
    (told,) = [told for told in done.stderr.splitlines() if told.startswith("Error")]
    assert says in told
    assert not (tmp_path / "run" / "stack.json").exists()
    assert not [each for each in psutil.process_iter(["environ"]) if _belongs_to(each, tmp_path)]


def _belongs_to(process: psutil.Process, data_dir: Path) -> bool:
    environment = process.info["environ"] or {}
    return str(data_dir) in environment.get("DATA_DIR", "")
