"""What the cluster must have before an overlay is applied: what manifests name and is no object of ours."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from deploy_support.builds import CLUSTER, ROOT, Build, Manifest, build
from deploy_support.pods import pods_of

OPERATIONS: Final[Path] = ROOT / "docs" / "operations.md"

OUTSIDE: Final[Mapping[str, frozenset[str]]] = {
    "a network plugin that enforces NetworkPolicies": frozenset({"kind NetworkPolicy"}),
    "node groups": frozenset({"group recommendation-node-group", "node label gpu=nvidia-a100"}),
    "metrics-server": frozenset({"APIService v1beta1.metrics.k8s.io"}),
    "Prometheus operator": frozenset({"API monitoring.coreos.com", "namespace monitoring"}),
    "prometheus-adapter": frozenset(
        {"APIService v1beta1.custom.metrics.k8s.io", "APIService v1beta1.external.metrics.k8s.io"}
    ),
    "cert-manager": frozenset({"API cert-manager.io"}),
    "External Secrets": frozenset({"API external-secrets.io", "ClusterSecretStore recommendation-vault"}),
    "NVIDIA device plugin": frozenset({"resource nvidia.com/gpu"}),
    "EBS CSI driver": frozenset({"provisioner ebs.csi.aws.com"}),
    "EFS CSI driver": frozenset({"provisioner efs.csi.aws.com"}),
    "AWS Load Balancer Controller": frozenset({"ingress class alb", "load balancer class service.k8s.aws/nlb"}),
    "external-dns": frozenset({"annotation external-dns.alpha.kubernetes.io/hostname"}),
    "ingress-nginx": frozenset({"ingress class nginx", "namespace ingress-nginx"}),
    "Argo CD": frozenset({"API argoproj.io"}),
}
"""Who provides what, under the names of the table in docs/operations.md; each thing has one owner."""

_METRICS: Final = {
    "Resource": "APIService v1beta1.metrics.k8s.io",
    "Pods": "APIService v1beta1.custom.metrics.k8s.io",
    "External": "APIService v1beta1.external.metrics.k8s.io",
}


def needed(whole: Build) -> set[str]:
    """Give what a build needs of its cluster."""
    found = {need for each in whole.objects for need in _by_object(whole, each)}
    for pod in pods_of(whole):
        found |= {f"node label {key}={value}" for key, value in pod.spec.get("nodeSelector", {}).items()}
        for container in pod.containers:
            found |= {f"resource {each}" for each in container["resources"]["limits"] if "/" in each}
            found |= {
                f"group {name}" for name in re.findall(r"--nodes=\d+:\d+:(\S+)", " ".join(container.get("command", [])))
            }
    return found


def _by_object(whole: Build, each: Manifest) -> Iterator[str]:
    group = each["apiVersion"].rpartition("/")[0]
    if "." in group and not group.endswith(".k8s.io"):
        yield f"API {group}"
    annotations = each["metadata"].get("annotations", {})
    if "external-dns.alpha.kubernetes.io/hostname" in annotations:
        yield "annotation external-dns.alpha.kubernetes.io/hostname"
    if issuer := annotations.get("cert-manager.io/cluster-issuer"):
        yield from _issuer("ClusterIssuer", issuer)
    if each["kind"] == "NetworkPolicy":
        yield "kind NetworkPolicy"
        yield from (f"namespace {name}" for name in _namespaces(each) - {"kube-system"} - whole.names("Namespace"))
    elif each["kind"] in _BY_KIND:
        yield from _BY_KIND[each["kind"]](each)


def _namespaces(policy: Manifest) -> set[str]:
    rules = [*policy["spec"].get("ingress", []), *policy["spec"].get("egress", [])]
    peers = [peer for rule in rules for peer in (*rule.get("from", []), *rule.get("to", []))]
    chosen = [peer["namespaceSelector"]["matchLabels"] for peer in peers if "namespaceSelector" in peer]
    return {labels["kubernetes.io/metadata.name"] for labels in chosen}


def _issuer(kind: str, name: str) -> Iterator[str]:
    if kind != "Issuer" and name not in build(CLUSTER).names(kind):
        yield f"{kind} {name}"


def _of_service(each: Manifest) -> Iterator[str]:
    if name := each["spec"].get("loadBalancerClass"):
        yield f"load balancer class {name}"


def _of_cluster_issuer(each: Manifest) -> Iterator[str]:
    for solver in each["spec"]["acme"]["solvers"]:
        yield f"ingress class {solver['http01']['ingress']['ingressClassName']}"


_BY_KIND: Final[Mapping[str, Callable[[Manifest], Iterable[str]]]] = {
    "Certificate": lambda each: _issuer(each["spec"]["issuerRef"]["kind"], each["spec"]["issuerRef"]["name"]),
    "ClusterIssuer": _of_cluster_issuer,
    "ExternalSecret": lambda each: [" ".join(each["spec"]["secretStoreRef"][part] for part in ("kind", "name"))],
    "HorizontalPodAutoscaler": lambda each: [_METRICS[metric["type"]] for metric in each["spec"]["metrics"]],
    "Ingress": lambda each: [f"ingress class {each['spec']['ingressClassName']}"],
    "Service": _of_service,
    "StorageClass": lambda each: [f"provisioner {each['provisioner']}"],
}


def documented() -> dict[str, str]:
    """Give the rows of the table in docs/operations.md, each with its text."""
    text = OPERATIONS.read_text().partition("## What the cluster has")[2].partition("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    return {line.split("|")[1].strip(): line for line in rows}
