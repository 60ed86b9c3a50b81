"""Embeds texts by any sentence-transformers model of a folder, on a GPU in mixed precision, else on the CPU."""

import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from transformers.utils.logging import disable_progress_bar

from gpu_worker.adapters.torch_device import mapped_errors
from gpu_worker.domain.items import has_words, shorten
from servicekit.arrays import Floats
from servicekit.errors import StartupError

_TEXTS_A_BATCH = {"cpu": 16, "cuda": 256}
"""Enough to keep the device busy, few enough that a query need not wait long behind the consumer's texts."""
_UNLOADABLE = (OSError, ValueError, LookupError, RuntimeError, ImportError, AttributeError, TypeError, SafetensorError)
"""What loading raises on a folder that is not whole or not a model of text: the library checks little itself."""
_WITHOUT_EFFECT = (".md", ".gitattributes")
_CHUNK = 1 << 20


class SentenceTransformersEncoder:
    """See TextEncoder.

    The id is made of the folder's name and of a hash over all its files, so that other weights are another model.

    Args:
        folder: Of the model.
        device: "cpu", "cuda", "cuda:1".
        threads: Of the linear algebra on the CPU.
        max_words: Of a text only so many are read, and no more than the model can take.

    Raises:
        StartupError: The folder holds no model that can be loaded.
    """

    def __init__(self, folder: Path, *, device: str, threads: int, max_words: int) -> None:
        self._device = torch.device(device)
        if self._device.type == "cpu":
            torch.set_num_threads(threads)
        disable_progress_bar()  # standard error is for log lines
        try:
            self._model: Any = SentenceTransformer(str(folder), device=device, local_files_only=True)
            self.dimensions = int(self._model.encode("warm", show_progress_bar=False).shape[0])
        except _UNLOADABLE as exc:
            reason = (str(exc).splitlines() or [type(exc).__name__])[0]
            raise StartupError(f"the model in {folder} cannot be loaded: {reason}; put a whole one there") from exc
        self._max_words = max_words
        self._batch = _TEXTS_A_BATCH[self._device.type]
        # One thread: batches take turns, and a query waits for one batch, not for all texts of another call.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self.model_id = f"{_name_of(folder)}/{_hash_of(folder)}"

    async def encode(self, texts: Sequence[str]) -> Floats:
        """See TextEncoder."""
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        # Texts of one length together, so that little is computed for padding.
        spoken = sorted((n for n, text in enumerate(texts) if has_words(text)), key=lambda n: len(texts[n]))
        for begin in range(0, len(spoken), self._batch):
            batch = spoken[begin : begin + self._batch]
            short = [shorten(texts[n], self._max_words) for n in batch]
            vectors[batch] = await asyncio.get_running_loop().run_in_executor(self._worker, self._encode, short)
        return vectors

    def close(self) -> None:
        """End the thread; what waits is dropped."""
        self._worker.shutdown(cancel_futures=True)

    def _encode(self, texts: list[str]) -> Floats:
        with (
            mapped_errors("the encoder"),
            torch.autocast(self._device.type, dtype=torch.float16, enabled=self._device.type == "cuda"),
        ):
            found = self._model.encode(texts, batch_size=len(texts), show_progress_bar=False)
        vectors: Floats = found.astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors


def _name_of(folder: Path) -> str:
    """Name a model; the hub's tools keep one as models--OWNER--NAME/snapshots/REVISION."""
    owner = folder.parent.parent
    return owner.name.removeprefix("models--") if folder.parent.name == "snapshots" else folder.name


def _hash_of(folder: Path) -> str:
    digest = sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.name.startswith(".") or path.suffix in _WITHOUT_EFFECT:
            continue
        digest.update(json.dumps([path.relative_to(folder).as_posix(), path.stat().st_size]).encode())
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()[:16]
