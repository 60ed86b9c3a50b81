"""Tells whether torch and a device for it are there, and imports it only to ask for the device."""

from importlib.util import find_spec

from servicekit.errors import StartupError

_PACKAGES = ("torch", "sentence_transformers", "faiss")
"""The extra `torch`."""


def torch_is_installed() -> bool:
    """Tell whether the extra `torch` is installed, without importing any of it."""
    return all(find_spec(name) is not None for name in _PACKAGES)


def require_device(wanted: str) -> str:
    """Give the device to use; `auto` is CUDA where there is one. Torch must be installed.

    Raises:
        StartupError: It is not there.
    """
    from gpu_worker.adapters.torch_device import find_device  # noqa: PLC0415 - only when torch is asked for

    device = find_device(wanted)
    if not device:
        raise StartupError(f"TORCH_DEVICE is {wanted}, and torch finds no such GPU here; set TORCH_DEVICE=auto or cpu")
    return device
