"""A service whose model store cannot be used does not start, and says in one line what to do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from servers.s3_server import S3Server

from servicekit.testing import free_port


def start(service: str, folder: Path, url: str, endpoint: str) -> str:
    """Start a service that must not come up, and give what it said."""
    settings = {
        "DATA_DIR": str(folder),
        "MODEL_STORE_URL": url,
        "S3_ENDPOINT_URL": endpoint,
        "STORE_WAIT_S": "0",
        "GRPC_PORT": "0",
        "METRICS_PORT": "0",
        "LOG_LEVEL": "ERROR",
    }
    done = subprocess.run(
        [sys.executable, "-m", service],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("service", ["gpu_worker", "vector_search"])
def test_a_service_without_its_bucket_does_not_start(service: str, s3_server: S3Server, tmp_path: Path) -> None:
    line = start(service, tmp_path, "s3://nobody-made-it/models", s3_server.address)
    assert "no such bucket" in line
    assert "create it or correct MODEL_STORE_URL" in line


def test_a_store_that_is_away_and_an_address_of_no_kind(tmp_path: Path) -> None:
    assert "S3_ENDPOINT_URL" in start("vector_search", tmp_path, "s3://models", f"http://127.0.0.1:{free_port()}")
    assert "s3://BUCKET/PREFIX" in start("gpu_worker", tmp_path, "ftp://models", "")
