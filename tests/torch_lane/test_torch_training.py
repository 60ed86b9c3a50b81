"""A whole training run on torch: through the training process, into the store, and past everybody who verifies."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from unit.gpu_worker.small_catalogue import N_ITEMS, small_job

from gpu_worker.adapters.folder_model_store import FolderModelStore
from gpu_worker.adapters.training_process import ProcessTrainer
from gpu_worker.domain.training import HoldOut, MethodChoice
from gpu_worker.domain.versions import Manifest, find_fault
from vector_search.adapters.item_columns import ItemColumnCache
from vector_search.adapters.model_folder import FolderModelStore as VersionReader

pytestmark = pytest.mark.timeout(480)  # four processes that import torch

VERSIONS = {
    "numpy": ("20260101T000000-00000001", MethodChoice("numpy", threads=1)),
    "torch": ("20260101T000000-00000002", MethodChoice("torch", threads=1)),
    "elsa": ("20260101T000000-00000003", MethodChoice("torch", factors="elsa", threads=1)),
    "again": ("20260101T000000-00000004", MethodChoice("torch", factors="elsa", threads=1)),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train each of the versions."""
    folder = tmp_path_factory.mktemp("versions")
    for version, methods in VERSIONS.values():
        trainer = ProcessTrainer(
            folder / "spool",
            model_store_url=(folder / "models").as_uri(),
            methods=methods,
            command=(sys.executable, "-m", "gpu_worker.training_main"),
        )
        asyncio.run(trainer.train(small_job(version), lambda _stage, _part: None))
    return folder / "models"


def manifest(models: Path, name: str) -> Manifest:
    return FolderModelStore(models).manifest("t", VERSIONS[name][0])


def array(models: Path, name: str, file: str) -> Any:
    return np.load(models / "t" / VERSIONS[name][0] / f"{file}.npy")


@pytest.mark.parametrize("name", ["torch", "elsa"])
async def test_the_version_passes_every_verification(models: Path, name: str, tmp_path: Path) -> None:
    assert find_fault(manifest(models, name), manifest(models, "numpy")) == ""
    reader = VersionReader(models, ItemColumnCache(tmp_path))
    version = await reader.load("t", VERSIONS[name][0], verify=True)
    assert len(version.items.keys) == N_ITEMS
    assert [source.name for source in version.sources] == ["cooccurrence", "session", "transition", "content"]
    assert version.factors.items.shape == (N_ITEMS, 128 if name == "elsa" else 64)


def test_the_manifest_says_what_computed(models: Path) -> None:
    numpy, elsa = manifest(models, "numpy")["report"]["methods"], manifest(models, "elsa")["report"]["methods"]
    assert numpy == {"edlae": "numpy", "neighbours": "numpy", "factors": "ials"}
    assert elsa["edlae"] == "torch on cpu, float64"
    assert elsa["neighbours"].startswith("faiss ")
    assert elsa["factors"] == "elsa"


def test_torch_and_numpy_train_the_same_model(models: Path) -> None:
    by_numpy, by_torch = manifest(models, "numpy"), manifest(models, "torch")
    assert by_torch["hold_out"] == HoldOut.TIME
    for source, metrics in by_numpy["metrics"].items():
        assert by_torch["metrics"][source] == pytest.approx(metrics, abs=1e-3), source
    for table in ("cooccurrence", "session", "content"):
        weights = [np.sort(array(models, name, f"{table}.weights")) for name in ("numpy", "torch")]
        np.testing.assert_allclose(weights[0], weights[1], atol=1e-3)
    np.testing.assert_array_equal(array(models, "numpy", "factors"), array(models, "torch", "factors"))


def test_elsa_has_a_say_in_the_blend_and_is_the_same_each_time(models: Path) -> None:
    metrics = manifest(models, "elsa")["metrics"]
    assert metrics["factors"]["NDCG@10"] > 2 * metrics["popularity"]["NDCG@10"]
    np.testing.assert_array_equal(array(models, "elsa", "factors"), array(models, "again", "factors"))
    for part in ("serving", "metrics"):
        first, second = (dict(manifest(models, name)[part]) for name in ("elsa", "again"))
        first.pop("version", None)
        second.pop("version", None)
        assert first == second
    assert {option["source"] for option in manifest(models, "elsa")["report"]["tried"]} >= {"factors", "session"}
