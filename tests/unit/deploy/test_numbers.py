"""The names and numbers that are fixed from outside, one by one."""

import re
from typing import Any

import pytest
import yaml

from deploy_support.builds import K8S, REGIONS, ROOT, Build, build
from deploy_support.pods import pod_of
from servicekit.eventlog import topics


def server(whole: Build, name: str) -> dict[str, Any]:
    (container,) = pod_of(whole, name).spec["containers"]
    return dict(container)


def test_the_gateways() -> None:
    production = build("production")
    spec = production.get("Deployment", "hot-path-api")["spec"]
    assert spec["replicas"] == 20
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 5, "maxUnavailable": 2}}
    container = server(production, "hot-path-api")
    assert container["name"] == "server"
    resources = container["resources"]
    assert (resources["requests"]["cpu"], resources["requests"]["memory"]) == ("2", "4Gi")
    assert (resources["limits"]["cpu"], resources["limits"]["memory"]) == ("4", "8Gi")
    assert {"name": "http", "containerPort": 8080} in container["ports"]
    service = production.get("Service", "hot-path-api")["spec"]
    assert service["type"] == "LoadBalancer"
    assert [(each["port"], each["targetPort"]) for each in service["ports"]] == [(80, "http")]
    placing = pod_of(production, "hot-path-api").spec
    (rule,) = placing["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert (rule["weight"], rule["podAffinityTerm"]["topologyKey"]) == (100, "kubernetes.io/hostname")
    assert [each["topologyKey"] for each in placing["topologySpreadConstraints"]] == ["topology.kubernetes.io/zone"]
    for probe, path, seconds in (("livenessProbe", "/health/live", 10), ("readinessProbe", "/health/ready", 5)):
        assert container[probe]["httpGet"] == {"path": path, "port": "http"}
        assert (container[probe]["initialDelaySeconds"], container[probe]["periodSeconds"]) == (seconds, seconds)
    assert "startupProbe" in container
    variables = {each["name"] for each in container["env"]}
    assert variables >= {"VECTOR_DB_ENDPOINT", "GRAPH_DB_ENDPOINT", "AGENTDB_ENDPOINT"}
    assert "LOG_LEVEL" in production.get("ConfigMap", "settings")["data"]


@pytest.mark.parametrize(
    ("name", "port"),
    [("vector-search", 50051), ("graph-service", 50052), ("profile-store", 50053), ("gpu-cluster", 50054)],
)
def test_the_services_are_headless(name: str, port: int) -> None:
    spec = build("production").get("Service", name)["spec"]
    assert spec["clusterIP"] == "None"
    assert (port, "grpc") in [(each["port"], each["targetPort"]) for each in spec["ports"]]
    assert server(build("production"), name)["name"] == ("gpu-worker" if name == "gpu-cluster" else "server")


def test_the_gpu_cluster() -> None:
    production = build("production")
    owner = production.get("StatefulSet", "gpu-cluster")["spec"]
    assert (owner["replicas"], owner["serviceName"]) == (6, "gpu-cluster")
    pod = pod_of(production, "gpu-cluster").spec
    assert pod["nodeSelector"] == {"gpu": "nvidia-a100"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    container = server(production, "gpu-cluster")
    requests, limits = container["resources"]["requests"], container["resources"]["limits"]
    assert (requests["cpu"], requests["memory"], requests["nvidia.com/gpu"]) == ("16", "64Gi", "4")
    assert (limits["cpu"], limits["memory"], limits["nvidia.com/gpu"]) == ("32", "128Gi", "4")
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    assert mounts["/queue"] == "processing-queue"
    assert "/models" in mounts
    (claim,) = owner["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "processing-queue"
    assert claim["spec"]["resources"]["requests"]["storage"] == "100Gi"
    assert {"name": "metrics", "containerPort": 9090} in container["ports"]
    variables = {each["name"]: each.get("value") for each in container["env"]}
    assert len(str(variables["CUDA_VISIBLE_DEVICES"]).split(",")) == 4
    assert variables["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"


def test_the_stores() -> None:
    stores = build("stores")
    qdrant = stores.get("StatefulSet", "qdrant")["spec"]
    assert qdrant["replicas"] == 10
    assert set(pod_of(stores, "qdrant").ports.values()) == {6333, 6334, 6335}
    (claim,) = qdrant["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == "fast-ssd"
    mounts = {each["name"]: each["mountPath"] for each in server(stores, "qdrant")["volumeMounts"]}
    assert mounts[claim["metadata"]["name"]] == "/qdrant/storage"
    (script,) = server(stores, "qdrant")["args"]
    assert 'exec ./qdrant --uri "$me"' in script
    assert 'exec ./qdrant --bootstrap http://qdrant-0.qdrant-peers:6335 --uri "$me"' in script
    assert stores.get("StatefulSet", "neo4j")["spec"]["replicas"] == 3
    assert stores.get("StatefulSet", "neo4j-replica")["spec"]["replicas"] >= 1
    racks = [each for each in stores.names("StatefulSet") if each.startswith("scylladb-rack-")]
    assert len(racks) == 3
    assert pod_of(stores, "kafka-broker").pod_names == ["kafka-broker-1", "kafka-broker-2", "kafka-broker-3"]
    for number in (1, 2, 3):
        assert stores.get("Service", f"kafka-broker-{number}")["spec"]["ports"][0]["port"] == 9092
    assert stores.get("Service", "redis")["spec"]["ports"][0]["port"] == 6379


def test_the_quorum_of_kafka_names_every_broker_once() -> None:
    data = build("stores").get("ConfigMap", "kafka-broker")["data"]
    voters = [each.split("@") for each in data["initial-controllers"].split(",")]
    assert [number for number, _ in voters] == ["1", "2", "3"]
    assert [rest.rsplit(":", 1)[0] for _, rest in voters] == [f"kafka-broker-{n}.kafka-peers:9093" for n in (1, 2, 3)]
    identities = [rest.rsplit(":", 1)[1] for _, rest in voters] + [data["cluster-id"]]
    assert len(set(identities)) == 4
    assert all(len(each.strip()) == 22 for each in identities)  # 128 bits in base 64
    properties = dict(line.split("=", 1) for line in data["server.properties"].splitlines() if not line.startswith("#"))
    listeners = {each.split("://")[0] for each in properties["listeners"].split(",")}
    protocols = {each.split(":")[0] for each in properties["listener.security.protocol.map"].split(",")}
    assert listeners == protocols == {"CLIENTS", "CONTROLLER", "BROKERS", "MIRRORS"}
    assert properties["auto.create.topics.enable"] == "false"  # the services make them, each as it is kept


def test_the_names_of_addresses_and_secrets() -> None:
    addresses = build("production").get("ConfigMap", "service-endpoints")["data"]
    assert addresses["kafka_brokers"] == "kafka-broker-1:9092,kafka-broker-2:9092,kafka-broker-3:9092"
    assert addresses["agentdb_url"] == "agentdb-service:8888"
    assert addresses.keys() >= {"vector_db_url", "neo4j_url", "agentdb_url", "kafka_brokers"}
    (external,) = build("production").all("ExternalSecret")
    assert external["spec"]["target"]["name"] == "database-credentials"
    keys = {each["secretKey"] for each in external["spec"]["data"]}
    assert keys >= {"neo4j_username", "neo4j_password", "scylladb_username", "scylladb_password"}
    agents = build("production").get("Service", "agentdb-service")["spec"]
    assert [(each["port"], each["targetPort"]) for each in agents["ports"]] == [(8888, "agentdb")]
    assert pod_of(build("production"), "profile-store").ports["agentdb"] == 8888


def test_the_autoscaler_of_the_gateways() -> None:
    spec = build("production").get("HorizontalPodAutoscaler", "hot-path-api")["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (20, 200)
    cpu, memory, rate, balancer = spec["metrics"]
    assert (cpu["resource"]["name"], cpu["resource"]["target"]["averageUtilization"]) == ("cpu", 70)
    assert (memory["resource"]["name"], memory["resource"]["target"]["averageUtilization"]) == ("memory", 80)
    assert (rate["type"], rate["pods"]["metric"]["name"]) == ("Pods", "http_requests_per_second")
    assert rate["pods"]["target"] == {"type": "AverageValue", "averageValue": "1000"}
    assert (balancer["type"], balancer["external"]["metric"]["name"]) == ("External", "cloudwatch_alb_request_count")
    assert balancer["external"]["target"] == {"type": "AverageValue", "averageValue": "10000"}
    up, down = spec["behavior"]["scaleUp"], spec["behavior"]["scaleDown"]
    assert (up["stabilizationWindowSeconds"], down["stabilizationWindowSeconds"]) == (60, 300)
    assert up["policies"] == [
        {"type": "Percent", "value": 100, "periodSeconds": 60},
        {"type": "Pods", "value": 10, "periodSeconds": 60},
    ]
    assert down["policies"] == [{"type": "Percent", "value": 50, "periodSeconds": 60}]


@pytest.mark.parametrize("name", ["vector-search", "graph-service", "profile-store"])
def test_every_service_scales_by_its_own_load(name: str) -> None:
    metrics = build("production").get("HorizontalPodAutoscaler", name)["spec"]["metrics"]
    assert [each["type"] for each in metrics] == ["Resource", "Pods"]
    assert metrics[1]["pods"]["metric"]["name"] == "grpc_requests_per_second"


def test_the_gpu_cluster_scales_by_its_lag() -> None:
    (metric,) = build("production").get("HorizontalPodAutoscaler", "gpu-cluster")["spec"]["metrics"]
    assert metric["external"]["metric"]["name"] == "kafka_consumer_lag"
    labels = metric["external"]["metric"]["selector"]["matchLabels"]
    assert labels == {"topic": "content.changed", "container": server(build("production"), "gpu-cluster")["name"]}


@pytest.mark.parametrize("name", REGIONS)
def test_the_cluster_autoscaler(name: str) -> None:
    whole = build(name)
    container = server(whole, "cluster-autoscaler")
    assert ":v1.27." in container["image"]
    assert set(container["command"]) >= {
        "--cloud-provider=aws",
        "--nodes=20:100:recommendation-node-group",
        "--scale-down-delay-after-add=10m",
        "--scale-down-unneeded-time=10m",
        "--expander=least-waste",
    }
    assert whole.get("Deployment", "cluster-autoscaler")["metadata"]["namespace"] == "kube-system"


def test_the_regions() -> None:
    expected = {"us-east-1": (80, 20), "eu-west-1": (40, 6), "ap-southeast-1": (20, 6)}
    for name, (gateways, gpus) in expected.items():
        whole = build(name)
        for kind, workload, count in (("Deployment", "hot-path-api", gateways), ("StatefulSet", "gpu-cluster", gpus)):
            assert whole.get(kind, workload)["spec"]["replicas"] == count, (name, workload)
            # Otherwise the autoscaler would take it back.
            assert whole.get("HorizontalPodAutoscaler", workload)["spec"]["minReplicas"] == count, (name, workload)
        assert whole.get("ConfigMap", "settings")["data"]["REGION"] == name
    for name in REGIONS[1:]:
        variables = {each["name"]: each.get("value") for each in server(build(name), "hot-path-api")["env"]}
        assert variables["WRITES_FENCED"] == "true"
        assert variables["PRIMARY_URL"] == "https://us-east-1.recommendations.example.com"
        assert "mirror-maker" in build(name).names("Deployment")
    primary = {each["name"] for each in server(build("us-east-1"), "hot-path-api")["env"]}
    assert not primary & {"WRITES_FENCED", "GRAPH_ENABLED"}
    assert "mirror-maker" not in build("us-east-1").names("Deployment")
    # Read replicas in the one, replicas of the vectors and no graph in the other.
    more = {name: build(name).get("StatefulSet", "neo4j-replica")["spec"]["replicas"] for name in REGIONS[:2]}
    assert more["eu-west-1"] > more["us-east-1"]
    vectors = {name: build(name).get("Deployment", "vector-search")["spec"]["replicas"] for name in REGIONS}
    assert vectors["ap-southeast-1"] > vectors["us-east-1"]


def test_a_region_without_a_graph_has_no_trace_of_one() -> None:
    whole = build("ap-southeast-1")
    variables = {each["name"]: each.get("value") for each in server(whole, "hot-path-api")["env"]}
    assert variables["GRAPH_ENABLED"] == "false"
    assert "GRAPH_DB_ENDPOINT" not in variables
    left = {each["metadata"]["name"] for each in whole.objects if "graph" in each["metadata"]["name"]}
    assert left == set()
    assert not any("neo4j" in each["metadata"]["name"] for each in whole.objects)


def test_the_mirror_brings_what_the_services_read() -> None:
    properties = (K8S / "components" / "secondary-region" / "mm2.properties").read_text()
    (mirrored,) = [line.partition("=")[2] for line in properties.splitlines() if line.startswith("topics = ")]
    every = {spec.name for spec in topics.default_specs() if not spec.name.endswith(".dlq")}
    # Lists are served in each region for itself; only the primary, which trains, needs its own.
    assert {each.strip() for each in mirrored.split(",")} == every - {topics.RECOMMENDATIONS_SERVED}


def test_the_controllers_only_tell_until_somebody_says_otherwise() -> None:
    jobs = build("production").all("CronJob")
    assert {each["metadata"]["name"] for each in jobs} == {"neo4j-read-replicas", "qdrant-rebalancing"}
    for each in jobs:
        (container,) = each["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        assert {"name": "DRY_RUN", "value": "true"} in container["env"]
        assert each["spec"]["concurrencyPolicy"] == "Forbid"


def test_stores_go_last_and_training_first_and_the_comment_says_so() -> None:
    path = K8S / "base" / "priority-classes.yaml"
    values = {each["metadata"]["name"]: each["value"] for each in build("base").all("PriorityClass")}
    order = ["recommendation-stores", "recommendation-serving", "recommendation-training"]
    assert sorted(values, key=values.__getitem__, reverse=True) == order
    comment = path.read_text().partition("\n")[0]
    assert re.search(r"the stores first.*then those who serve.*then training", comment)


def test_what_is_said_of_the_images_holds_for_their_bases() -> None:
    bases = {
        path.name: [line.split()[1] for line in path.read_text().splitlines() if line.startswith("FROM ")]
        for path in (ROOT / "docker").glob("*.Dockerfile")
    }
    assert "distroless" in bases["python-service.Dockerfile"][-1]
    assert "ubi9" in bases["gpu-worker.Dockerfile"][0]
    text = " ".join((ROOT / "docs" / "images.md").read_text().split())
    assert "the CUDA image is UBI 9 with Python, and has a shell and a package manager" in text


def test_every_component_is_used_by_an_overlay_or_is_an_example() -> None:
    used = set()
    for path in (
        *K8S.glob("overlays/*/kustomization.yaml"),
        *K8S.glob("rollouts/*/kustomization.yaml"),
        K8S / "base" / "kustomization.yaml",
    ):
        used |= {each.rpartition("/")[2] for each in yaml.safe_load(path.read_text()).get("components", [])}
    assert {path.parent.name for path in K8S.glob("components/*/kustomization.yaml")} - used == {"example-secrets"}
