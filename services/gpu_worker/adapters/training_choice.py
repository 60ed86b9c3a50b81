"""Chooses what a training computes with, before anything of it is imported."""

from gpu_worker.adapters.torch_presence import require_device, torch_is_installed
from gpu_worker.domain.training import FactorModelName, MethodChoice, Precision, TrainerBackend
from servicekit.errors import StartupError


def choose_methods(
    backend: TrainerBackend,
    *,
    factors: FactorModelName,
    device: str,
    precision: Precision,
    memory_bytes: int,
    dense_items: int,
    threads: int,
) -> MethodChoice:
    """Decide before anything is trained.

    Args:
        backend: `auto` takes torch when a GPU is there or ELSA is asked for, and numpy otherwise.
        factors: The model behind the factors.
        device: "auto", "cpu", "cuda", "cuda:1".
        precision: Of EDLAE on torch.
        memory_bytes: Of the device, for EDLAE.
        dense_items: So many items take part in EDLAE.
        threads: Of the linear algebra.

    Raises:
        StartupError: What is asked for is not there.
    """
    numpy = MethodChoice("numpy", factors=factors, dense_items=dense_items, threads=threads)
    if backend == "numpy" or (backend == "auto" and not torch_is_installed()):
        if factors == "elsa":
            raise StartupError(
                "FACTORS_MODEL is elsa, which needs torch; install the extra `torch` and set TRAINER_BACKEND=torch,"
                " or set FACTORS_MODEL=ials"
            )
        return numpy
    if not torch_is_installed():
        raise StartupError(
            "TRAINER_BACKEND is torch, which is not installed; install the extra `torch` or set TRAINER_BACKEND=numpy"
        )
    found = require_device(device)
    if backend == "auto" and factors == "ials" and found == "cpu":
        return numpy
    return MethodChoice(
        "torch",
        factors=factors,
        dense_items=dense_items,
        threads=threads,
        device=found,
        precision=precision,
        memory_bytes=memory_bytes,
    )
