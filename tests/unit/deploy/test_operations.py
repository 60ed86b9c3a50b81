"""What docs/operations.md tells people to do can be done, and its numbers are those of the manifests."""

import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock
from urllib.parse import urlsplit

import pytest

from deploy_support.builds import REGIONS, ROOT, WHOLE, Build, build, with_an_agent
from deploy_support.commands import DOCUMENTS, commands, commands_in, refused
from deploy_support.pods import FLEET_MOST_REPLICAS, SECRET, environment_of, pod_of, pods_of
from deploy_support.prerequisites import OPERATIONS
from deploy_support.told import our_containers, settings_of
from fleet_controller.settings import FleetSettings
from servicekit.eventlog.open import kafka_options_of
from servicekit.settings import ServiceSettings

IN_FULL = ("production", *REGIONS)
DEAD_LETTERS = ROOT / "docs" / "examples" / "dead_letters.py"


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_of_the_docs_is_taken(words: list[str]) -> None:
    assert refused(words) is None


def test_the_commands_are_found() -> None:
    assert len(commands()) >= 15
    assert ["recommend", "up"] in commands()
    assert ["python", "-m", "vector_search.snapshots", "delete", "COLLECTION", "SNAPSHOT"] in commands()
    assert all(path.is_file() for path in DOCUMENTS)


@pytest.mark.parametrize(
    "wrong",
    [
        "`recommend dlq remove`",
        "`recommend up --wings`",
        "`recommend fly`",
        "`python -m vector_search.snapshot list`",
        "`python -m vector_search.snapshots undo`",
        "`python -m vector_search.snapshots restore COLLECTION`",
        "    kubectl exec deploy/profile-store -- python -m profile_store.migrate --phase both",
        "```\npython -m profile_store.migrate --phase contract --wet\n```",
    ],
)
def test_a_command_that_its_program_refuses_is_found(wrong: str) -> None:
    ((*words,),) = commands_in(wrong)
    assert refused(words)


@pytest.mark.parametrize("name", WHOLE)
def test_every_command_of_a_container_is_taken(name: str) -> None:
    for pod in pods_of(with_an_agent(name)):
        for container in pod.containers:
            asked = [container[each].get("exec", {}).get("command") for each in container if each.endswith("Probe")]
            for command in (container.get("command"), *asked):
                # The probe reads its words by itself; test_probes runs it.
                if command and (
                    command[0] == "recommend" or (command[:2] == ["python", "-m"] and command[2] != "servicekit.probe")
                ):
                    assert refused(command) is None, (pod.name, command)


@pytest.mark.parametrize("name", IN_FULL)
def test_the_controllers_run_as_often_as_they_should(name: str) -> None:
    jobs = {each["metadata"]["name"]: each["spec"] for each in build(name).all("CronJob")}
    schedules = {"neo4j-read-replicas": "*/1 * * * *", "qdrant-rebalancing": "*/15 * * * *"}
    assert {each: spec["schedule"] for each, spec in jobs.items()} == {
        each: schedule for each, schedule in schedules.items() if each in jobs
    }
    assert "qdrant-rebalancing" in jobs
    assert not any(spec.get("suspend") for spec in jobs.values())
    commands_of = {each: pod_of(build(name), each).containers[0]["command"] for each in jobs}
    assert {each: words[2:] for each, words in commands_of.items()} == {
        each: ["fleet_controller", each.partition("-")[0]] for each in jobs
    }


SCHEMES = {
    "event_log_url": "kafka",
    "graph_store_url": "neo4j",
    "kubernetes_url": "https",
    "model_store_url": "s3",
    "primary_url": "https",
    "profile_store_url": "cql",
    "prometheus_url": "http",
    "qdrant_rest_url": "http",
    "redis_url": "redis",
    "vector_store_url": "qdrant",
}


@pytest.mark.parametrize("name", [*IN_FULL, "staging"])
def test_every_address_begins_with_what_its_reader_speaks(name: str) -> None:
    for pod, container, _ in our_containers(build(name)):
        settings = settings_of(build(name), pod, container)
        told = {each["name"].lower() for each in container["env"]}
        for field in told & {each for each in type(settings).model_fields if each.endswith("_url")}:
            assert urlsplit(getattr(settings, field)).scheme == SCHEMES[field], (pod.name, field)
        for field in told & {each for each in type(settings).model_fields if each.endswith("_endpoint")}:
            assert urlsplit(getattr(settings, field)).scheme == "dns", (pod.name, field)


# --- numbers


def scaling() -> dict[str, dict[str, str]]:
    """Give the table: what is scaled, and in each overlay between which numbers."""
    text = OPERATIONS.read_text().partition("## Scaling")[2].partition("\n## ")[0]
    heading, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return {row[0]: dict(zip(heading[2:], row[2:], strict=True)) for row in rows}


def between(whole: Build) -> dict[str, str]:
    """Give the same from the manifests."""
    found = {
        each["metadata"]["name"]: f"{each['spec']['minReplicas']} to {each['spec']['maxReplicas']}"
        for each in whole.all("HorizontalPodAutoscaler")
    }
    for pod, container, service in our_containers(whole):
        settings = settings_of(whole, pod, container)
        if isinstance(settings, FleetSettings) and service and pod.name == "neo4j-read-replicas":
            found["Neo4j read replicas"] = f"{settings.least_replicas} to {settings.most_replicas}"
    for pod in pods_of(whole):
        for least, most in re.findall(r"--nodes=(\d+):(\d+):", " ".join(pod.containers[0].get("command", []))):
            found["nodes"] = f"{least} to {most}"
    return found


