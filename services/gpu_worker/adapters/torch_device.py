"""Which device torch computes on, and how, so that the same seed gives the same model."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from servicekit.errors import FailedPreconditionError, InternalError, ResourceExhaustedError, ServiceError

ERRORS: tuple[tuple[type[Exception], type[ServiceError]], ...] = (
    (torch.OutOfMemoryError, ResourceExhaustedError),
    (torch.linalg.LinAlgError, FailedPreconditionError),
    (RuntimeError, InternalError),  # the mother of the two above and of most others
    (torch.FatalError, InternalError),
    (torch.cuda.DeferredCudaCallError, InternalError),
    (torch.jit.Error, InternalError),
)
"""What torch raises and what we make of it; the first that fits."""


def find_device(wanted: str) -> str:
    """Give the device to use: `auto` is CUDA where there is one; empty when the wanted one is not there."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if torch.device(wanted).type == "cuda" and (torch.device(wanted).index or 0) >= torch.cuda.device_count():
        return ""
    return wanted


def describe_device(device: str) -> str:
    """Name a device for people."""
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else "cpu"


def be_reproducible(*, threads: int) -> None:
    """Choose algorithms that always sum in the same order, for the whole process; before the first use of a GPU.

    On CUDA this also needs CUBLAS_WORKSPACE_CONFIG in the environment of the process.
    """
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=True)
    # What is not yet written need not be filled for the sake of the same result: everything here is written first.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cuda.matmul.allow_tf32 = False


@contextmanager
def mapped_errors(task: str) -> Iterator[None]:
    """Raise what torch raises as one of ours."""
    try:
        yield
    except tuple(theirs for theirs, _ in ERRORS) as exc:
        kind = next(ours for theirs, ours in ERRORS if isinstance(exc, theirs))
        raise kind(f"{task} failed: {_first_line(exc)}{_ADVICE.get(kind, '')}") from exc


_ADVICE: dict[type[ServiceError], str] = {
    ResourceExhaustedError: " Lower TORCH_MEMORY_GIB or TRAINING_DENSE_ITEMS, or set TORCH_DEVICE=cpu.",
}


def _first_line(exc: Exception) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0]
