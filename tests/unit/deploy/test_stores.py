"""The stores start, find each other and keep their copies apart, as far as their manifests can tell."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy_support.builds import REGIONS, Build, build
from deploy_support.pods import pod_of
from profile_store.settings import ProfileStoreSettings

IN_FULL = ("production", *REGIONS)
SECONDARIES = REGIONS[1:]
RACKS = ("scylladb-rack-a", "scylladb-rack-b", "scylladb-rack-c")
ZONE = "topology.kubernetes.io/zone"


def server(whole: Build, name: str) -> dict[str, Any]:
    (container,) = pod_of(whole, name).spec["containers"]
    return dict(container)


def told(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in container["env"]}


# --- ScyllaDB


@pytest.mark.parametrize("rack", RACKS)
def test_scylla_is_told_what_its_volume_can_do(rack: str) -> None:
    whole = build("production")
    container = server(whole, rack)
    options = dict(each.removeprefix("--").partition("=")[::2] for each in container["args"])
    assert options["developer-mode"] == "0"  # so it wants to know, and ends where it does not
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    folder, _, name = options["io-properties-file"].rpartition("/")
    (volume,) = [each for each in pod_of(whole, rack).spec["volumes"] if each["name"] == mounts[folder]]
    (file,) = [each for each in whole.all("ConfigMap") if each["metadata"]["name"] == volume["configMap"]["name"]]
    (disk,) = yaml.safe_load(file["data"][name])["disks"]
    assert disk["mountpoint"] == options["workdir"]
    (claim,) = pod_of(whole, rack).owner["spec"]["volumeClaimTemplates"]
    assert mounts[disk["mountpoint"]] == claim["metadata"]["name"]
    can = whole.get("StorageClass", claim["spec"]["storageClassName"])["parameters"]
    assert can["csi.storage.k8s.io/fstype"] == "xfs"
    assert disk["read_iops"] == disk["write_iops"] == int(can["iops"])
    assert disk["read_bandwidth"] == disk["write_bandwidth"] == int(can["throughput"]) * 2**20


def test_nobody_is_stopped_for_taking_long_to_join() -> None:
    whole = build("production")
    for rack in RACKS:  # CQL answers when all has been streamed to a new node
        assert server(whole, rack)["startupProbe"]["tcpSocket"] == {"port": "gossip"}
        assert server(whole, rack)["readinessProbe"]["tcpSocket"] == {"port": "cql"}
    qdrant = server(whole, "qdrant")  # /readyz answers when its shards are whole
    assert qdrant["startupProbe"]["httpGet"]["path"] == "/livez"
    assert qdrant["readinessProbe"]["httpGet"]["path"] == "/readyz"


# --- zones


@pytest.mark.parametrize("name", IN_FULL)
def test_a_zone_takes_no_quorum_with_it(name: str) -> None:
    whole = build(name)
    workloads = [*RACKS, "kafka-broker", *(["neo4j"] if name != "ap-southeast-1" else [])]
    for workload in workloads:
        (rule,) = pod_of(whole, workload).spec["topologySpreadConstraints"]
        assert (rule["topologyKey"], rule["maxSkew"]) == (ZONE, 1)
        assert (rule["whenUnsatisfiable"], rule["minDomains"]) == ("DoNotSchedule", 3), workload
        members = sum(
            each["spec"]["replicas"]
            for each in whole.all("StatefulSet")
            if rule["labelSelector"]["matchLabels"].items() <= each["spec"]["template"]["metadata"]["labels"].items()
        )
        assert members == 3, workload


def test_a_rack_stays_in_its_zone_when_it_gets_more_nodes() -> None:
    for rack in RACKS:
        pod = pod_of(build("production"), rack)
        (term,) = pod.spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term["topologyKey"] == ZONE
        assert term["labelSelector"]["matchLabels"] == {"recommendation/rack": rack[-1]}
        assert pod.owner["spec"]["template"]["metadata"]["labels"]["recommendation/rack"] == rack[-1]


def test_staging_runs_in_fewer_zones() -> None:
    for workload in (*RACKS, "kafka-broker", "neo4j"):
        (rule,) = pod_of(build("staging"), workload).spec["topologySpreadConstraints"]
        assert rule["whenUnsatisfiable"] == "ScheduleAnyway", workload
        assert "minDomains" not in rule  # Kubernetes refuses it there


# --- Neo4j


@pytest.mark.parametrize("name", ["staging", "production", "us-east-1", "eu-west-1"])
def test_the_read_replicas_of_the_graph_serve(name: str) -> None:
    whole = build(name)
    replicas = whole.get("StatefulSet", "neo4j-replica")["spec"]
    for workload in ("neo4j", "neo4j-replica"):
        settings = told(server(whole, workload))
        # Otherwise a server that joins later stays free, and hosts nothing.
        assert settings["NEO4J_initial_dbms_automatically__enable__free__servers"] == "true"
        assert settings["NEO4J_initial_dbms_default__secondaries__count"] == str(replicas["replicas"])
    # The identity of a server that was dropped never joins again; so its volume goes with it.
    assert replicas["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Delete"}


# --- Kafka


def run_script(folder: Path, container: dict[str, Any], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a container's script with its folders below `folder`, and with programs that do nothing."""
    programs = folder / "bin"
    programs.mkdir()
    for name in ("kafka-storage.sh", "kafka-server-start.sh", "connect-mirror-maker.sh"):
        (programs / name).write_text('#!/bin/sh\necho "$0" "$@"\n')
        (programs / name).chmod(0o755)
    (script,) = container["args"]
    here = {"/opt/kafka/bin": programs, "/etc": folder / "etc", "/tmp": folder}  # noqa: S108 - as the script says
    script = re.sub("|".join(here), lambda match: str(here[match.group()]), script)
    return subprocess.run(
        [*container["command"], script],
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def put_file(folder: Path, whole: Build, name: str) -> None:
    """Write a ConfigMap's files where the script looks for them."""
    (folder / "etc" / name).mkdir(parents=True)
    for key, value in whole.get("ConfigMap", name)["data"].items():
        (folder / "etc" / name / key).write_text(value)


def run_broker(folder: Path, password: str) -> subprocess.CompletedProcess[str]:
    whole = build("production")
    put_file(folder, whole, "kafka-broker")
    return run_script(
        folder,
        server(whole, "kafka-broker"),
        KAFKA_USERNAME="recommendation",
        KAFKA_PASSWORD=password,
        HOSTNAME="kafka-broker-2",
        DOMAIN="example.internal",
    )


def run_mirror(folder: Path, region: str, password: str) -> subprocess.CompletedProcess[str]:
    whole = build(region)
    put_file(folder, whole, "mirror-maker")
    return run_script(
        folder,
        server(whole, "mirror-maker"),
        KAFKA_USERNAME="recommendation",
        KAFKA_PASSWORD=password,
        REGION=whole.get("ConfigMap", "settings")["data"]["REGION"],
    )


def properties(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}


@pytest.mark.parametrize("password", ['a"b', "a\\b", "a,b", "a]b", "a b", "a$b", "a\nb", "a'b", "ä", ""])
def test_a_password_that_would_break_the_broker_is_refused_in_one_line(tmp_path: Path, password: str) -> None:
    (tmp_path / "broker").mkdir()
    (tmp_path / "mirror").mkdir()
    for done in (run_broker(tmp_path / "broker", password), run_mirror(tmp_path / "mirror", SECONDARIES[0], password)):
        assert done.returncode == 1
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("kafka_username and kafka_password must be of letters, digits and . _ ~ - only")


def test_a_broker_starts_with_its_names_and_its_user(tmp_path: Path) -> None:
    password = "Aa0._~-z"  # noqa: S105 - every kind of letter that it may have
    done = run_broker(tmp_path, password)
    assert (done.returncode, done.stderr) == (0, "")
    made, started = done.stdout.splitlines()
    assert "kafka-storage.sh format --ignore-formatted" in made
    assert f"--add-scram SCRAM-SHA-512=[name=recommendation,password={password}]" in made
    assert started.endswith(f"kafka-server-start.sh {tmp_path}/server.properties")
    said = properties(tmp_path / "server.properties")
    assert said["node.id"] == "2"
    assert said["advertised.listeners"].split(",") == [
        "CLIENTS://kafka-broker-2:9092",
        "CONTROLLER://kafka-broker-2.kafka-peers:9093",
        "BROKERS://kafka-broker-2.kafka-peers:9094",
        "MIRRORS://kafka-broker-2.example.internal:9095",
    ]
    for listener in ("clients", "brokers", "mirrors"):
        login = said[f"listener.name.{listener}.scram-sha-512.sasl.jaas.config"]
        assert login.endswith(f'required username="recommendation" password="{password}";')


@pytest.mark.parametrize("region", SECONDARIES)
def test_a_region_has_a_mirror_of_its_own_whose_heartbeats_are_followed(tmp_path: Path, region: str) -> None:
    done = run_mirror(tmp_path, region, "secret")
    assert (done.returncode, done.stderr) == (0, "")
    said = properties(tmp_path / "mm2.properties")
    source, target = (each.strip() for each in said["clusters"].split(","))
    # The groups and topics that it keeps in the primary are named by this, and must not be those of another region.
    assert target == region
    for cluster in (source, target):
        assert {
            f"{cluster}.{each}" for each in ("bootstrap.servers", "sasl.mechanism", "sasl.jaas.config")
        } <= said.keys()
    assert (said[f"{source}->{target}.enabled"], said[f"{target}->{source}.enabled"]) == ("true", "false")
    assert said["emit.heartbeats.enabled"] == "true"
    assert float(said["emit.heartbeats.interval.seconds"]) <= 1
    assert "@" not in (tmp_path / "mm2.properties").read_text().partition("\nclusters")[2]

    followed = told(server(build(region), "profile-store"))["HEARTBEATS_TOPIC"]
    assert followed == f"{source}.heartbeats"  # also with a policy that leaves all other names as they are
    (group,) = build(region).get("PrometheusRule", "replication")["spec"]["groups"]
    (absent,) = [rule["expr"] for rule in group["rules"] if rule["alert"] == "ReplicationUnwatched"]
    assert absent == f'absent(replication_lag_seconds{{topic="{followed}"}})'


@pytest.mark.parametrize("name", ["staging", "production", "us-east-1"])
def test_who_mirrors_nobody_follows_no_heartbeats(name: str) -> None:
    assert "HEARTBEATS_TOPIC" not in told(server(build(name), "profile-store"))
    assert ProfileStoreSettings.model_fields["heartbeats_topic"].default == ""
