"""What is chosen where the extra `torch` is installed, with and without a GPU."""

from pathlib import Path
from typing import Any

import pytest
import torch

from gpu_worker.adapters import encoders
from gpu_worker.adapters.encoders import open_encoder
from gpu_worker.adapters.faiss_neighbours import FaissNeighbours
from gpu_worker.adapters.torch_edlae import TorchEdlae
from gpu_worker.adapters.torch_elsa import TorchElsaFactors
from gpu_worker.adapters.training_choice import choose_methods
from gpu_worker.adapters.training_methods import open_methods
from gpu_worker.adapters.use_encoder import UseTextEncoder
from gpu_worker.domain.training import MethodChoice
from gpu_worker.training.methods import IalsFactors, NumpyEdlae
from servicekit.errors import StartupError

REST: dict[str, Any] = {
    "precision": "float32",
    "memory_bytes": 1 << 30,
    "dense_items": 500,
    "threads": 2,
}


@pytest.fixture
def gpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Let torch find so many GPUs."""
    count = int(request.param)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    return count


@pytest.mark.parametrize(
    ("gpus", "backend", "factors", "device", "expected"),
    [
        (0, "auto", "ials", "auto", ("numpy", "cpu")),
        (1, "auto", "ials", "auto", ("torch", "cuda")),
        (1, "auto", "ials", "cpu", ("numpy", "cpu")),
        (0, "auto", "elsa", "auto", ("torch", "cpu")),
        (1, "auto", "elsa", "auto", ("torch", "cuda")),
        (0, "torch", "ials", "auto", ("torch", "cpu")),
        (2, "torch", "elsa", "cuda:1", ("torch", "cuda:1")),
        (1, "numpy", "ials", "cuda", ("numpy", "cpu")),
    ],
    indirect=["gpus"],
)
def test_the_settings_choose(gpus: int, backend: Any, factors: Any, device: str, expected: tuple[str, str]) -> None:
    choice = choose_methods(backend, factors=factors, device=device, **REST)
    assert (choice.backend, choice.device) == expected, gpus
    assert choice.factors == factors
    assert choice.dense_items == 500


@pytest.mark.parametrize(("gpus", "device"), [(0, "cuda"), (1, "cuda:1")], indirect=["gpus"])
def test_a_gpu_that_is_not_there_is_told_at_the_start(gpus: int, device: str) -> None:
    with pytest.raises(StartupError, match=f"TORCH_DEVICE is {device}, and torch finds no such GPU here"):
        choose_methods("torch", factors="ials", device=device, **REST)
    assert torch.cuda.device_count() == gpus


def test_elsa_with_numpy_is_told_at_the_start() -> None:
    with pytest.raises(StartupError, match="FACTORS_MODEL is elsa, which needs torch"):
        choose_methods("numpy", factors="elsa", device="auto", **REST)


def test_the_methods_are_the_chosen_ones() -> None:
    methods = open_methods(MethodChoice("torch", factors="elsa", dense_items=77, device="cpu"))
    assert isinstance(methods.edlae, TorchEdlae)
    assert isinstance(methods.neighbours, FaissNeighbours)
    assert isinstance(methods.factors, TorchElsaFactors)
    assert methods.max_dense_items == 77
    plain = open_methods(MethodChoice("numpy"))
    assert isinstance(plain.edlae, NumpyEdlae)
    assert isinstance(plain.factors, IalsFactors)


@pytest.mark.parametrize(
    ("gpus", "kind", "device", "expected"),
    [
        (0, "auto", "auto", None),
        (1, "auto", "auto", "cuda"),
        (1, "auto", "cpu", None),
        (0, "sentence_transformers", "auto", "cpu"),
        (1, "sentence_transformers", "auto", "cuda"),
        (1, "use", "auto", None),
    ],
    indirect=["gpus"],
)
def test_the_settings_choose_an_encoder(
    gpus: int, kind: Any, device: str, expected: str | None, models_dir: Path
) -> None:
    chosen = encoders._choose(kind, models_dir, "", device)
    assert chosen == (None if expected is None else (models_dir / "model", expected)), gpus


@pytest.mark.parametrize("gpus", [1], indirect=True)
def test_a_gpu_without_a_model_leaves_the_universal_encoder(gpus: int, tmp_path: Path) -> None:
    assert encoders._choose("auto", tmp_path, "", "auto") is None, gpus
    with pytest.raises(StartupError, match="has no model; set MODELS_DIR or put one there"):
        encoders._choose("sentence_transformers", tmp_path, "", "auto")


async def test_the_chosen_encoder_is_opened(models_dir: Path) -> None:
    rest: dict[str, Any] = {"models_dir": models_dir, "model": "model", "device": "cpu", "threads": 1, "max_words": 8}
    encoder = await open_encoder("sentence_transformers", **rest)
    encoder.close()
    assert encoder.dimensions == 384
    other = await open_encoder("use", **rest)
    other.close()
    assert isinstance(other, UseTextEncoder)
