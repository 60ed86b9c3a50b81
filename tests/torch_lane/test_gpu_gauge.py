"""The gauge of the GPUs: on what there is, and on a driver that answers as told."""

import math
from collections.abc import Iterator
from types import SimpleNamespace

import pynvml
import pytest
import torch

from gpu_worker.adapters.gpu_gauge import show_gpus
from servicekit.metrics import GPU_UTILIZATION


@pytest.fixture(autouse=True)
def _forgotten_afterwards() -> Iterator[None]:
    yield
    GPU_UTILIZATION.clear()


def _shown() -> dict[str, float]:
    (family,) = GPU_UTILIZATION.collect()
    return {sample.labels["gpu_id"]: sample.value for sample in family.samples}


def test_every_gpu_that_torch_can_use_is_shown() -> None:
    show_gpus()
    shown = _shown()
    assert len(shown) >= torch.cuda.device_count()
    assert all(0.0 <= value <= 100.0 for value in shown.values())


def test_the_driver_is_asked_when_the_metrics_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = {"gpu 0": 7, "gpu 1": 93}

    def rates(handle: str) -> SimpleNamespace:
        if handle not in busy:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return SimpleNamespace(gpu=busy[handle])

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: f"gpu {index}")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", rates)
    show_gpus()
    assert _shown() == {"0": 7.0, "1": 93.0}
    busy["gpu 0"] = 50
    assert _shown() == {"0": 50.0, "1": 93.0}
    del busy["gpu 1"]
    assert _shown()["0"] == 50.0
    assert math.isnan(_shown()["1"])
