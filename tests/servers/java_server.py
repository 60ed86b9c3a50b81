"""What the servers on Java share: their jars and their virtual machine."""

import subprocess
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from servers.artifacts import jars
from servers.errors import ServerError
from servers.machine import java
from servers.server import Server

TOOL_S = 120.0
QUICK = "-XX:TieredStopAtLevel=1"  # only the compiler that is quick itself


class JavaServer(Server):
    """A server whose jars come from Maven by the pom of its name."""

    @property
    @abstractmethod
    def heap_mb(self) -> int:
        """Largest heap, in MiB."""

    @property
    def jars(self) -> Path:
        """The folder of its jars."""
        return jars(self.name, self.settings.cache_dir)

    def java(self, main: str, *arguments: str, options: Sequence[str] = (), classes: str = "") -> list[str]:
        """Give the command that runs a main class with a small heap that grows when it must."""
        if self.settings.quick_start:
            options = [QUICK, *options]
        memory = ["-Xms64m", f"-Xmx{self.heap_mb}m", "-Xss512k", "-XX:+UseSerialGC"]
        crash = [f"-XX:ErrorFile={self.folder}/crash-%p.log", f"-Djava.io.tmpdir={self._scratch}"]
        class_path = f"{classes}:{self.jars}/*" if classes else f"{self.jars}/*"
        return [java(self.settings.java), *memory, *crash, *options, "-cp", class_path, main, *arguments]

    def run_tool(self, main: str, *arguments: str, environment: dict[str, str] | None = None) -> None:
        """Run a program of the server's own to its end.

        Raises:
            ServerError: It failed or took too long.
        """
        command = self.java(main, *arguments, options=[QUICK])
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=TOOL_S, env=environment, cwd=self.folder
            )
        except subprocess.TimeoutExpired as error:
            raise ServerError(f"{main} took more than {TOOL_S:.0f} s") from error
        if done.returncode != 0:
            raise ServerError(f"{main} failed:\n{(done.stdout + done.stderr)[-2_000:]}")

    @property
    def _scratch(self) -> Path:
        folder = self.folder / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        return folder
