"""A rollout by hand takes nothing back from the autoscalers, and no Job of the last one stands in its way."""

import copy

import pytest

from deploy_support.builds import ROLLOUTS, build
from deploy_support.prerequisites import OPERATIONS


@pytest.mark.parametrize("name", ROLLOUTS)
def test_it_is_the_overlay_without_the_replicas_of_what_is_scaled(name: str) -> None:
    overlay = build(name.removeprefix("rollouts/"))
    expected = copy.deepcopy(overlay)
    for scaler in overlay.all("HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        assert expected.get(target["kind"], target["name"])["spec"].pop("replicas") >= scaler["spec"]["minReplicas"]
    assert build(name).objects == expected.objects


def test_a_finished_migration_is_gone_in_minutes() -> None:
    job = build("production").get("Job", "migrations")
    assert job["spec"]["ttlSecondsAfterFinished"] <= 600
    # Argo CD removes it itself.
    assert job["metadata"]["annotations"]["argocd.argoproj.io/hook-delete-policy"] == "BeforeHookCreation"


def test_the_docs_say_how() -> None:
    section = OPERATIONS.read_text().partition("## A rollout")[2].partition("\n## ")[0]
    commands = [line.strip() for line in section.splitlines() if line.startswith("    ")]
    assert "kubectl -n recommendation delete job migrations --ignore-not-found" in commands
    applied = [line.split()[-1] for line in commands if line.startswith("kubectl apply --server-side -k ")]
    assert applied
    assert {path.removeprefix("deploy/k8s/") for path in applied} <= set(ROLLOUTS)
