"""What Pod Security "restricted" asks of a pod, and what we ask beyond it."""

from collections.abc import Iterator
from typing import Final

from deploy_support.builds import Manifest, named
from deploy_support.pods import Pod

_VOLUMES: Final = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"
}  # fmt: skip
MAY_WRITE_ITS_ROOT: Final = {
    "neo4j": "the image writes its configuration below its own folder at start",
    "neo4j-replica": "the image writes its configuration below its own folder at start",
}
TALKS_TO_KUBERNETES: Final = {
    "neo4j-read-replicas": "scales a StatefulSet",
    "cluster-autoscaler": "watches pods and nodes",
}


def not_restricted(pod: Pod) -> list[str]:
    """Tell what Pod Security would refuse, and a root that can be written to or a token without a reason."""
    return [f"{named(pod.owner)}: {problem}" for problem in (*_of_spec(pod), *_of_containers(pod))]


def _of_spec(pod: Pod) -> Iterator[str]:
    spec = pod.spec
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield name
    for volume in spec.get("volumes", []):
        if kinds := volume.keys() - {"name"} - _VOLUMES:
            yield f"a volume of {sorted(kinds)}"
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            yield f"the volume {volume['name']} has no limit"
    context = spec.get("securityContext", {})
    if context.get("runAsNonRoot") is not True or context.get("runAsUser", 0) == 0:
        yield "may run as root"
    if context.get("seccompProfile", {}).get("type") not in {"RuntimeDefault", "Localhost"}:
        yield "no seccomp profile"
    has_token = spec.get("automountServiceAccountToken") is not False
    if has_token != (pod.name in TALKS_TO_KUBERNETES):
        yield "a token without a reason" if has_token else "no token"
    if pod.namespace != "kube-system" and spec.get("enableServiceLinks") is not False:
        yield "services as environment variables, which may look like settings"


def _of_containers(pod: Pod) -> Iterator[str]:
    for container in pod.containers:
        yield from (f"{container['name']}: {problem}" for problem in _of_container(pod, container))


def _of_container(pod: Pod, container: Manifest) -> Iterator[str]:
    context = container.get("securityContext", {})
    if context.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    if context.get("privileged"):
        yield "is privileged"
    if context.get("capabilities", {}).get("drop") != ["ALL"] or context.get("capabilities", {}).get("add"):
        yield "has capabilities"
    if context.get("readOnlyRootFilesystem") is not True and pod.name not in MAY_WRITE_ITS_ROOT:
        yield "may write its root"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "takes a port of the node"
    for kind in ("requests", "limits"):
        if missing := {"cpu", "memory", "ephemeral-storage"} - container["resources"].get(kind, {}).keys():
            yield f"no {kind} of {sorted(missing)}"
