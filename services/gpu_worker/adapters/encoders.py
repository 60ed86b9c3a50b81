"""Opens the encoder that the settings ask for."""

import asyncio
from pathlib import Path

from gpu_worker.adapters.encoder_models import choose_model
from gpu_worker.adapters.torch_presence import require_device, torch_is_installed
from gpu_worker.adapters.use_encoder import UseTextEncoder
from gpu_worker.domain.ports import ClosableEncoder, EncoderKind
from servicekit.errors import StartupError
from servicekit.logs import get_logger

_log = get_logger(__name__)


async def open_encoder(
    kind: EncoderKind, *, models_dir: Path, model: str, device: str, threads: int, max_words: int
) -> ClosableEncoder:
    """Open an encoder.

    Args:
        kind: `auto` takes sentence-transformers when a GPU and a model are there, and the Universal Sentence Encoder
            otherwise.
        models_dir: Where the models of sentence-transformers lie.
        model: Which of them, as a path below; empty for the only one.
        device: "auto", "cpu", "cuda", "cuda:1".
        threads: Of the linear algebra on the CPU.
        max_words: Of a text only so many are read.

    Raises:
        StartupError: What is asked for is not there.
    """
    chosen = await asyncio.to_thread(_choose, kind, models_dir, model, device)
    if chosen is None:
        return UseTextEncoder(threads=threads, max_words=max_words)
    folder, found_device = chosen
    _log.info("loading the encoder", folder=str(folder), device=found_device)
    return await asyncio.to_thread(_load, folder, found_device, threads, max_words)


def _choose(kind: EncoderKind, models_dir: Path, model: str, device: str) -> tuple[Path, str] | None:
    """Give the model's folder and the device, None for the Universal Sentence Encoder."""
    if kind == "use" or (kind == "auto" and not torch_is_installed()):
        return None
    if kind == "auto":
        found = require_device(device)
        folder = choose_model(models_dir, model) if found.startswith("cuda") else None
        return None if folder is None else (folder, found)
    if not torch_is_installed():
        raise StartupError(
            "ENCODER is sentence_transformers, and torch is not installed; install the extra `torch` or set ENCODER=use"
        )
    folder = choose_model(models_dir, model)
    if folder is None:
        raise StartupError(
            f"ENCODER is sentence_transformers, and {models_dir} has no model; set MODELS_DIR or put one there"
        )
    return folder, require_device(device)


def _load(folder: Path, device: str, threads: int, max_words: int) -> ClosableEncoder:
    # Imported only when chosen: the base install has no torch.
    from gpu_worker.adapters.sentence_transformers_encoder import SentenceTransformersEncoder  # noqa: PLC0415

    return SentenceTransformersEncoder(folder, device=device, threads=threads, max_words=max_words)
