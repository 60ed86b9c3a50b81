"""The Dockerfiles say what the replay relies on, and what an operator expects."""

import subprocess
import sys
from pathlib import Path

import pytest

from images.dockerfile import Stage, read_dockerfile
from images.replay import CUDA_REQUIREMENTS, DOCKER, DOCKERFILES, PACKAGE_MANAGERS, RECIPE, ROOT, known_files

FILES = sorted(DOCKER.glob("*Dockerfile"))
LABELS = ("title", "description", "version", "revision", "source", "licenses", "base.name")


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def stages(request: pytest.FixtureRequest) -> dict[str, Stage]:
    return read_dockerfile(request.param)


def test_each_file_makes_an_image() -> None:
    assert set(FILES) == set(DOCKERFILES.values())


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, *FILES], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_pragma_has_a_reason() -> None:
    for path in FILES:
        lines = path.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines):
            if "hadolint ignore" in line:
                assert lines[number - 1].startswith("# "), f"{path.name}:{number + 1}"


def test_a_base_is_pinned(stages: dict[str, Stage]) -> None:
    for stage in stages.values():
        if stage.base not in stages:
            tag = stage.base.rpartition("@")[0].rpartition(":")[2] or stage.base.rpartition(":")[2]
            assert "@sha256:" in stage.base or any(letter.isdigit() for letter in tag), stage.base
            assert "latest" not in tag


def test_only_the_recipe_and_folders_are_made_in_the_build_stage(stages: dict[str, Stage]) -> None:
    for command in stages["build"].runs():
        assert command.startswith((RECIPE, "mkdir /", *PACKAGE_MANAGERS)), command


def test_nothing_is_run_in_the_last_stage(stages: dict[str, Stage]) -> None:
    assert stages[""].runs() == []


def test_the_services_last_stage_has_no_shell() -> None:
    base = read_dockerfile(DOCKER / "python-service.Dockerfile")[""].base
    assert base.startswith("gcr.io/distroless/python3-debian12:nonroot@sha256:")
    assert "debug" not in base


def test_the_gpu_workers_recipe_takes_the_pins_for_cuda() -> None:
    (command,) = [run for run in read_dockerfile(DOCKER / "gpu-worker.Dockerfile")["build"].runs() if RECIPE in run]
    assert command.split()[1:] == ["gpu-worker", "/opt/recommendation", CUDA_REQUIREMENTS]
    pins = (ROOT / CUDA_REQUIREMENTS).read_text(encoding="utf-8")
    assert "\ntorch==" in pins
    assert "\nfaiss-gpu-cu12==" in pins
    assert "\nfaiss-cpu==" not in pins


def test_what_is_copied_exists_and_reaches_the_build(stages: dict[str, Stage]) -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {source.rstrip("/") for copy in stages["build"].copies() for source in copy.sources}
    assert "*" in lines
    assert copied == allowed
    assert all(known_files(source) for source in copied)


def test_it_runs_as_nobody_special_and_is_asked_by_its_own_program(stages: dict[str, Stage]) -> None:
    image = stages[""]
    assert image.only("USER") == "1000:1000"
    assert image.command("HEALTHCHECK") == ["/opt/recommendation/bin/healthy"]
    assert image.command("ENTRYPOINT") == ["/opt/recommendation/bin/service"]
    assert image.pairs("ENV")["PATH"].startswith("/opt/recommendation/bin:")


def test_its_volumes_belong_to_its_user(stages: dict[str, Stage]) -> None:
    image = stages[""]
    owned = {copy.target for copy in image.copies() if copy.owner == "1000:1000"}
    assert set(image.command("VOLUME")) == owned


def test_the_gpu_worker_has_models_and_a_queue() -> None:
    image = read_dockerfile(DOCKER / "gpu-worker.Dockerfile")[""]
    assert image.command("VOLUME") == ["/models", "/queue"]
    assert {"MODELS_DIR": "/models", "DATA_DIR": "/queue"}.items() <= image.pairs("ENV").items()


def test_its_labels_say_what_it_is(stages: dict[str, Stage]) -> None:
    labels = stages[""].pairs("LABEL")
    assert set(labels) == {f"org.opencontainers.image.{name}" for name in LABELS}
    base = stages[""].base
    named = labels["org.opencontainers.image.base.name"]
    assert named == base.rpartition("@")[0] or named == stages.get(base, stages[""]).base
    arguments = {value.partition("=")[0] for value in stages[""].values("ARG")}
    for name in ("version", "revision", "source", "licenses"):
        assert labels[f"org.opencontainers.image.{name}"] == f"${{{name.upper()}}}"
        assert name.upper() in arguments


def test_an_image_is_called_as_the_manifests_call_it() -> None:
    for name, path in DOCKERFILES.items():
        title = read_dockerfile(path)[""].pairs("LABEL")["org.opencontainers.image.title"]
        assert title.replace("${SERVICE}", name) == f"recommendation/{name}"
    used: set[str] = set()
    for manifest in (ROOT / "deploy" / "k8s").rglob("*.yaml"):
        lines = manifest.read_text(encoding="utf-8").splitlines()
        images = (line.split("image:")[1].strip() for line in lines if "image: recommendation/" in line)
        used |= {image.partition(":")[0].removeprefix("recommendation/") for image in images}
    assert used == set(DOCKERFILES)