@pytest.mark.parametrize("name", IN_FULL)
def test_the_table_of_scaling_is_that_of_the_manifests(name: str) -> None:
    table = {what: numbers[name] for what, numbers in scaling().items()}
    assert {what: numbers for what, numbers in table.items() if numbers != "none"} == between(build(name))


@pytest.mark.parametrize("name", [*IN_FULL[:3], "staging"])
def test_neo4j_has_the_copies_that_the_docs_order_and_as_many_replicas_as_it_starts_with(name: str) -> None:
    whole = build(name)
    replicas = whole.get("StatefulSet", "neo4j-replica")["spec"]["replicas"]
    step = OPERATIONS.read_text().partition("5. Neo4j:")[2].partition("\n6. ")[0]
    of_all, of_one = re.findall(r"(\d+) SECONDARIES", step)
    assert "in `eu-west-1` with" in step
    assert replicas == int(of_one if name == "eu-west-1" else of_all)
    (fleet,) = [
        settings_of(whole, pod, container)
        for pod, container, _ in our_containers(whole)
        if pod.name == "neo4j-read-replicas"
    ]
    assert isinstance(fleet, FleetSettings)
    assert (fleet.least_replicas, fleet.most_replicas) == (replicas, FLEET_MOST_REPLICAS)


def test_the_fleet_controller_begins_with_the_numbers_it_was_ordered_with() -> None:
    """Only `eu-west-1` says another least; nobody says anything of the rest."""
    fleet = FleetSettings()
    assert (fleet.target_ms, fleet.up_above_ms, fleet.down_below_ms, fleet.cooldown_s) == (5.0, 10.0, 2.0, 300.0)
    assert (fleet.imbalance, fleet.least_replicas, fleet.most_replicas) == (0.2, 2, 10)
    assert (fleet.latency_query, fleet.replica_set, fleet.dry_run) == ("query_latency_p99", "neo4j-replica", True)
    for name in IN_FULL:
        for pod, container, service in our_containers(build(name)):
            if service == "fleet-controller":
                told = {each["name"].lower() for each in container["env"]} - {"least_replicas", "data_dir", "dry_run"}
                assert all(each.endswith(("_url", "_username", "_password", "_api_key")) for each in told), pod.name


# --- procedures


def test_what_is_run_by_hand_is_run_in_pods_that_are_there() -> None:
    whole, text = build("production"), OPERATIONS.read_text()
    pods = {name for pod in pods_of(whole) if pod.owner["kind"] == "StatefulSet" for name in pod.pod_names}
    workloads = {f"deploy/{name}" for name in whole.names("Deployment") | build("laptop").names("Deployment")}
    named = re.findall(r"(?:exec (?:-\w+ )?|port-forward )([\w/-]+)", text)
    assert {"kafka-broker-1", "scylladb-rack-a-0", "deploy/vector-search"} <= set(named) <= pods | workloads


def test_the_password_of_kafka_is_changed_by_a_listener_that_brokers_reach() -> None:
    whole, text = build("production"), OPERATIONS.read_text()
    (address,) = re.findall(r'/opt/kafka/bin/kafka-configs\.sh --bootstrap-server "\$HOSTNAME\.([\w-]+:\d+)"', text)
    service, _, port = address.partition(":")
    assert service == whole.get("StatefulSet", "kafka-broker")["spec"]["serviceName"]
    assert int(port) == pod_of(whole, "kafka-broker").ports["brokers"]
    properties = whole.get("ConfigMap", "kafka-broker")["data"]["server.properties"]
    (protocol,) = re.findall(r"BROKERS:([A-Z_]+)", properties.partition("security.protocol.map=")[2].splitlines()[0])
    assert f"security.protocol={protocol}\\n" in text
    assert "--command-config /tmp/client.properties" in text


def test_the_first_user_of_scylla_is_dropped_by_another() -> None:
    logins, _, rest = OPERATIONS.read_text().partition("DROP ROLE cassandra;")
    assert "DROP ROLE" not in rest
    assert re.findall(r"cqlsh -u (\w+)", logins) == ["cassandra", "recommendation"]


def test_the_pod_that_reads_dead_letters_is_told_all_that_it_takes() -> None:
    whole = build("production")
    (pod,) = set(re.findall(r"deploy/([\w-]+) -- python - ", OPERATIONS.read_text()))
    (container,) = pod_of(whole, pod).spec["containers"]
    told = environment_of(whole, pod_of(whole, pod), container)
    with mock.patch.dict(os.environ, told, clear=True):
        options = kafka_options_of(ServiceSettings())
    assert (options.username, options.password) == (SECRET, SECRET)


def test_dead_letters_can_be_listed_from_standard_input_in_a_pod(tmp_path: Path) -> None:
    log = f"sqlite://{tmp_path}/log"
    done = subprocess.run(
        [sys.executable, "-", "list", "user.interactions"],
        input=DEAD_LETTERS.read_text(),
        env={"PYTHONPATH": ":".join(sys.path), "EVENT_LOG_URL": log, "DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    # Nothing was ever put aside there, so there is no such topic: a line that says so, and no traceback.
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "user.interactions.dlq" in done.stderr
