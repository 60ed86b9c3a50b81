"""What a container is told is what its service can be told, and a service takes it as it is."""

from importlib.util import find_spec
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from deploy_support.builds import AGENT, EXAMPLES, ROOT, WHOLE, build, with_an_agent
from deploy_support.pods import environment_of, pod_of, pods_of, service_of
from deploy_support.told import OTHERS, SETTINGS, our_containers, settings_of
from profile_store.api import policies
from servicekit.eventlog.kafka.options import SCHEME
from servicekit.eventlog.open import kafka_options_of
from servicekit.settings import ServiceSettings, is_example

DEPLOYED = [name for name in WHOLE if name != "laptop"]
SECRETS_FILE = ROOT / "deploy" / "k8s" / "components" / "example-secrets" / "database-credentials.env"
EXAMPLE_SECRETS = dict(
    line.split("=", 1) for line in SECRETS_FILE.read_text().splitlines() if line and not line.startswith("#")
)


def fields_of(service: str) -> set[str]:
    return {name.upper() for name in SETTINGS[service].model_fields}


@pytest.mark.parametrize("name", DEPLOYED)
def test_every_variable_is_a_setting_of_its_service(name: str) -> None:
    unknown = {
        (service, each["name"])
        for _, container, service in our_containers(build(name))
        for each in container["env"]
        if each["name"] not in fields_of(service) | OTHERS.keys()
    }
    assert not unknown


@pytest.mark.parametrize("name", DEPLOYED)
def test_every_shared_variable_is_a_setting_of_somebody(name: str) -> None:
    everybodys = set.union(*(fields_of(service) for service in SETTINGS))
    assert build(name).get("ConfigMap", "settings")["data"].keys() <= everybodys | OTHERS.keys()


@pytest.mark.parametrize("name", DEPLOYED)
def test_every_service_takes_its_settings_in_production(name: str) -> None:
    taken = {}
    for pod, container, service in our_containers(build(name)):
        settings = settings_of(build(name), pod, container)
        assert settings.environment == "production", pod.name
        taken[service] = settings
        if settings.event_log_url.startswith(f"{SCHEME}://"):
            options = kafka_options_of(settings)
            assert (options.security_protocol, options.sasl_mechanism) == ("SASL_PLAINTEXT", "SCRAM-SHA-512")
            assert options.username
            assert options.password
    expected = set(SETTINGS) - ({"fleet-controller"} if name == EXAMPLES else set())
    assert taken.keys() == expected - ({"graph-service"} if name == "ap-southeast-1" else set())


@pytest.mark.parametrize("service", ["gpu-cluster", "graph-service", "hot-path-api", "profile-store", "vector-search"])
def test_production_refuses_the_example_secrets(service: str) -> None:
    whole = build(EXAMPLES)
    pod = pod_of(whole, service)
    (container,) = pod.spec["containers"]
    with pytest.raises(ValidationError, match="is the value of an example"):
        settings_of(whole, pod, container, secrets=EXAMPLE_SECRETS)
    assert settings_of(whole, pod, container).environment == "production"


def _secrets_used() -> list[Any]:
    """List which service is given which key, each key of its own name."""
    used = sorted(
        {
            (service, each["name"], each["valueFrom"]["secretKeyRef"]["key"])
            for name in ("production",)
            for _, container, service in our_containers(build(name))
            for each in container["env"]
            if "secretKeyRef" in each.get("valueFrom", {})
        }
    )
    return [each for each in used if not each[2].endswith("_username")]


@pytest.mark.parametrize(("service", "variable", "key"), _secrets_used())
def test_production_refuses_each_example_secret(service: str, variable: str, key: str) -> None:
    assert SETTINGS[service].model_fields[variable.lower()].annotation is SecretStr
    assert is_example(EXAMPLE_SECRETS[key])
    one = dict.fromkeys(EXAMPLE_SECRETS, "of-their-own-making") | {key: EXAMPLE_SECRETS[key]}
    refused = 0
    for pod, container, its in our_containers(build("production")):
        uses = any(each["name"] == variable for each in container["env"])
        if its == service and uses:
            with pytest.raises(ValidationError, match=f"{variable} is the value of an example"):
                settings_of(build("production"), pod, container, secrets=one)
            refused += 1
    assert refused


def test_the_example_and_the_vault_have_the_same_keys() -> None:
    (external,) = build("production").all("ExternalSecret")
    assert {each["secretKey"] for each in external["spec"]["data"]} == EXAMPLE_SECRETS.keys()
    assert {each["remoteRef"]["property"] for each in external["spec"]["data"]} == EXAMPLE_SECRETS.keys()


