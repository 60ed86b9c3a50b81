"""Checkov finds nothing in the manifests but what is passed over for a reason that is written down, and all of that."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy_support.builds import AGENT, CLUSTER, OVERLAYS, ROOT, build

CHECKOV = ROOT / ".venv-checkov" / "bin" / "checkov"
CONFIGURATION = ROOT / "deploy" / "checkov.yaml"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run it once over each object of the overlays, and over what is wrong on purpose."""
    assert CHECKOV.exists(), "run `make .venv-checkov`"
    folder = tmp_path_factory.mktemp("checkov")
    seen: set[str] = set()
    for name in (*OVERLAYS, CLUSTER, AGENT):
        documents = {json.dumps(each, sort_keys=True): each for each in build(name).objects}
        new = [each for text, each in documents.items() if text not in seen]
        seen |= documents.keys()
        (folder / f"{name.replace('/', '-')}.yaml").write_text(yaml.safe_dump_all(new))
    (folder / "wrong.yaml").write_text(yaml.safe_dump(_wrong()))
    done = subprocess.run(
        [str(CHECKOV), "-d", str(folder), "--framework", "kubernetes", "-o", "json", "--skip-download"],
        capture_output=True, text=True, check=False, cwd=folder, timeout=550,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr  # what is wrong on purpose
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def _wrong() -> dict[str, Any]:
    container = {"name": "server", "image": "nginx", "securityContext": {"privileged": True}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "wrong"}, "spec": {"containers": [container]}}


def _skipped() -> set[str]:
    return set(yaml.safe_load(CONFIGURATION.read_text())["skip-check"])


def _failed(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    """List file, check and object."""
    return [
        (Path(each["file_path"]).name, each["check_id"], each["resource"].split(".")[-1])
        for each in report["results"]["failed_checks"]
    ]


@pytest.mark.timeout(600)
def test_nothing_is_found_without_a_reason(report: dict[str, Any]) -> None:
    found = [each for each in _failed(report) if each[1] not in _skipped()]
    assert [each for each in found if each[0] != "wrong.yaml"] == []
    assert ("wrong.yaml", "CKV_K8S_16", "wrong") in found  # it looks: a privileged container
    assert report["summary"]["passed"] > 1_000


@pytest.mark.timeout(600)
def test_every_reason_is_still_needed(report: dict[str, Any]) -> None:
    assert _skipped() <= {check for name, check, _ in _failed(report) if name != "wrong.yaml"}
    in_annotations = {
        (each["check_id"], each["resource"].split(".")[-1]): each["check_result"]["suppress_comment"]
        for each in report["results"]["skipped_checks"]
    }
    assert in_annotations.keys() == {
        ("CKV_K8S_22", "neo4j"),
        ("CKV_K8S_22", "neo4j-replica"),
        ("CKV_K8S_38", "cluster-autoscaler"),
        ("CKV_K8S_38", "neo4j-read-replicas"),
        ("CKV_K8S_8", "mirror-maker"),
        ("CKV_K8S_9", "mirror-maker"),
    }
    assert all(reason.endswith(".") for reason in in_annotations.values())


def test_every_skip_has_its_reason_above_it() -> None:
    lines = CONFIGURATION.read_text().splitlines()
    skips = [number for number, line in enumerate(lines) if re.match(r"  - CKV", line)]
    assert skips
    assert all(re.match(r"  # .{20,}", lines[number - 1]) for number in skips)
