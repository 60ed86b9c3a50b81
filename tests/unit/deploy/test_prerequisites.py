"""What the cluster must bring stands in one table, and in the docs: nothing is named that nobody provides."""

import copy
from collections import Counter

import pytest
import yaml

from deploy_support.builds import AGENT, CLUSTER, OVERLAYS, ROOT, Build, build
from deploy_support.prerequisites import OUTSIDE, documented, needed

BUILDS = (*OVERLAYS, CLUSTER, AGENT)
PROVIDED = {need for needs in OUTSIDE.values() for need in needs}


def applications() -> Build:
    """Give the objects for Argo CD."""
    return Build(
        "argocd", tuple(yaml.safe_load(path.read_text()) for path in (ROOT / "deploy" / "argocd").glob("*.yaml"))
    )


@pytest.mark.parametrize("name", BUILDS)
def test_everything_that_is_named_is_provided(name: str) -> None:
    assert needed(build(name)) - PROVIDED == set()


def test_everything_that_is_provided_is_needed_and_has_one_owner() -> None:
    everything = set.union(*(needed(build(name)) for name in BUILDS), needed(applications()))
    assert everything == PROVIDED
    owners = Counter(need for needs in OUTSIDE.values() for need in needs)
    assert set(owners.values()) == {1}


def test_the_laptop_needs_next_to_nothing() -> None:
    assert needed(build("laptop")) == {"kind NetworkPolicy"}


def test_the_docs_have_the_same_table() -> None:
    rows = documented()
    assert rows.keys() == OUTSIDE.keys()
    for name, needs in OUTSIDE.items():
        for need in needs:
            assert need.split()[-1] in rows[name], (name, need)


@pytest.mark.parametrize(
    ("kind", "name", "change", "found"),
    [
        ("Ingress", "hot-path-api", {"ingressClassName": "traefik"}, "ingress class traefik"),
        (
            "ExternalSecret",
            "database-credentials",
            {"secretStoreRef": {"kind": "SecretStore", "name": "vault"}},
            "SecretStore vault",
        ),
        ("Service", "hot-path-api", {"loadBalancerClass": "metallb"}, "load balancer class metallb"),
        (
            "Certificate",
            "agent-mtls",
            {"issuerRef": {"kind": "ClusterIssuer", "name": "internal"}},
            "ClusterIssuer internal",
        ),
    ],
)
def test_what_nobody_provides_is_found(kind: str, name: str, change: dict[str, object], found: str) -> None:
    broken = copy.deepcopy(build("us-east-1"))
    broken.get(kind, name)["spec"].update(change)
    assert needed(broken) - PROVIDED == {found}


def test_an_issuer_that_is_not_declared_is_found() -> None:
    broken = copy.deepcopy(build("staging"))
    annotations = broken.get("Ingress", "hot-path-api")["metadata"]["annotations"]
    assert annotations["cert-manager.io/cluster-issuer"] in build(CLUSTER).names("ClusterIssuer")
    annotations["cert-manager.io/cluster-issuer"] = "zerossl"
    assert needed(broken) - PROVIDED == {"ClusterIssuer zerossl"}
