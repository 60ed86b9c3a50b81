"""What a container is told fits what it is given: its folders, its secrets, its certificates, its variables."""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Final

from deploy_support.builds import Build, Manifest, named, texts
from deploy_support.pods import Pod, environment_of, pods_of, service_of

_SHELL: Final = frozenset({"/bin/sh"})
_KAFKA: Final = _SHELL | {
    f"/opt/kafka/{file}"
    for file in (
        "bin/connect-mirror-maker.sh",
        "bin/kafka-server-start.sh",
        "bin/kafka-storage.sh",
        "config/tools-log4j2.yaml",
    )
}
IN_THE_IMAGE: Final[Mapping[str, frozenset[str]]] = {
    "apache/kafka": _KAFKA,
    "qdrant/qdrant": _SHELL,
    "scylladb/scylla": _SHELL | {"/usr/bin/scylla", "/etc/scylla"},
}
"""What images bring with them, of what their containers are told."""

BY_THE_IMAGE: Final[Mapping[str, frozenset[str]]] = {
    "neo4j": frozenset({"/data"}),
    "redis": frozenset({"/data"}),
}
"""The folders that images use without being told."""
FOR_EVERYBODY: Final = {
    "/tmp": "Libraries put files there.",  # noqa: S108 - the folder in the pod
    "/etc/recommendation/service-endpoints": "Nobody reads it: a new address shall roll the pods.",
}
"""The mounts that no container is told of, and why there are such."""

KEPT: Final[Mapping[str, str]] = {
    "apache/kafka": r"^log\.dirs=(\S+)$",
    "gpu-worker": r"^DATA_DIR=(\S+)$",
    "laptop": r"^--data-dir$\n^(\S+)$",
    "neo4j": r"^(/data)$",
    "qdrant/qdrant": r"^QDRANT__STORAGE__STORAGE_PATH=(\S+)$",
    "scylladb/scylla": r"^--workdir=(\S+)$",
}
"""Where an image keeps what must outlive its pod, as a line of what it is told."""

CREDENTIALS: Final = "database-credentials"
SECRET_OF: Final = {
    "API_KEY": "api_key",
    "GRAPH_PASSWORD": "neo4j_password",
    "GRAPH_USERNAME": "neo4j_username",
    "KAFKA_PASSWORD": "kafka_password",
    "KAFKA_USERNAME": "kafka_username",
    "NEO4J_PASSWORD": "neo4j_password",
    "NEO4J_USERNAME": "neo4j_username",
    "QDRANT_API_KEY": "qdrant_api_key",
    "QDRANT__SERVICE__API_KEY": "qdrant_api_key",
    "REDIS_PASSWORD": "redis_password",
    "SCYLLADB_PASSWORD": "scylladb_password",
    "SCYLLADB_USERNAME": "scylladb_username",
}
"""The key of the Secret that each variable of a secret takes."""

TLS_FILES: Final = {"TLS_CERT_FILE": "tls.crt", "TLS_KEY_FILE": "tls.key", "TLS_CA_FILE": "ca.crt"}
"""The key of a certificate's Secret that each variable is the file of."""

LOCKS: Final[Mapping[str, tuple[str, ...]]] = {
    "apache/kafka": (
        r"^listener\.security\.protocol\.map=CLIENTS:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT,BROKERS:SASL_PLAINTEXT,MIRRORS:SASL_PLAINTEXT$",
        r"^sasl\.enabled\.mechanisms=SCRAM-SHA-512$",
        r"^sasl\.mechanism\.inter\.broker\.protocol=SCRAM-SHA-512$",
        r"^inter\.broker\.listener\.name=BROKERS$",
        r"^controller\.listener\.names=CONTROLLER$",
    ),
    "neo4j": (r"^NEO4J_AUTH=\$\(GRAPH_USERNAME\)/\$\(GRAPH_PASSWORD\)$",),
    "qdrant/qdrant": (r"^QDRANT__SERVICE__API_KEY=of the Secret$",),
    "redis": (r"^--requirepass$\n^\$\(REDIS_PASSWORD\)$",),
    "scylladb/scylla": (r"^--authenticator=PasswordAuthenticator$", r"^--authorizer=CassandraAuthorizer$"),
}
"""By what a store asks for a password, as lines of what it is told."""

