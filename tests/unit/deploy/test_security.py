"""No pod may do more than it must."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from deploy_support.builds import WHOLE, build, with_an_agent
from deploy_support.pods import pod_of, pods_of
from deploy_support.restricted import MAY_WRITE_ITS_ROOT, TALKS_TO_KUBERNETES, not_restricted


@pytest.mark.parametrize("name", WHOLE)
def test_every_pod_is_restricted(name: str) -> None:
    assert [problem for pod in pods_of(build(name)) for problem in not_restricted(pod)] == []


@pytest.mark.parametrize("name", WHOLE)
def test_the_namespace_enforces_it(name: str) -> None:
    labels = build(name).get("Namespace", "recommendation")["metadata"]["labels"]
    assert {labels[f"pod-security.kubernetes.io/{mode}"] for mode in ("enforce", "audit", "warn")} == {"restricted"}


@pytest.mark.parametrize("name", WHOLE)
def test_no_account_of_ours_gives_its_token_by_itself(name: str) -> None:
    for each in build(name).all("ServiceAccount"):
        if each["metadata"]["namespace"] == "recommendation":
            assert each["automountServiceAccountToken"] is False, each["metadata"]["name"]


def test_every_exception_is_used() -> None:
    names = {pod.name for pod in pods_of(build("us-east-1"))}
    assert TALKS_TO_KUBERNETES.keys() | MAY_WRITE_ITS_ROOT.keys() <= names


def test_the_fleet_controller_may_only_scale_the_read_replicas() -> None:
    rules = build("production").get("Role", "fleet-controller")["rules"]
    for rule in rules:
        assert (rule["apiGroups"], rule["resourceNames"], rule["verbs"]) == (
            ["apps"],
            ["neo4j-replica"],
            ["get", "patch"],
        )
    assert {resource for rule in rules for resource in rule["resources"]} == {"statefulsets", "statefulsets/scale"}


@pytest.mark.parametrize("name", WHOLE)
def test_no_role_of_ours_says_everything(name: str) -> None:
    for each in build(name).all("Role", "ClusterRole"):
        assert not any("*" in rule[part] for rule in each["rules"] for part in ("apiGroups", "resources", "verbs"))


def test_the_example_of_an_agent_is_restricted() -> None:
    agent = pod_of(with_an_agent("production"), "agent")
    assert not_restricted(agent) == []
    assert agent.labels["recommendation/agent"] == "true"


def test_every_certificate_has_all_names_of_its_services() -> None:
    """A caller may use the short name, or any of the longer ones that a cluster's DNS gives."""
    serving = [each["spec"] for each in build("production").all("Certificate") if each["spec"].get("dnsNames")]
    assert len(serving) == 5
    for spec in serving:
        short = {name for name in spec["dnsNames"] if "." not in name} - {"localhost"}
        endings = ("", ".recommendation.svc", ".recommendation.svc.cluster.local")
        assert {name + ending for name in short for ending in endings} <= set(spec["dnsNames"]), spec["secretName"]
        assert "server auth" in spec["usages"]


def test_agents_get_a_certificate_that_serves_nothing() -> None:
    whole = with_an_agent("production")
    certificate = whole.get("Certificate", "agent-mtls")["spec"]
    assert certificate["usages"] == ["client auth"]
    assert certificate["issuerRef"] == {"kind": "Issuer", "name": "recommendation-internal"}
    (secret,) = [each["secret"] for each in pod_of(whole, "agent").spec["volumes"] if "secret" in each]
    assert secret["secretName"] == certificate["secretName"]


MISTAKES: dict[str, Callable[[dict[str, Any]], object]] = {
    "may run as root": lambda spec: spec["securityContext"].update(runAsUser=0),
    "no seccomp profile": lambda spec: spec["securityContext"].pop("seccompProfile"),
    "a token without a reason": lambda spec: spec.pop("automountServiceAccountToken"),
    "server: has capabilities": lambda spec: spec["containers"][0]["securityContext"]["capabilities"].update(add=["X"]),
    "server: may gain privileges": lambda spec: spec["containers"][0]["securityContext"].pop(
        "allowPrivilegeEscalation"
    ),
    "server: may write its root": lambda spec: spec["containers"][0]["securityContext"].pop("readOnlyRootFilesystem"),
    "server: no limits of ['memory']": lambda spec: spec["containers"][0]["resources"]["limits"].pop("memory"),
    "a volume of ['hostPath']": lambda spec: spec["volumes"].append({"name": "node", "hostPath": {"path": "/"}}),
}


@pytest.mark.parametrize("found", MISTAKES)
def test_a_mistake_is_found(found: str) -> None:
    broken = pod_of(copy.deepcopy(build("production")), "hot-path-api")
    assert not_restricted(broken) == []
    MISTAKES[found](broken.spec)
    assert not_restricted(broken) == [f"Deployment hot-path-api: {found}"]
