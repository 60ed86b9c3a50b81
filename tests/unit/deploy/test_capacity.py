"""What all pods ask for at the largest scale is what the namespace may use; what Qdrant holds fits into its memory."""

import re
from collections import Counter
from fractions import Fraction

import pytest

from deploy_support.builds import K8S, OVERLAYS, Build, build
from deploy_support.pods import FLEET_MOST_REPLICAS, Pod, most_at_once, pod_of, pods_of
from deploy_support.quantities import amount
from fleet_controller.settings import FleetSettings
from vector_search.adapters import qdrant_collections

GIB = 2**30
LIMITED = [name for name in OVERLAYS if name != "laptop"]


def totals(whole: Build) -> Counter[str]:
    found: Counter[str] = Counter()
    for pod in pods_of(whole):
        if pod.namespace != "recommendation":
            continue
        count = most_at_once(whole, pod)
        found["pods"] += count
        for kind in ("requests", "limits"):
            for what, needed in of_pod(pod, kind).items():
                found[f"{kind}.{what}"] += count * needed  # type: ignore[assignment]  # fractions add up as well
        for claim in pod.owner["spec"].get("volumeClaimTemplates", []):
            found["persistentvolumeclaims"] += count
            found["requests.storage"] += count * amount(claim["spec"]["resources"]["requests"]["storage"])  # type: ignore[assignment]
    for claim in whole.all("PersistentVolumeClaim"):
        found["persistentvolumeclaims"] += 1
        found["requests.storage"] += amount(claim["spec"]["resources"]["requests"]["storage"])  # type: ignore[assignment]
    found["services.loadbalancers"] = sum(each["spec"].get("type") == "LoadBalancer" for each in whole.all("Service"))
    return found


def of_pod(pod: Pod, kind: str) -> dict[str, Fraction]:
    """Add up the containers; of those that run before the others the largest counts where it is larger."""
    names = {what for each in pod.containers for what in each["resources"][kind]}
    first, then = pod.spec.get("initContainers", []), pod.spec["containers"]

    def needs(containers: list[dict[str, dict[str, dict[str, str]]]], what: str) -> list[Fraction]:
        return [amount(each["resources"][kind].get(what, 0)) for each in containers]

    return {what: max(sum(needs(then, what), Fraction(0)), *needs(first, what), Fraction(0)) for what in names}


@pytest.mark.parametrize("name", LIMITED)
def test_the_quota_holds_the_largest_scale(name: str) -> None:
    hard = build(name).get("ResourceQuota", "recommendation")["spec"]["hard"]
    used = totals(build(name))
    assert {
        what: (float(used[what]), float(amount(limit))) for what, limit in hard.items() if used[what] > amount(limit)
    } == {}
    assert hard.keys() >= {"requests.cpu", "requests.memory", "limits.cpu", "limits.memory", "requests.nvidia.com/gpu"}


def test_the_quota_is_a_limit_in_a_region_at_its_largest() -> None:
    hard = build("us-east-1").get("ResourceQuota", "recommendation")["spec"]["hard"]
    used = totals(build("us-east-1"))
    for what in ("requests.cpu", "requests.memory", "limits.cpu", "limits.memory", "pods"):
        assert used[what] > amount(hard[what]) / 2, what
    assert used["requests.nvidia.com/gpu"] == amount(hard["requests.nvidia.com/gpu"]) == 80
    # The gateways alone: 200 by the autoscaler and 5 of a rolling update.
    gateway = pod_of(build("us-east-1"), "hot-path-api")
    assert most_at_once(build("us-east-1"), gateway) == 205
    assert of_pod(gateway, "requests")["cpu"] * 205 == 410


def test_every_container_fits_the_limit_range() -> None:
    (limit,) = build("production").get("LimitRange", "recommendation")["spec"]["limits"]
    assert limit["type"] == "Container"
    assert not limit.keys() & {"min", "max"}
    for what in ("cpu", "memory", "ephemeral-storage"):
        assert amount(limit["defaultRequest"][what]) <= amount(limit["default"][what])


@pytest.mark.parametrize("name", OVERLAYS)
def test_no_limit_is_below_its_request(name: str) -> None:
    for pod in pods_of(build(name)):
        for container in pod.containers:
            resources = container["resources"]
            for what, requested in resources["requests"].items():
                assert amount(requested) <= amount(resources["limits"][what]), (pod.name, what)


def test_the_fleet_controller_stays_within_what_was_counted() -> None:
    assert FleetSettings.model_fields["most_replicas"].default == FLEET_MOST_REPLICAS


def test_volumes_in_memory_and_on_disk_fit_the_limits_of_their_pods() -> None:
    for pod in pods_of(build("us-east-1")):
        sizes = [amount(each["emptyDir"]["sizeLimit"]) for each in pod.spec.get("volumes", []) if "emptyDir" in each]
        limit = sum(amount(each["resources"]["limits"]["ephemeral-storage"]) for each in pod.spec["containers"])
        assert sum(sizes) <= limit, (pod.name, float(sum(sizes)) / GIB, float(limit) / GIB)


def test_a_hundred_million_vectors_fit_into_qdrant() -> None:
    vectors, dimensions, peers, copies = 100_000_000, 1_024, 10, 2
    links = 2 * qdrant_collections._LINKS  # the lowest layer has twice as many
    int8 = vectors * dimensions
    graph = vectors * links * 4
    rest = vectors * (8 + 16 + 40)
    ram = (int8 + graph + rest) * copies / peers
    disk = (vectors * dimensions * 4 + int8 + graph + rest) * copies / peers
    text = (K8S / "stores" / "qdrant" / "statefulset.yaml").read_text()
    for figure in (int8, graph, rest, int8 + graph + rest):
        assert f"{figure / 1e9:.1f} GB" in text
    assert re.search(rf"{ram / 1e9:.1f} GB a peer; with a quarter for building: {ram * 1.25 / 1e9:.1f} GB", text)
    assert re.search(rf"{disk / 1e9:.0f} GB a peer", text)

    pod = pod_of(build("production"), "qdrant")
    (container,) = pod.spec["containers"]
    (claim,) = pod.owner["spec"]["volumeClaimTemplates"]
    assert len(pod.pod_names) == peers
    assert amount(container["resources"]["requests"]["memory"]) >= 1.25 * ram
    assert amount(container["resources"]["limits"]["memory"]) >= 1.5 * ram
    assert amount(claim["spec"]["resources"]["requests"]["storage"]) >= 2 * disk
    settings = build("production").get("ConfigMap", "settings")["data"]
    assert (settings["QDRANT_SHARD_NUMBER"], settings["QDRANT_REPLICATION_FACTOR"]) == ("20", str(copies))
    assert 20 * copies % peers == 0
