"""A server can be started twice, stopped, killed, frozen and found again by its folder; shown on the quickest one."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from servers.__main__ import main
from servers.errors import ServerError
from servers.fleet import start_redis
from servers.redis_server import RedisServer
from servers.server import free_port
from servers.settings import ServersSettings

pytestmark = pytest.mark.integration

TESTS = Path(__file__).parents[2]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with start_redis(tmp_path / "redis") as server:
        yield server


def pid_of(server: RedisServer) -> int:
    process = server.process()
    assert process is not None
    return process.pid


def client_of(server: RedisServer) -> Redis:
    return Redis(port=server.port, socket_timeout=0.3, retry=Retry(NoBackoff(), 0))


def test_starting_again_changes_nothing(server: RedisServer) -> None:
    pid = pid_of(server)
    assert not server.start()
    assert not RedisServer(server.folder, server.port, ServersSettings()).start()
    assert pid_of(server) == pid


def test_another_object_on_the_folder_stops_it(server: RedisServer) -> None:
    assert RedisServer(server.folder, server.port, ServersSettings()).stop()
    assert not server.answers()
    assert not server.stop()


def test_a_killed_server_restarts_with_its_data(server: RedisServer) -> None:
    pid = pid_of(server)
    with client_of(server) as client:
        client.set("kept", "yes")
        server.kill()
        with pytest.raises(RedisConnectionError):
            client.get("kept")
        server.restart()
        assert client.get("kept") == b"yes"
    assert pid_of(server) != pid


def test_a_frozen_server_hangs_until_it_goes_on(server: RedisServer) -> None:
    with client_of(server) as client:
        server.pause()
        with pytest.raises(RedisTimeoutError):
            client.ping()
        server.resume()
        assert client.ping()


def test_a_frozen_server_can_be_stopped(server: RedisServer) -> None:
    server.pause()
    assert server.stop()
    assert server.process() is None


def test_a_server_that_is_down_cannot_be_killed(server: RedisServer) -> None:
    server.stop()
    with pytest.raises(ServerError, match=r"^redis is not running$"):
        server.kill()


def test_one_that_does_not_stop_in_its_grace_is_killed(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis", free_port(), ServersSettings(stop_grace_s=0.2))
    server.start()
    process = psutil.Process(pid_of(server))
    with client_of(server) as client:
        # While a script runs, Redis does not hear that it shall end.
        with pytest.raises(RedisTimeoutError):
            client.eval("while true do end", 0)
        assert server.stop()
    assert not process.is_running()


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"^redis: port {port} is taken by another process$"):
            start_redis(tmp_path / "redis", port)


def test_one_that_cannot_start_tells_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"redis ended while it started[\s\S]*no-such-option"):
        start_redis(tmp_path / "redis", arguments=["--no-such-option", "1"])


def test_one_that_never_answers_is_stopped_again(tmp_path: Path) -> None:
    arguments = ["--requirepass", "unknown to the probe"]
    server = RedisServer(tmp_path / "redis", free_port(), ServersSettings(start_wait_s=0.5), arguments)
    with pytest.raises(ServerError, match=r"^redis did not answer within 0 s"):
        server.start()
    assert server.process() is None


def test_a_pid_that_another_process_has_by_now_is_not_the_server(server: RedisServer) -> None:
    server.stop()
    (server.folder / "pid").write_text(f"{os.getpid()} 0.0")
    assert server.process() is None
    assert not server.stop()


@pytest.fixture
def redis_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Settings of a shared Redis that is this test's own; it is stopped at the end."""
    port = free_port()
    monkeypatch.setenv("SERVERS_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SERVERS_REDIS_PORT", str(port))
    yield port
    main(["down"])


def test_the_command_works_anywhere_and_says_what_it_found(redis_port: int, tmp_path: Path) -> None:
    environment = {name: os.environ[name] for name in ("PATH", "SERVERS_DATA_DIR", "SERVERS_REDIS_PORT")}
    command = [sys.executable, "-m", "servers", "up", "redis"]
    environment["PYTHONPATH"] = str(TESTS)

    def said() -> list[str]:
        return subprocess.check_output(command, env=environment, cwd=tmp_path, text=True, timeout=60).split()

    assert said()[:4] == ["redis", f"redis://127.0.0.1:{redis_port}", "up", "after"]
    assert said()[2:] == ["already", "up"]


@pytest.mark.usefixtures("redis_port")
def test_the_command_tells_by_its_code_how_a_server_is(capfd: pytest.CaptureFixture[str]) -> None:
    def said(*arguments: str) -> tuple[int, str]:
        code = main(arguments)
        return code, capfd.readouterr().out.split(maxsplit=2)[2]

    assert said("status", "redis") == (1, "down\n")
    assert said("start", "redis")[0] == 0
    assert said("status", "redis")[1].startswith("up, pid ")
    assert said("pause", "redis") == (0, "paused\n")
    assert said("status", "redis") == (1, "paused\n")
    assert said("continue", "redis") == (0, "goes on\n")
    assert said("kill", "redis") == (0, "killed\n")
    assert said("kill", "redis") == (1, "redis is not running\n")
    with pytest.raises(SystemExit, match="2"):
        main(["start", "nothing"])
    assert "there is no server nothing; there are kafka, " in capfd.readouterr().err
