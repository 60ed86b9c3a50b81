"""Whatever names another object names one that is there; each function tells what does not, one line each."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from deploy_support.builds import NAMESPACE, Build, Manifest, named
from deploy_support.pods import Pod, pods_of

_KUBERNETES_OWN_CLASSES: Final = {"system-cluster-critical", "system-node-critical"}
AGENTS: Final = {"recommendation/agent": "true"}
"""The label of pods that are not ours: agents that keep their policies in PolicyStore."""
SOLVERS: Final = {"acme.cert-manager.io/http01-solver": "true"}
"""The label of pods that cert-manager starts, to show that a name is ours."""
_NOT_OURS: Final = (AGENTS, SOLVERS)

DOORS: Final[Mapping[str, set[str]]] = {
    "nginx": {
        "cert-manager.io/cluster-issuer",
        "nginx.ingress.kubernetes.io/force-ssl-redirect",
        "nginx.ingress.kubernetes.io/proxy-body-size",
        "nginx.ingress.kubernetes.io/proxy-read-timeout",
    },
    "alb": {
        "alb.ingress.kubernetes.io/certificate-arn",
        "alb.ingress.kubernetes.io/healthcheck-interval-seconds",
        "alb.ingress.kubernetes.io/healthcheck-path",
        "alb.ingress.kubernetes.io/healthcheck-timeout-seconds",
        "alb.ingress.kubernetes.io/listen-ports",
        "alb.ingress.kubernetes.io/load-balancer-name",
        "alb.ingress.kubernetes.io/scheme",
        "alb.ingress.kubernetes.io/ssl-policy",
        "alb.ingress.kubernetes.io/tags",
        "alb.ingress.kubernetes.io/target-group-attributes",
        "alb.ingress.kubernetes.io/target-type",
        "external-dns.alpha.kubernetes.io/controller",
    },
}
"""The classes of Ingress, and of the annotations that their controllers document those that are used here: a controller
passes over what it does not know without a word."""


def unresolved(build: Build) -> list[str]:
    """Tell all that is named and not there."""
    walks = (_in_pods, _selectors, _services, _scaling, _rights, _doors, _certificates, _monitors)
    return [f"{build.name}: {problem}" for walk in walks for problem in walk(build)]


def secret_keys(build: Build) -> dict[str, set[str]]:
    """Give the keys of every Secret that is here, or that somebody is asked to make."""
    keys = {each["metadata"]["name"]: set(each.get("data", {})) for each in build.all("Secret")}
    for each in build.all("ExternalSecret"):
        keys[each["spec"]["target"]["name"]] = {datum["secretKey"] for datum in each["spec"]["data"]}
    for each in build.all("Certificate"):
        keys[each["spec"]["secretName"]] = {"tls.crt", "tls.key", "ca.crt"}
    return keys


def _config_keys(build: Build) -> dict[str, set[str]]:
    return {each["metadata"]["name"]: set(each.get("data", {})) for each in build.all("ConfigMap")}


def _in_pods(build: Build) -> Iterator[str]:
    configs, secrets = _config_keys(build), secret_keys(build)
    accounts = {(each["metadata"]["namespace"], each["metadata"]["name"]) for each in build.all("ServiceAccount")}
    classes = build.names("PriorityClass") | _KUBERNETES_OWN_CLASSES
    for pod in pods_of(build):
        who = named(pod.owner)
        account = (pod.namespace, pod.spec.get("serviceAccountName"))
        if account[1] and account not in accounts:
            yield f"{who}: no ServiceAccount {account[1]}"
        if (priority := pod.spec.get("priorityClassName")) and priority not in classes:
            yield f"{who}: no PriorityClass {priority}"
        for container in pod.containers:
            for what, name, key in _keys_used(container):
                there = (configs if what == "ConfigMap" else secrets).get(name)
                if there is None or (key is not None and key not in there):
                    yield f"{who}: no {what} {name} with {key or 'anything'}"
        yield from (f"{who}: {problem}" for problem in _volumes(build, pod, configs, secrets))


def _keys_used(container: Manifest) -> Iterator[tuple[str, str, str | None]]:
    for source in container.get("envFrom", []):
        yield "ConfigMap", source["configMapRef"]["name"], None
    for each in container.get("env", []):
        source = each.get("valueFrom", {})
        for field, what in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
            if field in source:
                yield what, source[field]["name"], source[field]["key"]


def _volumes(build: Build, pod: Pod, configs: Mapping[str, set[str]], secrets: Mapping[str, set[str]]) -> Iterator[str]:
    claims = pod.owner["spec"].get("volumeClaimTemplates", [])
    volumes = {each["name"]: each for each in pod.spec.get("volumes", [])}
    offered = {*volumes, *(each["metadata"]["name"] for each in claims)}
    mounted = {mount["name"] for each in pod.containers for mount in each.get("volumeMounts", [])}
    yield from (f"mounts {name}, which is no volume" for name in mounted - offered)
    yield from (f"nobody mounts {name}" for name in offered - mounted)
    for each in volumes.values():
        if "configMap" in each and each["configMap"]["name"] not in configs:
            yield f"no ConfigMap {each['configMap']['name']}"
        if "secret" in each and each["secret"]["secretName"] not in secrets:
            yield f"no Secret {each['secret']['secretName']}"
        claim = each.get("persistentVolumeClaim")
        if claim and claim["claimName"] not in build.names("PersistentVolumeClaim"):
            yield f"no PersistentVolumeClaim {claim['claimName']}"
    for each in (*claims, *build.all("PersistentVolumeClaim")):
        storage_class = each["spec"].get("storageClassName")
        if storage_class and storage_class not in build.names("StorageClass"):
            yield f"no StorageClass {storage_class}"


def _selectors(build: Build) -> Iterator[str]:
    pods = pods_of(build)
    for pod in pods:
        who = named(pod.owner)
        selector = pod.owner["spec"].get("selector")
        if selector and not pod.matches(selector):
            yield f"{who} does not select its own pods"
        terms = [
            each.get("podAffinityTerm", each)
            for rules in pod.spec.get("affinity", {}).get("podAntiAffinity", {}).values()
            for each in rules
        ]
        for term in (*terms, *pod.spec.get("topologySpreadConstraints", [])):
            if not pod.matches(term["labelSelector"]):
                yield f"{who}: a rule of placement means other pods"
    for each in build.all("PodDisruptionBudget"):
        if sum(pod.matches(each["spec"]["selector"]) for pod in pods) == 0:
            yield f"{named(each)} protects nothing"
    for each in build.all("NetworkPolicy"):
        rules = [*each["spec"].get("ingress", []), *each["spec"].get("egress", [])]
        peers = [peer for rule in rules for peer in (*rule.get("from", []), *rule.get("to", []))]
        inside = [peer["podSelector"] for peer in peers if "podSelector" in peer and "namespaceSelector" not in peer]
        for selector in (each["spec"]["podSelector"], *inside):
            if (
                selector
                and selector.get("matchLabels") not in _NOT_OURS
                and not any(pod.matches(selector) for pod in pods)
            ):
                yield f"{named(each)} selects nothing by {selector}"


def _services(build: Build) -> Iterator[str]:
    pods = pods_of(build)
    services = {each["metadata"]["name"]: each for each in build.all("Service")}
    for each in services.values():
        chosen = [pod for pod in pods if pod.matches(each["spec"]["selector"])]
        if not chosen:
            yield f"{named(each)} selects nothing"
        for port in each["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            if any(target not in (*pod.ports, *pod.ports.values()) for pod in chosen):
                yield f"{named(each)}: no port {target} in its pods"
    for pod in pods:
        if pod.owner["kind"] != "StatefulSet":
            continue
        governing = services.get(pod.owner["spec"]["serviceName"])
        if governing is None or not pod.matches(governing["spec"]["selector"]):
            yield f"{named(pod.owner)}: no Service {pod.owner['spec']['serviceName']} for its pods"


def _scaling(build: Build) -> Iterator[str]:
    workloads = {(each["apiVersion"], each["kind"], each["metadata"]["name"]) for each in build.objects}
    for each in build.all("HorizontalPodAutoscaler"):
        target = each["spec"]["scaleTargetRef"]
        if (target["apiVersion"], target["kind"], target["name"]) not in workloads:
            yield f"{named(each)}: no {target['kind']} {target['name']}"


def _rights(build: Build) -> Iterator[str]:
    accounts = {(each["metadata"]["namespace"], each["metadata"]["name"]) for each in build.all("ServiceAccount")}
    for each in build.all("RoleBinding", "ClusterRoleBinding"):
        role = each["roleRef"]
        if role["name"] not in build.names(role["kind"]):
            yield f"{named(each)}: no {role['kind']} {role['name']}"
        home = each["metadata"].get("namespace")
        for subject in each["subjects"]:
            if (subject.get("namespace", home), subject["name"]) not in accounts:
                yield f"{named(each)}: no ServiceAccount {subject['name']} in {subject.get('namespace', home)}"
    for each in build.all("Role"):
        if each["metadata"]["namespace"] != NAMESPACE:
            continue
        for rule in each["rules"]:
            kind = {"statefulsets": "StatefulSet", "statefulsets/scale": "StatefulSet"}[rule["resources"][0]]
            for name in set(rule["resourceNames"]) - build.names(kind):
                yield f"{named(each)}: no {kind} {name}"


def _doors(build: Build) -> Iterator[str]:
    services = {each["metadata"]["name"]: each for each in build.all("Service")}
    for each in build.all("Ingress"):
        known = DOORS.get(each["spec"]["ingressClassName"], set())
        for annotation in each["metadata"]["annotations"].keys() - known:
            yield f"{named(each)}: {annotation} means nothing to {each['spec']['ingressClassName']}"
        for rule in each["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                ports = services.get(backend["name"], {"spec": {"ports": []}})["spec"]["ports"]
                if backend["port"]["name"] not in {port["name"] for port in ports}:
                    yield f"{named(each)}: no Service {backend['name']} with port {backend['port']['name']}"


def _certificates(build: Build) -> Iterator[str]:
    secrets = secret_keys(build)
    for each in build.all("Certificate"):
        if each["spec"]["issuerRef"]["name"] not in build.names("Issuer"):
            yield f"{named(each)}: no Issuer {each['spec']['issuerRef']['name']}"
        for name in each["spec"].get("dnsNames", []):
            service = re.sub(r"^\*\.", "", name).partition(".")[0]
            if service != "localhost" and service not in build.names("Service"):
                yield f"{named(each)}: no Service {service}"
    for each in build.all("Issuer"):
        authority = each["spec"].get("ca", {}).get("secretName")
        if authority and authority not in secrets:
            yield f"{named(each)}: no Secret {authority}"


def _monitors(build: Build) -> Iterator[str]:
    pods, secrets = pods_of(build), secret_keys(build)
    for each in build.all("PodMonitor"):
        selector: dict[str, Any] = each["spec"]["selector"]
        chosen = [pod for pod in pods if pod.matches(selector)]
        wanted = [value for rule in selector.get("matchExpressions", []) for value in rule["values"]]
        if not chosen or set(wanted) - {pod.labels["app.kubernetes.io/name"] for pod in chosen}:
            yield f"{named(each)} selects less than it names"
        for endpoint in each["spec"]["podMetricsEndpoints"]:
            if any(endpoint["port"] not in pod.ports for pod in chosen):
                yield f"{named(each)}: no port {endpoint['port']} in its pods"
            login = endpoint.get("authorization", {}).get("credentials")
            if login and login["key"] not in secrets.get(login["name"], set()):
                yield f"{named(each)}: no Secret {login['name']} with {login['key']}"