@pytest.mark.parametrize("name", DEPLOYED)
def test_every_key_of_the_secret_is_used(name: str) -> None:
    used = {
        each["valueFrom"]["secretKeyRef"]["key"]
        for pod in pods_of(build(name))
        for container in pod.containers
        for each in container.get("env", [])
        if "secretKeyRef" in each.get("valueFrom", {})
    }
    graph = {"neo4j_username", "neo4j_password"} if name == "ap-southeast-1" else set()
    assert used == EXAMPLE_SECRETS.keys() - graph


@pytest.mark.parametrize("name", DEPLOYED)
def test_every_key_of_the_addresses_is_used(name: str) -> None:
    whole = with_an_agent(name)
    used = {
        each["valueFrom"]["configMapKeyRef"]["key"]
        for _, container, _ in our_containers(whole)
        for each in container["env"]
        if each.get("valueFrom", {}).get("configMapKeyRef", {}).get("name") == "service-endpoints"
    }
    addresses = whole.get("ConfigMap", "service-endpoints")["data"]
    assert used == {key for key, value in addresses.items() if value}
    assert addresses == whole.get("ConfigMap", "service-endpoints-revision")["data"]


@pytest.mark.parametrize("name", DEPLOYED)
def test_a_new_address_rolls_every_pod(name: str) -> None:
    whole = build(name)
    hashed = whole.get("ConfigMap", "service-endpoints-revision")["metadata"]["name"]
    assert hashed != "service-endpoints-revision"
    for service in ("gpu-cluster", "graph-service", "hot-path-api", "profile-store", "vector-search"):
        if service in whole.names("Deployment", "StatefulSet"):
            volumes = pod_of(whole, service).spec["volumes"]
            assert {"name": "service-endpoints", "configMap": {"name": hashed}} in volumes


@pytest.mark.parametrize("name", DEPLOYED)
def test_there_are_partitions_for_every_member_of_a_group(name: str) -> None:
    whole = build(name)
    partitions = int(whole.get("ConfigMap", "settings")["data"]["EVENT_LOG_PARTITIONS"])
    for scaler in whole.all("HorizontalPodAutoscaler"):
        if scaler["metadata"]["name"] != "hot-path-api":  # gateways read everything, each for itself
            assert scaler["spec"]["maxReplicas"] <= partitions


@pytest.mark.parametrize("name", DEPLOYED)
def test_numba_may_write_what_it_compiles(name: str) -> None:
    for pod, container, service in our_containers(build(name)):
        if service in {"graph-service", "vector-search"}:
            folder = environment_of(build(name), pod, container)["NUMBA_CACHE_DIR"]
            assert any(folder.startswith(f"{mount['mountPath']}/") for mount in container["volumeMounts"])


def test_the_read_only_images_write_only_into_volumes() -> None:
    for pod, container, service in our_containers(build("production")):
        mounts = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert str(settings_of(build("production"), pod, container).data_dir) in mounts, (pod.name, service)
        assert "/tmp" in mounts  # noqa: S108 - the folder of temporary files in the pod
        assert container["securityContext"]["readOnlyRootFilesystem"]


@pytest.mark.parametrize("name", DEPLOYED)
def test_every_module_that_is_started_is_there(name: str) -> None:
    started = 0
    for pod, container, service in our_containers(build(name)):
        for command in (container.get("command"), *_exec_commands(container)):
            if command is None or command[:2] != ["python", "-m"]:
                continue
            module = command[2]
            assert find_spec(module), (pod.name, module)
            assert module.partition(".")[0] in {service.replace("-", "_"), "servicekit"}
            started += 1
    assert started
    assert service_of({"image": "registry.example.com/recommendation/hot-path-api:0.1.0"}) == "hot-path-api"


def test_the_example_of_an_agent_asks_for_a_service_that_there_is() -> None:
    whole = with_an_agent("production")
    (container,) = pod_of(build(AGENT), "agent").spec["containers"]
    python, option, module, address, service = container["command"]
    assert (python, option) == ("python", "-m")
    assert find_spec(module)
    assert service == policies.SERVICE_NAME
    told = environment_of(whole, pod_of(whole, "agent"), container)
    assert address == "$(AGENTDB_ENDPOINT)"
    assert told["AGENTDB_ENDPOINT"] == "agentdb-service:8888"
    assert {name.lower() for name in told} - {"agentdb_endpoint"} <= ServiceSettings.model_fields.keys() | {"data_dir"}


def _exec_commands(container: dict[str, Any]) -> list[list[str]]:
    return [
        container[each]["exec"]["command"] for each in container if each.endswith("Probe") and "exec" in container[each]
    ]