_PATH = re.compile(r"(?<![\w:/.@$}\])>-])/[A-Za-z0-9_][\w./-]*")
_USE = re.compile(r"(?<!\$)\$\(([A-Za-z_][A-Za-z0-9_]*)\)")
_SHELL_USE = re.compile(r"\$\{?([A-Z][A-Z0-9_]+)")
_GIVEN_BY_KUBERNETES = {"HOSTNAME"}


def miswired(build: Build) -> list[str]:
    """Tell all that does not fit."""
    found = [
        f"{named(pod.owner)}: {container['name']}: {problem}"
        for pod in pods_of(build)
        for container in pod.containers
        for walk in (_paths, _kept, _certificates, _secrets, _variables, _locks)
        for problem in walk(build, pod, container)
    ]
    return [f"{build.name}: {problem}" for problem in (*found, *_vault(build), *_scrapers(build))]


def image_of(container: Manifest) -> str:
    """Give a container's image without registry and version: a service's name for ours."""
    return service_of(container) or str(container["image"]).partition(":")[0]


def _lines(build: Build, pod: Pod, container: Manifest) -> list[str]:
    """Give the words of its command line, its variables as they stand there, and the lines of its files."""
    told = environment_of(build, pod, container)
    variables = [f"{each['name']}={_as_written(each, told)}" for each in container.get("env", [])]
    files = [
        line
        for _, volume in _mounts(pod, container)
        if "configMap" in volume and not volume["configMap"]["name"].startswith("service-endpoints-revision")
        for file in build.get("ConfigMap", volume["configMap"]["name"])["data"].values()
        for line in file.splitlines()
        if not line.lstrip().startswith("#")
    ]
    return [*texts([container.get("command", []), container.get("args", [])]), *variables, *files]


def _as_written(variable: Manifest, told: Mapping[str, str]) -> str:
    if "secretKeyRef" in variable.get("valueFrom", {}):
        return "of the Secret"
    return str(variable.get("value", told[variable["name"]]))


def _mounts(pod: Pod, container: Manifest) -> list[tuple[str, Manifest]]:
    """Give each folder that is mounted, with what is there; claims that a StatefulSet makes count as claims."""
    volumes = {each["name"]: each for each in pod.spec.get("volumes", [])}
    for each in pod.owner["spec"].get("volumeClaimTemplates", []):
        volumes[each["metadata"]["name"]] = {"persistentVolumeClaim": {}}
    return [(mount["mountPath"], volumes.get(mount["name"], {})) for mount in container.get("volumeMounts", [])]


def _mounted_at(path: str, pod: Pod, container: Manifest) -> tuple[str, Manifest] | None:
    """Give the mount in which a path lies, the deepest of several."""
    under = [each for each in _mounts(pod, container) if PurePosixPath(path).is_relative_to(each[0])]
    return max(under, key=lambda each: len(each[0]), default=None)


def _paths(build: Build, pod: Pod, container: Manifest) -> Iterator[str]:
    image = image_of(container)
    told = {path.rstrip("/") for path in _PATH.findall("\n".join(_lines(build, pod, container)))}
    for path in sorted(told - IN_THE_IMAGE.get(image, frozenset())):
        if _mounted_at(path, pod, container) is None:
            yield f"is told of {path}, where nothing is mounted"
    used = told | BY_THE_IMAGE.get(image, frozenset())
    for folder, _ in _mounts(pod, container):
        if folder not in FOR_EVERYBODY and not any(PurePosixPath(path).is_relative_to(folder) for path in used):
            yield f"is told nothing of {folder}"


