"""The pods that a build makes: their containers, their labels, how many there can be, what their environment says."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, Final

from deploy_support.builds import Build, Manifest, named

FLEET_MOST_REPLICAS: Final = 10
"""How many read replicas the fleet controller makes at most, unless it is told otherwise."""
_REFERENCE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


@dataclass(frozen=True)
class Pod:
    """A kind of pod.

    Args:
        owner: The Deployment, StatefulSet, Job or CronJob.
        template: Its pod template.
    """

    owner: Manifest
    template: Manifest

    @property
    def name(self) -> str:
        """Give its owner's name."""
        return str(self.owner["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Give its namespace."""
        return str(self.owner["metadata"]["namespace"])

    @property
    def spec(self) -> Manifest:
        """Give the pod's spec."""
        spec: Manifest = self.template["spec"]
        return spec

    @property
    def labels(self) -> dict[str, str]:
        """Give its labels; of a StatefulSet's pods those of the first."""
        labels = dict(self.template["metadata"].get("labels", {}))
        if self.owner["kind"] == "StatefulSet":
            labels["statefulset.kubernetes.io/pod-name"] = self.pod_names[0]
        return labels

    @property
    def pod_names(self) -> list[str]:
        """Give the names of a StatefulSet's pods as it is deployed."""
        spec = self.owner["spec"]
        first = spec.get("ordinals", {}).get("start", 0)
        return [f"{self.name}-{number}" for number in range(first, first + spec["replicas"])]

    @property
    def containers(self) -> list[Manifest]:
        """Give the containers, those that run before the others first."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def is_ours(self) -> bool:
        """Tell whether it runs an image that this repository builds."""
        return any(service_of(each) for each in self.containers)

    @property
    def ports(self) -> dict[str, int]:
        """Give its named ports."""
        return {port["name"]: port["containerPort"] for each in self.containers for port in each.get("ports", [])}

    def matches(self, selector: Mapping[str, Any]) -> bool:
        """Tell whether a label selector, or a Service's map of labels, means these pods, some of them at least."""
        expressions = selector.get("matchExpressions", [])
        wanted = selector.get("matchLabels", {}) if {"matchLabels", "matchExpressions"} & selector.keys() else selector
        sets = [self.labels]
        if self.owner["kind"] == "StatefulSet":
            sets = [{**self.labels, "statefulset.kubernetes.io/pod-name": name} for name in self.pod_names]
        return any(
            all(labels.get(key) == value for key, value in wanted.items())
            and all(each["operator"] == "In" and labels.get(each["key"]) in each["values"] for each in expressions)
            for labels in sets
        )


def pods_of(build: Build) -> list[Pod]:
    """Give all pods of a build."""
    pods = [Pod(each, each["spec"]["template"]) for each in build.all("Deployment", "StatefulSet", "Job")]
    pods += [Pod(each, each["spec"]["jobTemplate"]["spec"]["template"]) for each in build.all("CronJob")]
    return pods


def pod_of(build: Build, name: str) -> Pod:
    """Give the pods of the workload of this name."""
    (found,) = [each for each in pods_of(build) if each.name == name]
    return found


def service_of(container: Manifest) -> str | None:
    """Give the service of ours that a container runs, None for anybody else's image."""
    image = re.fullmatch(r"(?:registry\.example\.com/)?recommendation/([a-z-]+)(?::[0-9.]+)?", container["image"])
    return image.group(1) if image else None


def most_at_once(build: Build, pod: Pod) -> int:
    """Give how many pods there can be: as the autoscaler says at most, and what a rolling update adds."""
    spec = pod.owner["spec"]
    if pod.owner["kind"] in {"Job", "CronJob"}:
        return int(spec.get("parallelism", 1))
    replicas = int(spec["replicas"])
    for scaler in build.all("HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        if (target["kind"], target["name"]) == (pod.owner["kind"], pod.name):
            replicas = max(replicas, scaler["spec"]["maxReplicas"])
    if pod.name == "neo4j-replica" and "neo4j-read-replicas" in build.names("CronJob"):
        replicas = max(replicas, FLEET_MOST_REPLICAS)
    strategy = spec.get("strategy", {})
    if pod.owner["kind"] == "StatefulSet" or strategy.get("type") == "Recreate":
        return replicas
    surge = strategy.get("rollingUpdate", {}).get("maxSurge", "25%")
    return replicas + (ceil(replicas * int(surge[:-1]) / 100) if isinstance(surge, str) else surge)


SECRET: Final = "of-their-own-making"  # noqa: S105 - it stands for one
"""What stands for the value of a secret that does not come from a file."""


def environment_of(
    build: Build, pod: Pod, container: Manifest, *, secrets: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Give the environment as the kubelet would make it.

    Args:
        build: Has the ConfigMaps.
        pod: Whose container it is.
        container: Whose environment it is.
        secrets: The values of the Secret's keys; without it each is SECRET.
    """
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= build.get("ConfigMap", source["configMapRef"]["name"])["data"]
    for each in container.get("env", []):
        found[each["name"]] = _value(build, pod, each, secrets)
        if "value" in each:
            found[each["name"]] = _REFERENCE.sub(lambda use: found.get(use.group(1), use.group(0)), each["value"])
    return found


def _value(build: Build, pod: Pod, each: Manifest, secrets: Mapping[str, str] | None) -> str:
    source = each.get("valueFrom")
    if source is None:
        return str(each.get("value", ""))
    if reference := source.get("configMapKeyRef"):
        return str(build.get("ConfigMap", reference["name"])["data"][reference["key"]])
    if reference := source.get("secretKeyRef"):
        return SECRET if secrets is None else secrets[reference["key"]]
    if source.get("fieldRef", {}).get("fieldPath") == "metadata.name":
        return pod.pod_names[0] if pod.owner["kind"] == "StatefulSet" else f"{pod.name}-x"
    if source.get("fieldRef", {}).get("fieldPath") == "status.podIP":
        return "192.0.2.1"
    raise LookupError(f"{named(pod.owner)}: {each['name']} comes from something unknown")
