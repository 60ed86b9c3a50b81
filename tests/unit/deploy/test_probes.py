"""Every probe asks something that the running service really answers, and a pod that ends has the time to."""

import asyncio
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from deploy_support.builds import WHOLE, build
from deploy_support.pods import pod_of, pods_of, service_of
from deploy_support.told import our_containers, settings_of
from hot_path_api.bootstrap import gateway
from hot_path_api.settings import Settings
from hot_path_api.testing import World, twins
from recommend_cli.app import app as command
from servicekit.clock import SystemClock
from servicekit.eventlog.memory import MemoryEventLog
from servicekit.testing import eventually

DEPLOYED = [name for name in WHOLE if name != "laptop"]
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
MODULES = {
    "gpu-worker": "gpu_worker",
    "graph-service": "graph_service",
    "profile-store": "profile_store",
    "vector-search": "vector_search",
}


def servers(name: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Give workload, service and container of everything of ours that serves."""
    for pod, container, service in our_containers(build(name)):
        if pod.owner["kind"] in {"Deployment", "StatefulSet"}:
            yield pod.name, service, container


@pytest.mark.parametrize("name", DEPLOYED)
def test_every_server_has_three_probes_at_its_own_port(name: str) -> None:
    seen = set()
    for workload, service, container in servers(name):
        settings: Any = settings_of(build(name), pod_of(build(name), workload), container)
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        main = settings.http_port if service == "hot-path-api" else settings.grpc_port
        assert main == ports["http" if service == "hot-path-api" else "grpc"]
        assert settings.metrics_port == ports["metrics"] == 9090
        assert settings.host == "0.0.0.0"  # noqa: S104 - what the pod is told
        for probe in (container[each] for each in PROBES):
            if "httpGet" in probe:
                assert ports[probe["httpGet"]["port"]] == main
            elif "grpc" in probe:
                assert probe["grpc"]["port"] == main
            else:
                assert probe["exec"]["command"][3] == f"localhost:{main}"
        seen.add(service)
    assert seen >= {"hot-path-api", "gpu-worker", "profile-store", "vector-search"}


def test_certificates_change_how_is_probed_and_not_what() -> None:
    plain = {workload: container for workload, _, container in servers("base")}
    for workload, _, container in servers("production"):
        for each in PROBES:
            if "exec" in container[each]:
                asked = plain[workload][each]["grpc"]
                port, *health = container[each]["exec"]["command"][3:]
                assert (port, health) == (
                    f"localhost:{asked['port']}",
                    [asked["service"]] if "service" in asked else [],
                )
                assert container[each]["timeoutSeconds"] > 2  # what the probe itself gives the server


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """Ask a gateway that runs before its memory twins."""
    log = MemoryEventLog(clock=SystemClock())
    async with twins(World()) as endpoints:
        settings = Settings(
            http_port=0,
            auth_required=False,
            agentdb_endpoint=endpoints.profile_store,
            vector_db_endpoint=endpoints.vector_search,
            graph_db_endpoint=endpoints.graph_service,
            gpu_worker_endpoint=endpoints.gpu_worker,
        )
        stop = asyncio.Event()
        async with gateway(settings, event_log=log) as running:
            task = asyncio.create_task(running.run(stop))
            await eventually(lambda: running.server.port)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{running.server.port}") as asking:

                async def is_ready() -> bool:
                    return (await asking.get("/health/ready")).is_success

                await eventually(is_ready)
                yield asking
            stop.set()
            await task
    await log.close()


async def test_the_gateway_answers_every_path_that_is_probed(client: httpx.AsyncClient) -> None:
    paths = {
        container[each]["httpGet"]["path"]
        for name in DEPLOYED
        for _, _, container in servers(name)
        for each in PROBES
        if "httpGet" in container[each]
    }
    paths |= {endpoint["path"] for name in DEPLOYED for endpoint in _scraped(name)}
    paths |= {
        path["path"]
        for name in ("staging", "production")
        for each in build(name).all("Ingress")
        for rule in each["spec"]["rules"]
        for path in rule["http"]["paths"]
        if path["pathType"] == "Exact"
    }
    assert paths == {"/health", "/health/live", "/health/ready", "/metrics", "/openapi.json"}
    for path in paths:
        assert (await client.get(path)).status_code == 200, path
    assert (await client.get("/health/alive")).status_code == 404


@pytest.mark.parametrize("name", ["staging", "production"])
async def test_the_door_passes_what_the_page_of_the_api_reads(name: str, client: httpx.AsyncClient) -> None:
    page = await client.get("/api/docs")
    read = set(re.findall(r"[\"'](/[a-z./-]+)[\"']", page.text))
    assert "/openapi.json" in read
    (ingress,) = build(name).all("Ingress")
    for rule in ingress["spec"]["rules"]:
        passed = {(each["path"], each["pathType"]) for each in rule["http"]["paths"]}
        for path in read:
            is_passed = any(path == each or (how == "Prefix" and path.startswith(f"{each}/")) for each, how in passed)
            assert is_passed, (name, rule["host"], path)


def _scraped(name: str) -> list[dict[str, Any]]:
    monitors = [each for each in build(name).all("PodMonitor") if each["metadata"]["name"] == "recommendation"]
    return [endpoint for each in monitors for endpoint in each["spec"]["podMetricsEndpoints"]]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("service", MODULES)
async def test_the_running_service_answers_its_probes(service: str, tmp_path: Path) -> None:
    """The real process on embedded stores, asked by the command that stands in the manifests."""
    (container,) = [each for _, its, each in servers("production") if its == service]
    commands = {tuple(container[each]["exec"]["command"]) for each in PROBES}
    assert len(commands) == 2  # ready, and alive
    port = _free_port()
    told = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(each for each in sys.path if each),
        "DATA_DIR": str(tmp_path),
        "GRPC_PORT": str(port),
        "METRICS_PORT": "0",
        "SHUTDOWN_GRACE_S": "1",
        "OMP_NUM_THREADS": "1",
        "TRAIN_EVERY_MINUTES": "0",
    }
    with (tmp_path / "out").open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", MODULES[service]), env=told, stdout=out, stderr=out
        )
        try:
            for command in commands:
                probe = [sys.executable, *command[1:3], f"127.0.0.1:{port}", *command[4:]]

                async def answers_or_ended(probe: list[str] = probe) -> bool:
                    asked = await asyncio.create_subprocess_exec(*probe, env=told, stderr=subprocess.DEVNULL)
                    return await asked.wait() == 0 or process.returncode is not None

                await eventually(answers_or_ended, timeout_s=120.0)
                assert process.returncode is None, (tmp_path / "out").read_text()
            wrong = [sys.executable, "-m", "servicekit.probe", f"127.0.0.1:{port}", "recommendation.nothing.v1.Nothing"]
            asked = await asyncio.create_subprocess_exec(*wrong, env=told, stderr=subprocess.DEVNULL)
            assert await asked.wait() == 1
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


def _free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


def test_the_laptop_runs_a_command_that_there_is() -> None:
    (container,) = pod_of(build("laptop"), "recommendation").spec["containers"]
    assert service_of(container) == "laptop"
    assert container["command"] == ["recommend", "up", "--data-dir", "/data", "--port", "8080"]
    options = CliRunner().invoke(command, ["up", "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    assert all(each in options for each in container["command"] if each.startswith("--"))
    assert "/data" in {mount["mountPath"] for mount in container["volumeMounts"]}


async def test_the_laptop_is_asked_from_inside(client: httpx.AsyncClient) -> None:
    (container,) = pod_of(build("laptop"), "recommendation").spec["containers"]
    for each in PROBES:
        *program, url = container[each]["exec"]["command"]
        assert program == ["python", "-m", "servicekit.probe"]
        assert url.startswith("http://127.0.0.1:8080/health/")
        asked = await asyncio.create_subprocess_exec(
            sys.executable, *program[1:], url.replace("127.0.0.1:8080", client.base_url.netloc.decode())
        )
        assert await asked.wait() == 0


@pytest.mark.parametrize("name", DEPLOYED)
def test_a_pod_may_take_as_long_as_its_end_takes(name: str) -> None:
    for workload, service, container in servers(name):
        pod = pod_of(build(name), workload)
        settings = settings_of(build(name), pod, container)
        command = container["lifecycle"]["preStop"]["exec"]["command"]
        assert command[:2] == ["python", "-c"]
        assert command[2] == "import time; time.sleep(5)"
        drain_s = settings.drain_s if isinstance(settings, Settings) else 0.0
        assert pod.spec["terminationGracePeriodSeconds"] > 5 + drain_s + settings.shutdown_grace_s, service
        if isinstance(settings, Settings):
            readiness = container["readinessProbe"]
            # Two looks fit into the drain: the Service hears of it before the door closes.
            assert drain_s >= readiness["periodSeconds"] * readiness["failureThreshold"]


def test_the_stores_end_in_peace_as_well() -> None:
    for pod in pods_of(build("stores")):
        assert pod.spec["terminationGracePeriodSeconds"] >= 120, pod.name
