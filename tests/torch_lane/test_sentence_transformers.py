"""A small real model: all-MiniLM-L6-v2."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from contract.gpu_worker.text_encoder_contract import MAX_WORDS, TextEncoderContract

from gpu_worker.adapters.sentence_transformers_encoder import SentenceTransformersEncoder
from gpu_worker.adapters.torch_device import find_device
from servicekit.errors import StartupError

DEVICE = find_device("auto")


def open_model(folder: Path, device: str = DEVICE) -> SentenceTransformersEncoder:
    return SentenceTransformersEncoder(folder, device=device, threads=2, max_words=MAX_WORDS)


@pytest.fixture(scope="module")
def opened(models_dir: Path) -> Iterator[SentenceTransformersEncoder]:
    encoder = open_model(models_dir / "model")
    yield encoder
    encoder.close()


class TestSentenceTransformers(TextEncoderContract):
    adapter = "sentence_transformers"
    tolerance = 1e-5 if DEVICE == "cpu" else 2e-3  # half floats on a GPU

    @pytest.fixture
    def encoder(self, opened: SentenceTransformersEncoder) -> SentenceTransformersEncoder:
        return opened

    async def test_similar_texts_are_nearer_than_others(self, encoder: SentenceTransformersEncoder) -> None:
        texts = ["a dog chases a cat", "a puppy runs after a kitten", "stock markets fell sharply", "shares lost value"]
        vectors = await encoder.encode(texts)
        similarities = vectors @ vectors.T
        np.fill_diagonal(similarities, -1.0)
        assert similarities.argmax(axis=1).tolist() == [1, 0, 3, 2]

    async def test_more_texts_than_a_batch_keep_their_order(self, encoder: SentenceTransformersEncoder) -> None:
        texts = [f"film number {number} " + "about war " * (number % 7) for number in range(300)]
        vectors = await encoder.encode(texts)
        alone = np.concatenate([await encoder.encode([texts[number]]) for number in (0, 150, 299)])
        np.testing.assert_allclose(vectors[[0, 150, 299]], alone, atol=self.tolerance)

    def test_the_model_id_has_its_name_and_its_hash(self, encoder: SentenceTransformersEncoder) -> None:
        name, digest = encoder.model_id.split("/")
        assert name == "model"
        assert len(digest) == 16


def copy(models_dir: Path, folder: Path) -> Path:
    shutil.copytree(models_dir / "model", folder)
    return folder


def test_the_id_changes_with_the_weights_and_not_with_the_place(models_dir: Path, tmp_path: Path) -> None:
    first = open_model(copy(models_dir, tmp_path / "one" / "mini"))
    moved = open_model(copy(models_dir, tmp_path / "two" / "mini"))
    (tmp_path / "two" / "mini" / "README.md").write_text("other words")
    noted = open_model(tmp_path / "two" / "mini")
    weights = tmp_path / "two" / "mini" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    other = open_model(tmp_path / "two" / "mini")
    for encoder in (first, moved, noted, other):
        encoder.close()
    assert first.model_id == moved.model_id == noted.model_id
    assert other.model_id != first.model_id
    assert other.model_id.startswith("mini/")


def test_a_hub_s_folder_is_named_by_its_model(models_dir: Path, tmp_path: Path) -> None:
    encoder = open_model(copy(models_dir, tmp_path / "models--owner--mini" / "snapshots" / "0123"))
    encoder.close()
    assert encoder.model_id.startswith("owner--mini/")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "modules.json"])
def test_a_damaged_model_is_told_at_the_start(name: str, models_dir: Path, tmp_path: Path) -> None:
    folder = copy(models_dir, tmp_path / "mini")
    (folder / name).write_bytes(b"{")
    with pytest.raises(StartupError, match="cannot be loaded") as told:
        open_model(folder)
    assert "\n" not in str(told.value)
