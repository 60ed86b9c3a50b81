"""What each service is told: its settings, built from the environment that its container gets."""

import os
from collections.abc import Iterator, Mapping
from typing import Final
from unittest import mock

from deploy_support.builds import Build, Manifest
from deploy_support.pods import Pod, environment_of, pods_of, service_of
from fleet_controller.settings import FleetSettings
from gpu_worker.settings import GpuWorkerSettings
from graph_service.settings import GraphServiceSettings
from hot_path_api.settings import Settings
from profile_store.settings import ProfileStoreSettings
from servicekit.settings import ServiceSettings
from vector_search.settings import VectorSearchSettings

SETTINGS: Final[Mapping[str, type[ServiceSettings]]] = {
    "fleet-controller": FleetSettings,
    "gpu-worker": GpuWorkerSettings,
    "graph-service": GraphServiceSettings,
    "hot-path-api": Settings,
    "profile-store": ProfileStoreSettings,
    "vector-search": VectorSearchSettings,
}

OTHERS: Final = {
    "AWS_REGION": "boto reads it, for the bucket of the models",
    "CUDA_VISIBLE_DEVICES": "CUDA reads it",
    "KAFKA_BROKERS": "EVENT_LOG_URL is made of it",
    "NUMBA_CACHE_DIR": "numba reads it",
    "NUMBA_NUM_THREADS": "numba reads it",
    "NVIDIA_DRIVER_CAPABILITIES": "the container runtime of NVIDIA reads it",
    "OMP_NUM_THREADS": "OpenMP reads it",
    "OPENBLAS_NUM_THREADS": "OpenBLAS reads it",
}
"""Environment variables of our containers that are no setting of ours, and who reads them."""


def our_containers(build: Build) -> Iterator[tuple[Pod, Manifest, str]]:
    """Give the containers of our services that read settings, each with its pod and its service."""
    for pod in pods_of(build):
        for container in pod.containers:
            service = service_of(container)
            if service is not None and service in SETTINGS:
                yield pod, container, service


def settings_of(
    build: Build, pod: Pod, container: Manifest, *, secrets: Mapping[str, str] | None = None
) -> ServiceSettings:
    """Give the settings that a container reads at its start.

    Raises:
        ValidationError: It would end there.
    """
    told = environment_of(build, pod, container, secrets=secrets)
    with mock.patch.dict(os.environ, told, clear=True):
        return SETTINGS[service_of(container) or ""]()
