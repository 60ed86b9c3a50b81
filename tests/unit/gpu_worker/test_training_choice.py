"""What is chosen where torch is not installed, and that it is not looked for in vain."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpu_worker.adapters.encoder_models import choose_model, find_models
from gpu_worker.adapters.encoders import open_encoder
from gpu_worker.adapters.training_choice import choose_methods
from gpu_worker.adapters.use_encoder import UseTextEncoder
from gpu_worker.domain.training import MethodChoice
from gpu_worker.settings import GpuWorkerSettings
from servicekit.errors import StartupError

REST: dict[str, Any] = {
    "device": "auto",
    "precision": "float64",
    "memory_bytes": 1 << 30,
    "dense_items": 500,
    "threads": 2,
}
ENCODER: dict[str, Any] = {"model": "", "device": "auto", "threads": 1, "max_words": 64}


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "modules.json").write_text("[]")
    return folder


@pytest.mark.parametrize("backend", ["auto", "numpy"])
def test_without_torch_numpy_trains(backend: Any) -> None:
    choice = choose_methods(backend, factors="ials", **REST)
    assert choice == MethodChoice("numpy", dense_items=500, threads=2)


@pytest.mark.parametrize("backend", ["auto", "numpy"])
def test_elsa_without_torch_is_told_at_the_start(backend: Any) -> None:
    with pytest.raises(StartupError, match=r"FACTORS_MODEL is elsa, which needs torch; install the extra"):
        choose_methods(backend, factors="elsa", **REST)


def test_torch_that_is_not_installed_is_told_at_the_start() -> None:
    with pytest.raises(StartupError, match="TRAINER_BACKEND is torch, which is not installed"):
        choose_methods("torch", factors="ials", **REST)


@pytest.mark.parametrize("kind", ["auto", "use"])
async def test_without_torch_the_universal_encoder_serves_even_when_a_model_is_there(kind: Any, tmp_path: Path) -> None:
    make_model(tmp_path / "mini")
    encoder = await open_encoder(kind, models_dir=tmp_path, **ENCODER)
    encoder.close()
    assert isinstance(encoder, UseTextEncoder)


async def test_an_encoder_that_needs_torch_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="ENCODER is sentence_transformers, and torch is not installed"):
        await open_encoder("sentence_transformers", models_dir=tmp_path, **ENCODER)


def test_the_service_starts_without_importing_torch_or_what_only_training_needs() -> None:
    program = "import sys, gpu_worker.bootstrap; print(*{'torch', 'faiss', 'implicit', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:", "cpu1"])
def test_a_device_that_torch_does_not_know_is_a_bad_setting(device: str) -> None:
    with pytest.raises(ValueError, match="torch_device"):
        GpuWorkerSettings(torch_device=device)


def test_models_are_found_in_the_layouts_that_people_have(tmp_path: Path) -> None:
    plain = make_model(tmp_path / "mini")
    hub = make_model(tmp_path / "hub" / "models--owner--name" / "snapshots" / "abc")
    bare = tmp_path / "bert"
    bare.mkdir()
    (bare / "config.json").write_text("{}")
    (bare / "model.safetensors").write_bytes(b"")
    (plain / "1_Pooling").mkdir()
    (plain / "1_Pooling" / "config.json").write_text("{}")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "config.json").write_text("{}")  # without weights it is no model
    assert find_models(tmp_path) == sorted([plain, hub, bare])
    assert find_models(plain) == [plain]
    assert find_models(tmp_path / "nowhere") == []


def test_one_model_needs_no_name_and_several_need_one(tmp_path: Path) -> None:
    assert choose_model(tmp_path, "") is None
    mini = make_model(tmp_path / "mini")
    assert choose_model(tmp_path, "") == mini
    make_model(tmp_path / "large")
    assert choose_model(tmp_path, "mini") == mini
    with pytest.raises(StartupError, match="several models; set ENCODER_MODEL to one of large, mini"):
        choose_model(tmp_path, "")
    with pytest.raises(StartupError, match=r"ENCODER_MODEL is 'tiny', and .* has no such model; it has large, mini"):
        choose_model(tmp_path, "tiny")


def test_a_service_that_cannot_have_what_it_is_asked_for_ends_with_one_line(tmp_path: Path) -> None:
    environment = {**os.environ, "TRAINER_BACKEND": "torch", "DATA_DIR": str(tmp_path), "METRICS_PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "gpu_worker"], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("TRAINER_BACKEND is torch, which is not installed")
    assert len(done.stderr.splitlines()) == 1
