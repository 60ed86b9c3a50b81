"""The compose files hold together in every combination."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from images.compose import ADDED, BASE, COMBINATIONS, EXAMPLES, composed, config
from images.dockerfile import read_dockerfile
from images.replay import DOCKER, DOCKERFILES, ROOT
from servicekit.settings import ServiceSettings, is_example

_OF_LIBRARIES = {
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION",
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS",
}  # fmt: skip
_PORTS = {
    "kafka": {9092}, "scylladb": {9042}, "neo4j": {7687, 7474}, "qdrant": {6333, 6334}, "redis": {6379}, "s3": {9000},
    "prometheus": {9090}, "alertmanager": {9093}, "grafana": {3000},
}  # fmt: skip
"""Where the programs of others listen."""
_ADDRESS = re.compile(r"\b([a-z][a-z0-9-]*):(\d{2,5})\b")


@pytest.fixture(params=COMBINATIONS, ids=lambda files: "+".join(path.stem.removeprefix("compose.") for path in files))
def services(request: pytest.FixtureRequest) -> dict[str, Any]:
    document = composed(request.param)
    found: dict[str, Any] = document["services"]
    used = {volume.split(":")[0] for each in found.values() for volume in each.get("volumes", [])}
    assert {name for name in used if not name.startswith("/")} == set(document.get("volumes", {}))
    return found


def settings_of(service: str) -> type[ServiceSettings]:
    module = import_module(f"{service.replace('-', '_')}.settings")
    (kind,) = [
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, ServiceSettings) and each is not ServiceSettings
    ]
    return kind


def ours(services: dict[str, Any]) -> dict[str, tuple[str, Any]]:
    """Our own containers, each with the service whose image it runs."""
    images = {name: str(each["image"]).partition(":")[0] for name, each in services.items()}
    prefix = "recommendation/"
    return {name: (image.removeprefix(prefix), services[name]) for name, image in images.items() if prefix in image}


def test_there_are_the_files_that_are_promised() -> None:
    assert [path.name for path in ADDED] == ["compose.gpu.yaml", "compose.observability.yaml", "compose.stores.yaml"]


def test_all_services_are_there(services: dict[str, Any]) -> None:
    everyone = set(DOCKERFILES) - {"laptop", "fleet-controller"}
    assert {service for service, _ in ours(services).values()} == everyone


def test_ports_are_open_to_this_machine_only(services: dict[str, Any]) -> None:
    for name, each in services.items():
        for port in each.get("ports", []):
            assert str(port).startswith("127.0.0.1:"), f"{name}: {port}"
            assert int(str(port).split(":")[2].removesuffix("/tcp")) in ports_of(name) | {29092}


def ports_of(name: str) -> set[int]:
    if name in _PORTS:
        return _PORTS[name]
    fields = settings_of(name).model_fields
    return {fields[each].default for each in ("grpc_port", "http_port", "metrics_port") if each in fields} | {9090}


def test_everything_that_stays_is_asked_for_its_health(services: dict[str, Any]) -> None:
    for name, each in services.items():
        assert ("healthcheck" in each) == (each["restart"] == "unless-stopped"), name


def test_our_containers_are_asked_as_their_images_are(services: dict[str, Any]) -> None:
    for service, each in ours(services).values():
        if "healthcheck" in each:
            command = read_dockerfile(DOCKERFILES[service])[""].command("HEALTHCHECK")
            assert each["healthcheck"]["test"] == ["CMD", *command]


def test_who_is_waited_for_exists_and_can_be_waited_for(services: dict[str, Any]) -> None:
    for each in services.values():
        for other, wish in each.get("depends_on", {}).items():
            if wish["condition"] == "service_healthy":
                assert "healthcheck" in services[other]
            if wish["condition"] == "service_completed_successfully":
                assert services[other]["restart"] == "no"


def test_every_variable_is_a_setting(services: dict[str, Any]) -> None:
    for service, each in ours(services).values():
        known = {name.upper() for name in settings_of(service).model_fields} | _OF_LIBRARIES
        assert set(each["environment"]) <= known, service


def test_every_service_takes_its_settings(services: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for service, each in ours(services).values():
        with monkeypatch.context() as patch:
            for name, value in each["environment"].items():
                patch.setenv(name, str(value))
            settings_of(service)()


def test_every_address_is_somebodys(services: dict[str, Any]) -> None:
    told = 0
    for name, each in services.items():
        values = {**each.get("environment", {}), "entrypoint": " ".join(map(str, each.get("entrypoint") or []))}
        for setting, value in values.items():
            for host, port in _ADDRESS.findall(str(value)):
                if host.endswith("listener") or int(port) == 9093:
                    continue  # Kafka's controller, which talks with itself
                assert host in services, f"{name}: {setting} names {host}"
                assert int(port) in ports_of(host), f"{name}: {setting} asks {host} at {port}"
                told += 1
    assert told >= 6


def test_our_containers_can_do_nothing_that_they_need_not(services: dict[str, Any]) -> None:
    for _, each in ours(services).values():
        assert each["read_only"] is True
        assert each["cap_drop"] == ["ALL"]
        assert each["security_opt"] == ["no-new-privileges:true"]
        assert each["tmpfs"] == ["/tmp"]  # noqa: S108 - the container's


def test_there_is_time_to_stop(services: dict[str, Any]) -> None:
    for service, each in ours(services).values():
        if "healthcheck" in each:
            grace_s = settings_of(service).model_fields["shutdown_grace_s"].default
            assert int(each["stop_grace_period"].removesuffix("s")) > 2 * grace_s


def test_an_image_is_pinned(services: dict[str, Any]) -> None:
    for name, each in services.items():
        assert re.search(r"\d+\.\d+\.\d+|RELEASE\.\d{4}-\d{2}-\d{2}", str(each["image"]).partition(":")[2]), name


def test_an_image_of_ours_is_built_from_its_dockerfile(services: dict[str, Any]) -> None:
    for name, (service, each) in ours(services).items():
        if each["restart"] == "no":
            continue  # runs what is built for the service
        build = each["build"]
        dockerfile = Path(build["context"]) / build["dockerfile"]
        if not str(each["image"]).endswith("-cpu"):
            assert dockerfile == DOCKERFILES[service]
        assert name == service
        assert build["args"] == {"SERVICE": service}


def test_mounted_files_exist(services: dict[str, Any]) -> None:
    for each in services.values():
        for volume in each.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith("/") or Path(source).exists(), source


@pytest.mark.parametrize("files", COMBINATIONS)
def test_no_secret_has_a_default(files: tuple[Path, ...], tmp_path: Path) -> None:
    nothing = tmp_path / "empty.env"
    nothing.touch()
    done = config(files, secrets=nothing)
    assert done.returncode != 0
    assert "docker/.env" in done.stderr


def test_the_examples_are_all_that_is_asked_for_and_are_refused_in_production() -> None:
    lines = EXAMPLES.read_text(encoding="utf-8").splitlines()
    examples = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    text = "".join(path.read_text(encoding="utf-8") for path in (BASE, *ADDED))
    assert set(re.findall(r"(?<!\$)\$\{([A-Z0-9_]+)", text)) == set(examples)
    secrets = {name for name in examples if name != "VERSION"}
    assert secrets == set(re.findall(r"\$\{([A-Z0-9_]+):\?", text))
    assert all(is_example(examples[name]) for name in secrets)


def test_secrets_come_from_the_environment_only() -> None:
    stores = composed((BASE, DOCKER / "compose.stores.yaml"))["services"]
    for service, each in ours(stores).values():
        for name, field in settings_of(service).model_fields.items():
            if field.annotation is SecretStr and name.upper() in each["environment"]:
                assert is_example(each["environment"][name.upper()]), name


def test_each_schema_is_migrated_before_its_service_starts() -> None:
    stores = composed((BASE, DOCKER / "compose.stores.yaml"))["services"]
    with_schema = {path.parent.name for path in (ROOT / "services").glob("*/migrate.py")}
    migrated = {
        each["entrypoint"][-1].partition(".")[0] for each in stores.values() if "entrypoint" in each
    } & with_schema
    assert migrated == with_schema
    for module in with_schema:
        service = module.replace("_", "-")
        assert stores[service]["depends_on"][f"migrate-{service}"]["condition"] == "service_completed_successfully"
        own, told = stores[service]["environment"], stores[f"migrate-{service}"]["environment"]
        assert told.items() <= own.items()


def test_the_stores_are_those_of_the_cluster() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "deploy/k8s/stores").rglob("*.yaml"))
    in_cluster = {image.removesuffix("-enterprise") for image in re.findall(r"image: (\S+)", text)}
    stores = composed((BASE, DOCKER / "compose.stores.yaml"))["services"]
    here = {str(each["image"]).removesuffix("-community") for each in stores.values()}
    assert in_cluster <= here


def test_compose_files_are_for_everybody() -> None:
    """Both the old program, which the tests run, and the specification understand them: neither wants a version."""
    for path in (BASE, *ADDED):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        own = {name for name in document if not name.startswith("x-")}
        assert own <= {"services", "volumes"}, path.name
