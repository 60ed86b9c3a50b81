"""Shows how busy the GPUs are: asked of the driver when the metrics are read, and at no other time."""

import math
from importlib.util import find_spec
from typing import Any

from servicekit.logs import get_logger
from servicekit.metrics import GPU_UTILIZATION

_log = get_logger(__name__)


def show_gpus() -> None:
    """Show each GPU that the driver lists; without a driver, or without the extra `torch`, there is no series."""
    if find_spec("pynvml") is None:
        return
    import pynvml  # noqa: PLC0415 - of the extra `torch`

    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        _log.info("no GPU is watched", reason=str(error))
        return
    for index, handle in enumerate(handles):
        GPU_UTILIZATION.labels(str(index)).set_function(_Utilization(pynvml, handle))


class _Utilization:
    """Gives the percent of the last moment in which a GPU computed; NaN while the driver does not tell."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle

    def __call__(self) -> float:
        try:
            return float(self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu)
        except self._nvml.NVMLError:
            return math.nan  # a scrape shall not fail because a GPU fell off the bus
