import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from recommend_cli.errors import CommandError
from recommend_cli.stack import supervisor as supervisor_module
from recommend_cli.stack.folder import RunFolder, running_stack
from recommend_cli.stack.plan import ServicePlan, StackPlan, plan_stack
from recommend_cli.stack.ports import free_ports, is_free
from recommend_cli.stack.stores import open_stores
from recommend_cli.stack.supervisor import Supervisor
from servicekit.testing import eventually

_DUMMY = Path(__file__).with_name("dummy_service.py")
_NAMES = ("first", "second", "third")


def _plan(journal: Path, *, command: Callable[[str, int], tuple[str, ...]] | None = None) -> StackPlan:
    ports = free_ports(len(_NAMES))

    def dummy(name: str, port: int) -> tuple[str, ...]:
        return (sys.executable, str(_DUMMY), str(port), str(journal), name)

    services = tuple(
        ServicePlan(
            name=name,
            service=name,
            command=(command or dummy)(name, port),
            environment=dict(os.environ),
            port=port,
            metrics_port=0,
            protocol="http",
        )
        for name, port in zip(_NAMES, ports, strict=True)
    )
    stores = open_stores(journal.parent)
    return StackPlan(services=services, urls=(f"http://127.0.0.1:{ports[-1]}",), auth=True, stores=stores)


def _alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def _phase(data_dir: Path) -> str:
    state = RunFolder(data_dir).read_state()
    return state.phase if state is not None else ""


def _grandchildren(journal: Path) -> list[int]:
    return [grandchild for _, _, grandchild in _noted(journal, "started") if _alive(grandchild)]


def _noted(journal: Path, what: str) -> list[tuple[str, int, int]]:
    lines = [line.split() for line in journal.read_text().splitlines()] if journal.exists() else []
    return [(name, int(pid), int(grandchild)) for word, name, pid, grandchild in lines if word == what]


async def test_starts_all_and_stops_in_the_reverse_order_with_their_descendants(tmp_path: Path) -> None:
    journal, folder, ready = tmp_path / "journal", RunFolder(tmp_path), list[str]()
    supervisor = Supervisor(_plan(journal), folder, tell=pytest.fail, on_ready=ready.append)
    with folder.locked():
        await supervisor.start()
        assert sorted(ready) == sorted(_NAMES)
        state = running_stack(tmp_path)
        assert list(state.services) == list(_NAMES)
        await supervisor.stop()
    assert [name for name, _, _ in _noted(journal, "stopped")] == ["third", "second", "first"]
    assert not any(_alive(pid) for _, pid, _ in _noted(journal, "started"))
    await eventually(lambda: not _grandchildren(journal))
    assert folder.read_state() is None


async def test_restarts_a_killed_service_and_says_so(tmp_path: Path) -> None:
    told = list[str]()
    folder = RunFolder(tmp_path)
    supervisor = Supervisor(_plan(tmp_path / "journal"), folder, tell=told.append)
    with folder.locked():
        await supervisor.start()
        running = asyncio.create_task(supervisor.run())
        killed = supervisor.state.services["second"].pid
        os.kill(killed, signal.SIGKILL)
        await eventually(lambda: any("second serves again" in sentence for sentence in told))
        assert any("second ended (signal SIGKILL)" in sentence for sentence in told)
        service = running_stack(tmp_path).services["second"]
        assert service.pid != killed
        assert service.restarts == 1
        running.cancel()
        await supervisor.stop()


async def test_a_service_that_is_configured_wrong_ends_the_start_with_its_own_line(tmp_path: Path) -> None:
    says = "import sys; print('{}'); sys.stderr.write('the password is wrong\\n'); sys.exit(2)"

    def fails(name: str, port: int) -> tuple[str, ...]:
        if name == "second":
            return (sys.executable, "-c", says)
        return (sys.executable, str(_DUMMY), str(port), str(tmp_path / "journal"), name)

    folder = RunFolder(tmp_path)
    folder.create()
    folder.log_path("second").write_text("a line of an earlier run\n")
    supervisor = Supervisor(_plan(tmp_path / "journal", command=fails), folder, tell=pytest.fail)
    with folder.locked(), pytest.raises(CommandError) as caught:
        await supervisor.start()
    assert caught.value.message == "second does not start: the password is wrong"
    assert not caught.value.hint
    assert not any(_alive(pid) for _, pid, _ in _noted(tmp_path / "journal", "started"))


async def test_a_service_that_does_not_start_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    def fails(name: str, port: int) -> tuple[str, ...]:
        if name == "second":
            return (sys.executable, "-c", 'import sys; print(\'{"event": "no space left"}\'); sys.exit(2)')
        return (sys.executable, str(_DUMMY), str(port), str(tmp_path / "journal"), name)

    folder = RunFolder(tmp_path)
    supervisor = Supervisor(_plan(tmp_path / "journal", command=fails), folder, tell=pytest.fail)
    with folder.locked(), pytest.raises(CommandError, match="second does not start: exit code 2") as caught:
        await supervisor.start()
    assert "no space left" in caught.value.hint
    assert not any(_alive(pid) for _, pid, _ in _noted(tmp_path / "journal", "started"))


