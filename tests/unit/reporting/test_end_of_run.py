"""What a run tells at its end: the table of contract tests, and the skips that a whole run may not have."""

import json
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[2]
CONTRACTS = """
import pytest

class Contract:
    port = "Store"
    def test_holds(self): pass
    def test_cannot(self): pytest.xfail("not here")

class TestMemory(Contract):
    adapter = "memory"

class TestFile(Contract):
    adapter = "file"
    def test_breaks(self): assert False
    @pytest.fixture
    def falls(self):
        yield
        raise RuntimeError
    def test_leaves_a_mess(self, falls): pass
    def test_is_not_set_up(self, nothing): pass

def test_of_no_port(): pass
"""
SKIPS = """
import pytest

@pytest.mark.integration
def test_needs_a_server(): pytest.skip("no server")

@pytest.mark.integration
@pytest.mark.xfail(reason="known")
def test_is_known_to_fail(): assert False

def test_needs_nothing(): pytest.skip("not today")
"""


def run(folder: Path, code: str, *options: str) -> tuple[int, str]:
    """Run pytest, with this folder's conftest.py, on a file of its own."""
    (folder / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    (folder / "pytest.ini").write_text(f"[pytest]\npythonpath = {TESTS}\nmarkers = integration: x\n")
    (folder / "test_it.py").write_text(code)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout


def test_contract_tests_are_counted_by_port_and_adapter(tmp_path: Path) -> None:
    _, told = run(tmp_path, CONTRACTS, "--contract-report", "made/contracts.json")
    assert json.loads((tmp_path / "made" / "contracts.json").read_text()) == {
        "Store": {"file": {"passed": 1, "xfailed": 1, "failed": 3}, "memory": {"passed": 1, "xfailed": 1}}
    }
    assert "Store  file    1 passed, 1 xfailed, 3 failed\n" in told
    assert "Store  memory  1 passed, 1 xfailed\n" in told


def test_contract_tests_can_be_chosen(tmp_path: Path) -> None:
    _, told = run(tmp_path, CONTRACTS, "-m", "contract", "-k", "holds")
    assert "2 passed, 6 deselected" in told


def test_a_skipped_integration_test_fails_a_run_that_must_be_whole(tmp_path: Path) -> None:
    assert run(tmp_path, SKIPS)[0] == 0
    code, told = run(tmp_path, SKIPS, "--no-skips")
    assert code == 1
    assert "test_needs_a_server must not be skipped here (Skipped: no server)" in told
    assert "1 failed, 1 skipped, 1 xfailed" in told


def test_a_module_that_skips_itself_fails_a_run_that_must_be_whole(tmp_path: Path) -> None:
    code, told = run(tmp_path, "import pytest\npytest.skip('no driver', allow_module_level=True)\n", "--no-skips")
    assert code == 2
    assert "must not be skipped here (Skipped: no driver)" in told