def _kept(build: Build, pod: Pod, container: Manifest) -> Iterator[str]:
    durable = [
        folder
        for folder, volume in _mounts(pod, container)
        if not volume.get("persistentVolumeClaim", {"readOnly": True}).get("readOnly")
    ]
    if not durable:
        return
    image = image_of(container)
    text = "\n".join([*_lines(build, pod, container), *BY_THE_IMAGE.get(image, ())])
    kept = re.findall(KEPT[image], text, re.MULTILINE)
    if len(kept) != 1 or (_mounted_at(kept[0], pod, container) or ("",))[0] not in durable:
        yield f"keeps its data at {kept}, its claim is at {durable}"


def _certificates(build: Build, pod: Pod, container: Manifest) -> Iterator[str]:
    told = {each["name"]: each.get("value", "") for each in container.get("env", [])}
    files = {name: told[name] for name in TLS_FILES if name in told}
    if not files:
        serves = pod.owner["kind"] in {"Deployment", "StatefulSet"} and service_of(container) not in {None, "laptop"}
        if serves and build.all("Certificate"):
            yield "has no certificate"
        return
    (own,) = [each["spec"] for each in build.all("Certificate") if each["metadata"]["name"] == f"{pod.name}-mtls"]
    for name, key in TLS_FILES.items():
        folder, _, file = files.get(name, "").rpartition("/")
        volume = dict(_mounts(pod, container)).get(folder, {}).get("secret", {})
        if (volume.get("secretName"), file) != (own["secretName"], key) or "items" in volume:
            yield f"{name} is not {key} of {own['secretName']}"


def _secrets(build: Build, pod: Pod, container: Manifest) -> Iterator[str]:  # noqa: ARG001 - as every walk
    for each in container.get("env", []):
        reference = each.get("valueFrom", {}).get("secretKeyRef")
        key = SECRET_OF.get(each["name"])
        if (reference or key) and reference != {"name": CREDENTIALS, "key": key}:
            yield f"{each['name']} takes {reference}, which is not {key} of {CREDENTIALS}"


def _variables(build: Build, pod: Pod, container: Manifest) -> Iterator[str]:  # noqa: ARG001 - as every walk
    known = {
        name
        for source in container.get("envFrom", [])
        for name in build.get("ConfigMap", source["configMapRef"]["name"])["data"]
    }
    for each in container.get("env", []):
        for name in _USE.findall(each.get("value", "")):
            if name not in known:
                yield f"{each['name']} is made of {name}, which is none or comes later"
        known.add(each["name"])
    words = list(texts([container.get("command", []), container.get("args", [])]))
    used = set(_USE.findall("\n".join(words)))
    if words[:2] == ["/bin/sh", "-c"]:
        used |= set(_SHELL_USE.findall("\n".join(words[2:]))) - _GIVEN_BY_KUBERNETES
    for name in sorted(used - known):
        yield f"its command line has {name}, which is none of its variables"


def _locks(build: Build, pod: Pod, container: Manifest) -> Iterator[str]:
    if pod.owner["kind"] != "StatefulSet" or container not in pod.spec["containers"]:
        return
    text = "\n".join(_lines(build, pod, container))
    for lock in LOCKS.get(image_of(container), ()):
        if len(re.findall(lock, text, re.MULTILINE)) != 1:
            yield f"is not told {lock}"


def _vault(build: Build) -> Iterator[str]:
    for each in build.all("ExternalSecret"):
        for datum in each["spec"]["data"]:
            wanted = {"key": f"recommendation/{each['metadata']['name']}", "property": datum["secretKey"]}
            if datum["remoteRef"] != wanted:
                yield f"{named(each)}: {datum['secretKey']} is {datum['remoteRef']} of the vault"


def _scrapers(build: Build) -> Iterator[str]:
    for each in build.all("PodMonitor"):
        for endpoint in each["spec"]["podMetricsEndpoints"]:
            login = endpoint.get("authorization", {}).get("credentials")
            if login and login != {"name": CREDENTIALS, "key": "qdrant_api_key"}:
                yield f"{named(each)}: logs in by {login}"