async def test_a_service_that_hangs_on_stopping_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "STOP_TIMEOUT_S", 0.2)
    told = list[str]()
    folder = RunFolder(tmp_path)
    supervisor = Supervisor(_plan(tmp_path / "journal"), folder, tell=told.append)
    with folder.locked():
        await supervisor.start()
        stuck = supervisor.state.services["first"].pid
        os.kill(stuck, signal.SIGSTOP)
        await supervisor.stop()
    assert any("first did not stop" in sentence for sentence in told)
    await eventually(lambda: not _alive(stuck))


async def test_no_service_outlives_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    program = f"""
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {str(_DUMMY.parent)!r})
from test_supervisor import _plan
from recommend_cli.stack.folder import RunFolder
from recommend_cli.stack.supervisor import Supervisor

async def main():
    folder = RunFolder(Path({str(tmp_path)!r}))
    with folder.locked():
        supervisor = Supervisor(_plan(Path({str(journal)!r})), folder, tell=print)
        await supervisor.start()
        await supervisor.run()

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    try:
        await eventually(lambda: _phase(tmp_path) == "ready", timeout_s=30)
    finally:
        process.kill()
        await process.wait()
    services = [pid for _, pid, _ in _noted(journal, "started")]
    assert len(services) == len(_NAMES)
    await eventually(lambda: not any(map(_alive, services)))

    with pytest.raises(CommandError, match="No stack runs"):
        running_stack(tmp_path)
    again = Supervisor(_plan(journal), RunFolder(tmp_path), tell=lambda _: None)
    with RunFolder(tmp_path).locked():
        await again.start()
        await again.stop()
    await eventually(lambda: not _grandchildren(journal))


async def test_leftovers_of_a_killed_stack_are_stopped_before_the_next_starts(tmp_path: Path) -> None:
    told = list[str]()
    folder = RunFolder(tmp_path)
    first = Supervisor(_plan(tmp_path / "journal"), folder, tell=told.append)
    with folder.locked():
        await first.start()
        for keeper in first._keepers:  # as if it were dead: nobody restarts, nobody stops
            keeper.cancel()
        second = Supervisor(_plan(tmp_path / "journal"), folder, tell=told.append)
        await second.start()
        assert told == ["Stopped 3 services that an earlier stack had left behind"]
        assert not any(_alive(service.pid) for service in first.state.services.values())
        await second.stop()


def test_one_data_folder_has_one_stack(tmp_path: Path) -> None:
    with RunFolder(tmp_path).locked():
        assert RunFolder(tmp_path).is_locked()
        with pytest.raises(CommandError, match="already runs"), RunFolder(tmp_path).locked():
            pass
    assert not RunFolder(tmp_path).is_locked()


def test_the_api_key_is_made_once_and_is_its_owners_secret(tmp_path: Path) -> None:
    key = RunFolder(tmp_path).api_key()
    assert len(key) >= 32
    assert RunFolder(tmp_path).api_key() == key
    assert stat.S_IMODE((tmp_path / "run" / "api_key").stat().st_mode) == 0o600


def test_a_stack_has_five_services_on_ports_of_their_own(tmp_path: Path) -> None:
    plan = plan_stack(open_stores(tmp_path), port=0, api_key="secret", auth=True)
    assert [service.name for service in plan.services][-1] == "hot_path_api"
    ports = [port for service in plan.services for port in (service.port, service.metrics_port)]
    ports.append(int({each.name: each for each in plan.services}["profile_store"].environment["AGENTDB_PORT"]))
    assert len(set(ports)) == 11
    assert all(map(is_free, ports))
    by_name = {service.name: service for service in plan.services}
    gateway = by_name["hot_path_api"].environment
    assert gateway["AGENTDB_ENDPOINT"] == by_name["profile_store"].endpoint
    assert gateway["API_KEY"] == "secret"
    assert "API_KEY" not in by_name["profile_store"].environment
    assert by_name["vector_search"].environment["OMP_NUM_THREADS"] == "1"


def test_a_taken_port_is_refused_with_a_hint(tmp_path: Path) -> None:
    server = subprocess.Popen([sys.executable, str(_DUMMY), str(port := free_ports(1)[0]), str(tmp_path / "j"), "x"])
    try:
        while not (tmp_path / "j").exists():
            assert server.poll() is None
        with pytest.raises(CommandError, match=f"Port {port} is taken"):
            plan_stack(open_stores(tmp_path), port=port, api_key="", auth=False)
    finally:
        for child in psutil.Process(server.pid).children():
            child.kill()
        server.kill()
        server.wait()
