"""One server process on a folder and a port: started, stopped, killed, frozen, and found again by its pid file."""

import os
import random
import signal
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import psutil

from servers.artifacts import locked
from servers.errors import ServerError
from servers.settings import ServersSettings

HOST = "127.0.0.1"
POLL_S = 0.05
TAIL_LINES = 30
CLOCK_SLACK_S = 2.0  # the kernel's start times move a little when the clock is set
PRIVATE_PORTS = range(20_000, 32_000)  # below those that outgoing connections take: none can sit on a killed server's


def free_port() -> int:
    """Give a port that nobody listens on and no outgoing connection will take."""
    while True:
        port = random.choice(PRIVATE_PORTS)
        if not listening(port):
            return port


def listening(port: int) -> bool:
    """Tell whether somebody accepts connections on a port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0


class Server(ABC):
    """A server that keeps everything in one folder and listens on 127.0.0.1 only.

    Two objects on one folder are the same server: the pid lies in the folder. `start` returns when the server answers,
    `stop` and `kill` when its process is gone. As a context manager it stops at the end.

    Args:
        folder: Where data, configuration, log and pid are; made when it is missing.
        port: The port that clients use.
        settings: Memory, waits, and where the jars are.
    """

    name: ClassVar[str]

    def __init__(self, folder: Path, port: int, settings: ServersSettings) -> None:
        self.folder = folder.absolute()
        self.port = port
        self.settings = settings

    # --- what a server is ---

    @abstractmethod
    def prepare(self) -> None:
        """Write the configuration, and on the first start whatever has to be there before; called by `start`."""

    @abstractmethod
    def command(self) -> list[str]:
        """Give the program and its arguments."""

    @abstractmethod
    def probe(self) -> None:
        """Ask the server something through its real client; an exception means that it does not answer yet.

        The client is imported here and not above: every test run imports this module, and few ask a server.
        """

    def environment(self) -> Mapping[str, str]:
        """Give the environment of the process."""
        return os.environ

    # --- what can be done with it ---

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{HOST}:{self.port}"

    @property
    def log(self) -> Path:
        """What the process prints."""
        return self.folder / f"{self.name}.log"

    def start(self) -> bool:
        """Start the server and wait until it answers; False when it was up already.

        Raises:
            ServerError: Something is missing, the port is taken, the process ended, or it did not answer in time.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / "lock"):
            if running := self.process() is not None:
                if self.answers():
                    return False
            elif listening(self.port):
                raise ServerError(f"{self.name}: port {self.port} is taken by another process")
            if running:
                self._wait_until_it_answers()
                return False
            self.prepare()
            self._spawn()
            try:
                self._wait_until_it_answers()
            except ServerError:
                self.stop()
                raise
            return True

    def stop(self) -> bool:
        """End the process, by force when it takes longer than its grace; False when it was not running."""
        process = self.process()
        if process is None:
            return False
        process.send_signal(signal.SIGCONT)  # a frozen process would not hear that it shall end
        process.terminate()
        if not self._gone(process, within_s=self.settings.stop_grace_s):
            process.kill()
            self._gone(process, within_s=self.settings.stop_grace_s)
        self._pid_file.unlink(missing_ok=True)
        return True

    def kill(self) -> None:
        """End the process at once, as a crash would (`kill -9`)."""
        process = self._must_run()
        process.kill()
        self._gone(process, within_s=self.settings.stop_grace_s)
        self._pid_file.unlink(missing_ok=True)

    def restart(self) -> None:
        """Stop it if it runs, and start it on the same folder and port."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the process (SIGSTOP): connections stay open, nothing answers."""
        process = self._must_run()
        process.suspend()
        while process.status() != psutil.STATUS_STOPPED:
            time.sleep(POLL_S)

    def resume(self) -> None:
        """Let a frozen process go on (SIGCONT)."""
        self._must_run().resume()

    def answers(self) -> bool:
        """Tell whether the server answers its real client."""
        if not listening(self.port):
            return False
        try:
            self.probe()
        except (ImportError, Warning):
            raise  # says nothing about the server
        except Exception:  # noqa: BLE001 - each driver has its own ways to say no
            return False
        return True

    def process(self) -> psutil.Process | None:
        """Give the running process, if there is one; a pid that another process has by now is none."""
        try:
            pid, started = self._pid_file.read_text().split()
            process = psutil.Process(int(pid))
            if abs(process.create_time() - float(started)) > CLOCK_SLACK_S:
                return None
            if process.status() == psutil.STATUS_ZOMBIE:
                self._gone(process, within_s=0)
                return None
        except (FileNotFoundError, psutil.NoSuchProcess):
            return None
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- how ---

    @property
    def _pid_file(self) -> Path:
        return self.folder / "pid"

    def _must_run(self) -> psutil.Process:
        process = self.process()
        if process is None:
            raise ServerError(f"{self.name} is not running")
        return process

    def _spawn(self) -> None:
        program, *arguments = self.command()
        pid = os.posix_spawnp(  # and not Popen, whose object would have to live as long as the process
            program,
            [program, *arguments],
            self.environment(),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,  # Ctrl-C at the terminal is not meant for it
        )
        self._pid_file.write_text(f"{pid} {psutil.Process(pid).create_time()}")

    def _wait_until_it_answers(self) -> None:
        patience = time.monotonic() + self.settings.start_wait_s
        while not self.answers():
            if self.process() is None:
                raise ServerError(f"{self.name} ended while it started; the end of {self.log}:\n{self._tail()}")
            if time.monotonic() > patience:
                raise ServerError(
                    f"{self.name} did not answer within {self.settings.start_wait_s:.0f} s; "
                    f"the end of {self.log}:\n{self._tail()}"
                )
            time.sleep(POLL_S)

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])

    def _gone(self, process: psutil.Process, *, within_s: float) -> bool:
        """Wait until the process has ended; should it be a child of ours, its exit status is taken."""
        try:
            process.wait(within_s)
        except psutil.TimeoutExpired:
            return False
        return True
