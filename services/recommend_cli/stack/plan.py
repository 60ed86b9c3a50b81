"""Which services a stack has, where they listen and what they are told."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from recommend_cli.environment import code_revision
from recommend_cli.errors import CommandError
from recommend_cli.stack.folder import Protocol
from recommend_cli.stack.ports import LOOPBACK, free_ports, is_free

DEFAULT_PORT: Final = 8080
GATEWAY: Final = "hot_path_api"

# In the order of stopping, read backwards: who is asked is there longer than who asks.
_GRPC_SERVICES: Final = ("profile_store", "vector_search", "graph_service", "gpu_worker")

# The serving processes answer from many small calls: a pool of threads in each numeric library only makes them wait.
# Training may use every core, and bounds itself.
_ONE_THREAD: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
}
_USES_ALL_CORES: Final = "gpu_worker"


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """How to start one service and where it will listen."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    port: int
    metrics_port: int
    protocol: Protocol

    @property
    def endpoint(self) -> str:
        """Give "host:port"."""
        return f"{LOOPBACK}:{self.port}"


@dataclass(frozen=True, slots=True)
class StackPlan:
    """The services in the order of starting, and the gateway's address."""

    services: tuple[ServicePlan, ...]
    url: str
    auth: bool


def plan_stack(
    data_dir: Path, *, port: int, api_key: str, auth: bool, settings: Mapping[str, str] | None = None
) -> StackPlan:
    """Choose ports and write each service's environment.

    Args:
        data_dir: Where all services keep what they own.
        port: The gateway's port; 0 for any free one.
        api_key: The default tenant's key.
        auth: Whether the gateway asks for it.
        settings: Further settings for every service.

    Raises:
        CommandError: The gateway's port is taken.
    """
    if port and not is_free(port):
        raise CommandError(f"Port {port} is taken", hint="choose another: `--port N`, or 0 for any free one")
    services = len(_GRPC_SERVICES)
    gateway_port, *free = free_ports(1 + 2 * services + 1)
    gateway_port = port or gateway_port
    endpoints = {name: f"{LOOPBACK}:{free[at]}" for at, name in enumerate(_GRPC_SERVICES)}
    shared = {
        **os.environ,
        "DATA_DIR": str(data_dir),
        "EVENT_LOG_URL": f"sqlite:///{data_dir / 'log'}",
        "MODEL_STORE_URL": f"file://{data_dir / 'models'}",
        "HOST": LOOPBACK,
        "SHUTDOWN_GRACE_S": "3",
        "GIT_REVISION": code_revision(),
        "VECTOR_DB_ENDPOINT": endpoints["vector_search"],
        "GRAPH_DB_ENDPOINT": endpoints["graph_service"],
        "AGENTDB_ENDPOINT": endpoints["profile_store"],
        "GPU_WORKER_ENDPOINT": endpoints["gpu_worker"],
        **(settings or {}),
    }

    def service(name: str, port: int, metrics_port: int, own: Mapping[str, str]) -> ServicePlan:
        threads = {} if name == _USES_ALL_CORES else _ONE_THREAD
        return ServicePlan(
            name=name,
            command=(sys.executable, "-m", name),
            environment={**shared, **threads, "METRICS_PORT": str(metrics_port), **own},
            port=port,
            metrics_port=metrics_port,
            protocol="http" if name == GATEWAY else "grpc",
        )

    inner = [
        service(name, free[at], free[services + at], {"GRPC_PORT": str(free[at])})
        for at, name in enumerate(_GRPC_SERVICES)
    ]
    key = {"API_KEY": api_key, "AUTH_REQUIRED": "true"} if auth else {"API_KEY": "", "AUTH_REQUIRED": "false"}
    gateway = service(GATEWAY, gateway_port, free[-1], {"HTTP_PORT": str(gateway_port), **key})
    return StackPlan(services=(*inner, gateway), url=f"http://{gateway.endpoint}", auth=auth)
