# ruff: noqa: INP001 - a module that an environment gets beside the packages
"""What the programs of an image do: `service` runs its service, `healthy` asks it, `recommend` is the command.

The environment in which it lies is read-only. numba refuses a cache that it cannot write to, so the kernels that were
compiled with the image are copied to NUMBA_CACHE_DIR first, which is a matter of milliseconds.
"""

import os
import platform
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NoReturn

from servicekit import probe

GRPC_PORTS: Final = {"vector-search": 50051, "graph-service": 50052, "profile-store": 50053, "gpu-worker": 50054}
"""Where a service listens when GRPC_PORT says nothing."""
HTTP_PORT: Final = 8080
"""Where the gateway listens when HTTP_PORT says nothing."""
_HTTP: Final = ("hot-path-api", "laptop")
_ENVIRONMENT: Final = Path(sys.prefix)
_WITH_KERNELS: Final = ("graph_service", "vector_search")

_X86_64_V3: Final = {"avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"}
_TARGETS: Final = {
    "x86-64-v3": "+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe",
    "generic": "",
}
"""What kernels are compiled for, instead of the very processor: an image is made on one machine and runs on others."""


def service() -> NoReturn:
    """Become the service, with the command line's arguments."""
    name = _service()
    if name == "laptop":
        data_dir, port = os.environ.get("DATA_DIR") or "/data", os.environ.get("HTTP_PORT") or HTTP_PORT
        _become("recommend_cli", sys.argv[1:] or ["up", "--data-dir", data_dir, "--port", str(port)])
    _become(name.replace("-", "_"), sys.argv[1:])


def recommend() -> NoReturn:
    """Become the command `recommend`."""
    _become("recommend_cli", sys.argv[1:])


def healthy() -> NoReturn:
    """End with 0 when the service beside us serves."""
    name = _service()
    if name in _HTTP:
        sys.exit(probe.main([f"http://127.0.0.1:{os.environ.get('HTTP_PORT') or HTTP_PORT}/health/ready"]))
    if name in GRPC_PORTS:
        sys.exit(probe.main([f"127.0.0.1:{os.environ.get('GRPC_PORT') or GRPC_PORTS[name]}"]))
    sys.stdout.write(f"{name} is a job: as long as it runs, it is well\n")
    sys.exit(0)


def warm() -> None:
    """Compile the kernels of the services that are here into the environment; for who makes it."""
    target = _target()
    environment = {**os.environ, **_numba(target), "NUMBA_CACHE_DIR": str(_prebuilt(target))}
    for module in _WITH_KERNELS:
        if find_spec(module):
            subprocess.run([sys.executable, "-m", f"{module}.warm"], check=True, env=environment)  # noqa: S603 - ours


def _become(module: str, arguments: list[str]) -> NoReturn:
    _bring_kernels()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])  # noqa: S606 - the process shall be the service


def _bring_kernels() -> None:
    target = _target()
    cache = os.environ.get("NUMBA_CACHE_DIR")
    if cache and "NUMBA_CPU_NAME" not in os.environ and _prebuilt(target).is_dir():
        # The tree's own modes say read-only; numba wants to add to its cache when it must.
        shutil.copytree(_prebuilt(target), cache, copy_function=shutil.copyfile, dirs_exist_ok=True)
        for folder in (Path(cache), *(each for each in Path(cache).iterdir() if each.is_dir())):
            folder.chmod(0o700)
        os.environ.update(_numba(target))


def _service() -> str:
    return (_ENVIRONMENT / "service").read_text(encoding="utf-8").strip()


def _prebuilt(target: str) -> Path:
    return _ENVIRONMENT / "kernels" / target


def _numba(target: str) -> dict[str, str]:
    return {"NUMBA_CPU_NAME": target, "NUMBA_CPU_FEATURES": _TARGETS[target]}


def _target() -> str:
    """Choose by what this machine's processor can do."""
    if platform.machine() == "x86_64" and _flags() >= _X86_64_V3:
        return "x86-64-v3"
    return "generic"


def _flags() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return set(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))
