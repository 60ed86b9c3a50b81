"""Which services a stack has, where they listen and what they are told."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from recommend_cli.environment import code_revision
from recommend_cli.errors import CommandError
from recommend_cli.stack.folder import Protocol
from recommend_cli.stack.ports import LOOPBACK, free_ports, is_free
from recommend_cli.stack.stores import Stores

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

# It has a second gRPC service on a port of its own.
_SERVES_AGENTS_TOO: Final = "profile_store"

# A stack's stores are those of its settings file, not what the shell that starts it happens to say; empty is embedded.
_NO_STORES: Final = dict.fromkeys(("PROFILE_STORE_URL", "GRAPH_STORE_URL", "VECTOR_STORE_URL", "REDIS_URL"), "")


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """How to start one process and where it will listen; `name` is the process's, `service` what runs in it."""

    name: str
    service: str
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
    """The processes in the order of starting, the gateways' addresses, and the stores."""

    services: tuple[ServicePlan, ...]
    urls: tuple[str, ...]
    auth: bool
    stores: Stores


def plan_stack(
    stores: Stores,
    *,
    port: int,
    api_key: str,
    auth: bool,
    replicas: int = 1,
    settings: Mapping[str, str] | None = None,
) -> StackPlan:
    """Choose ports and write each process's environment.

    Args:
        stores: Where the data is.
        port: The first gateway's port, those of further ones follow it; 0 for any free ones.
        api_key: The default tenant's key.
        auth: Whether the gateways ask for it.
        replicas: How many processes each service has.
        settings: Further settings for every service.

    Raises:
        CommandError: A gateway's port is taken, or the stores cannot be shared by several replicas.
    """
    if replicas > 1:
        stores.require_shared()
    taken = [each for each in range(port, port + replicas) if port and not is_free(each)]
    if taken:
        raise CommandError(f"Port {taken[0]} is taken", hint="choose another: `--port N`, or 0 for any free one")
    free = iter(free_ports(replicas * (2 * (1 + len(_GRPC_SERVICES)) + 1)))
    ports = {name: [next(free) for _ in range(replicas)] for name in (*_GRPC_SERVICES, GATEWAY)}
    if port:
        ports[GATEWAY] = [port + replica for replica in range(replicas)]
    endpoints = {name: ",".join(f"{LOOPBACK}:{each}" for each in listening) for name, listening in ports.items()}
    shared = {**stack_environment(stores), **_peers(endpoints), **(settings or {})}
    key = {"API_KEY": api_key, "AUTH_REQUIRED": "true"} if auth else {"API_KEY": "", "AUTH_REQUIRED": "false"}

    def process(service: str, replica: int) -> ServicePlan:
        name = service if replicas == 1 else f"{service}-{replica + 1}"
        listens, metrics_port = ports[service][replica], next(free)
        own = {"HTTP_PORT": str(listens), **key} if service == GATEWAY else {"GRPC_PORT": str(listens)}
        if service == _SERVES_AGENTS_TOO:
            own |= {"AGENTDB_PORT": str(next(free))}
        if replicas > 1:  # what a replica keeps in files is its own
            own |= {
                "MEMBER": name,
                "CONSUMER_MEMBER": name,
                "DATA_DIR": str(stores.data_dir / f"replica-{replica + 1}"),
            }
        threads = {} if service == _USES_ALL_CORES else _ONE_THREAD
        return ServicePlan(
            name=name,
            service=service,
            command=(sys.executable, "-m", service),
            environment={**shared, **threads, "METRICS_PORT": str(metrics_port), **own},
            port=listens,
            metrics_port=metrics_port,
            protocol="http" if service == GATEWAY else "grpc",
        )

    processes = tuple(process(service, replica) for service in ports for replica in range(replicas))
    urls = tuple(f"http://{each.endpoint}" for each in processes if each.service == GATEWAY)
    return StackPlan(processes, urls, auth, stores)


def stack_environment(stores: Stores) -> dict[str, str]:
    """Give what every service of a stack is told, whatever the ports: first of all where the data is."""
    return {
        **os.environ,
        **_NO_STORES,
        **stores.settings,
        "DATA_DIR": str(stores.data_dir),
        "EVENT_LOG_URL": stores.event_log_url,
        "MODEL_STORE_URL": stores.model_store_url,
        "TENANT": stores.tenant,
        "HOST": LOOPBACK,
        "SHUTDOWN_GRACE_S": "3",
        "GIT_REVISION": code_revision(),
    }


def _peers(endpoints: Mapping[str, str]) -> dict[str, str]:
    return {
        "VECTOR_DB_ENDPOINT": endpoints["vector_search"],
        "GRAPH_DB_ENDPOINT": endpoints["graph_service"],
        "AGENTDB_ENDPOINT": endpoints["profile_store"],
        "GPU_WORKER_ENDPOINT": endpoints["gpu_worker"],
    }
