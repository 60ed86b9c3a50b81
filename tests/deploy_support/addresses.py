"""Every host:port in a manifest is a Service here with that port, a port of the same pod, or a known outsider."""

import re
from collections.abc import Iterator
from typing import Final

from deploy_support.builds import Build, Manifest, named, texts
from deploy_support.pods import Pod, environment_of, pods_of

OUTSIDE: Final = {
    "prometheus.monitoring:9090": "The cluster's Prometheus, from the operator that `components/monitoring` is for.",
    **{
        f"kafka-broker-{number}.{region}.recommendation.internal:9095": (
            "What external-dns calls the brokers of a region in the peered networks, see components/mirrored-region."
        )
        for number in (1, 2, 3)
        for region in ("local", "us-east-1", "eu-west-1", "ap-southeast-1")
    },
}
"""Who is no object of a build, and why."""

_ADDRESS = re.compile(r"(?<![\w.$@{}()-])([a-z][a-z0-9-]*(?:\.[a-z0-9-]+)*|0\.0\.0\.0):(\d{2,5})(?![\w.])")
_MEMBER = re.compile(r"(?<![\w.-])([a-z0-9-]+-\d+|[A-Z_$@{}()]+)\.([a-z0-9]+-peers)\b")
_OWN_NAME = re.compile(r"\$\{HOSTNAME\}|@HOSTNAME@|\$\(POD_NAME\)")


def unknown_addresses(build: Build) -> list[str]:
    """Tell of each address that nobody answers."""
    found = [problem for pod in pods_of(build) for problem in _of_pod(build, pod)]
    mounted = {
        volume["configMap"]["name"]
        for pod in pods_of(build)
        for volume in pod.spec.get("volumes", [])
        if "configMap" in volume
    }
    for each in build.all("ConfigMap"):
        if each["metadata"]["name"] not in mounted:
            found += _in_text(build, None, named(each), "\n".join(texts(each["data"])))
    for each in build.all("PrometheusRule", "Ingress", "PodMonitor"):
        found += _in_text(build, None, named(each), "\n".join(texts(each["spec"])))
    return [f"{build.name}: {problem}" for problem in found]


def addresses_in(text: str) -> Iterator[tuple[str, int]]:
    """Give host and port of each address in a text."""
    for match in _ADDRESS.finditer(text):
        yield match.group(1), int(match.group(2))


def _of_pod(build: Build, pod: Pod) -> Iterator[str]:
    said: list[str] = []
    for container in pod.containers:
        said += texts([container.get("command", []), container.get("args", [])])
        said += environment_of(build, pod, container).values()
        said += texts([container[each] for each in container if each.endswith("Probe")])
    for volume in pod.spec.get("volumes", []):
        if "configMap" in volume:
            said += texts(build.get("ConfigMap", volume["configMap"]["name"])["data"])
    text = "\n".join(said)
    if "kafka-domain" in " ".join(texts(pod.spec)):
        text = text.replace("@DOMAIN@", build.get("ConfigMap", "kafka-domain")["data"]["domain"])
    if pod.owner["kind"] == "StatefulSet":
        text = _OWN_NAME.sub(pod.pod_names[0], text)
    yield from _in_text(build, pod, named(pod.owner), text)


def _in_text(build: Build, pod: Pod | None, who: str, text: str) -> Iterator[str]:
    for host, port in set(addresses_in(text)):
        if not _answers(build, pod, host, port):
            yield f"{who}: nobody answers {host}:{port}"
    for member, service in set(_MEMBER.findall(text)):
        if not _is_member(build, member, service):
            yield f"{who}: {member}.{service} is nobody"


def _answers(build: Build, pod: Pod | None, host: str, port: int) -> bool:
    if f"{host}:{port}" in OUTSIDE:
        return True
    if host in {"localhost", "0.0.0.0"}:  # noqa: S104 - it is compared, nothing is bound
        return pod is not None and port in pod.ports.values()
    member, _, name = host.rpartition(".")
    services = [each for each in build.all("Service") if each["metadata"]["name"] == name]
    if member and not _is_member(build, member, name):
        return False
    return any(port == each["port"] for service in services for each in service["spec"]["ports"])


def _is_member(build: Build, member: str, service: str) -> bool:
    owners: list[Manifest] = [pod.owner for pod in pods_of(build) if _is_of(pod, member, service)]
    return bool(owners) and service in build.names("Service")


def _is_of(pod: Pod, member: str, service: str) -> bool:
    spec = pod.owner["spec"]
    return pod.owner["kind"] == "StatefulSet" and spec["serviceName"] == service and member in pod.pod_names
