"""What a stack leaves in DATA_DIR/run: its lock, its state, its API key and its logs."""

import fcntl
import json
import os
import secrets
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Literal

from recommend_cli.errors import CommandError
from recommend_cli.stack.stores import DEFAULT_DATA_DIR, DEFAULT_TENANT, StoreKind, Stores, open_stores

LOG_TAIL_LINES: Final = 15
_LOG_LINE_LENGTH: Final = 2_000
_LOG_BYTES_KEPT: Final = 10 * 1024 * 1024

Phase = Literal["starting", "ready", "stopping"]
Protocol = Literal["grpc", "http"]


@dataclass(frozen=True, slots=True)
class ServiceState:
    """One process and where it listens; `service` is what runs in it."""

    service: str
    pid: int
    started_at: float
    endpoint: str
    protocol: Protocol
    metrics_port: int
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class StackState:
    """A stack as other commands see it. `started_at` are psutil's creation times, which tell a reused pid.

    `urls` are those of the gateways, `settings_file` names the stores, empty for embedded ones; `tenant` is whose API
    key `up` prints; `services` are the processes by name, which for one replica is the service's.
    """

    supervisor_pid: int
    supervisor_started_at: float
    phase: Phase
    urls: tuple[str, ...]
    auth: bool
    settings_file: str = ""
    tenant: str = DEFAULT_TENANT
    services: dict[str, ServiceState] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The first gateway's address."""
        return self.urls[0]

    @property
    def stores(self) -> StoreKind:
        """What the stack keeps its data in."""
        return StoreKind.SERVERS if self.settings_file else StoreKind.EMBEDDED

    def replicas(self, service: str) -> list[ServiceState]:
        """Give a service's processes."""
        return [each for each in self.services.values() if each.service == service]


class RunFolder:
    """The folder DATA_DIR/run of one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.resolve()
        self.path = self.data_dir / "run"
        self.logs = self.path / "logs"
        self._state = self.path / "stack.json"
        self._lock = self.path / "lock"
        self._api_key = self.path / "api_key"

    def create(self) -> None:
        """Make the folders.

        Raises:
            CommandError: They cannot be made.
        """
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise CommandError(f"{self.logs} cannot be made: {exc.strerror}") from exc

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the data directory: one stack at a time. The lock goes with the process that holds it.

        Raises:
            CommandError: Another stack holds it.
        """
        self.create()
        with self._lock.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                raise self.already_locked() from exc
            yield

    def is_locked(self) -> bool:
        """Tell whether a stack holds the data directory now."""
        try:
            lock = self._lock.open("a")
        except FileNotFoundError:
            return False
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def already_locked(self) -> CommandError:
        """Give the error to raise when a stack runs and must not."""
        return CommandError(
            f"A stack already runs on {self.data_dir}",
            hint=f"`recommend status{option_of(self.data_dir)}` shows it, {how_to_stop(self.data_dir)}; "
            "another folder: `--data-dir DIR`",
        )

    def api_key(self) -> str:
        """Give the data directory's API key, made at the first call and readable by its owner only."""
        self.create()
        with suppress(FileExistsError):
            descriptor = os.open(self._api_key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(24))
        return self._api_key.read_text().strip()

    def write_state(self, state: StackState) -> None:
        """Replace stack.json in one step."""
        scratch = self._state.with_suffix(".tmp")
        scratch.write_text(json.dumps(asdict(state), indent=2) + "\n")
        scratch.replace(self._state)

    def read_state(self) -> StackState | None:
        """Give the state last written, whether or not that stack still runs."""
        try:
            state = json.loads(self._state.read_text())
        except FileNotFoundError:
            return None
        services = {name: ServiceState(**service) for name, service in state.pop("services").items()}
        return StackState(**state | {"urls": tuple(state["urls"])}, services=services)

    def remove_state(self) -> None:
        """Forget the stack, when it has stopped."""
        self._state.unlink(missing_ok=True)

    def log_path(self, name: str) -> Path:
        """Give the log of a service or of the supervisor."""
        return self.logs / f"{name}.log"

    def rotate_log(self, name: str) -> int:
        """Put a large log aside, keeping one; called before the process that writes it starts. Give where it starts."""
        path = self.log_path(name)
        size = path.stat().st_size if path.exists() else 0
        if size > _LOG_BYTES_KEPT:
            path.replace(path.with_suffix(".log.1"))
            return 0
        return size

    def plain_lines(self, name: str, start: int) -> list[str]:
        """Give what a log holds from that byte on for people: the lines that are no JSON."""
        with self.log_path(name).open("rb") as log:
            log.seek(start)
            lines = log.read().decode(errors="replace").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.startswith("{")]

    def log_tail(self, name: str) -> str:
        """Give the last lines of a log, for people."""
        try:
            lines = self.log_path(name).read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return "\n".join(line[:_LOG_LINE_LENGTH] for line in lines[-LOG_TAIL_LINES:])


def running_stack(data_dir: Path) -> StackState:
    """Give the stack that serves this data directory now.

    Raises:
        CommandError: None does, or it is not ready.
    """
    folder = RunFolder(data_dir)
    state = folder.read_state() if folder.is_locked() else None
    if state is None:
        raise CommandError(f"No stack runs on {folder.data_dir}", hint=how_to_start(data_dir))
    if state.phase != "ready":
        raise CommandError(f"The stack on {folder.data_dir} is {state.phase}", hint="try again in a moment")
    return state


def option_of(data_dir: Path) -> str:
    """Give what a command shown in a hint needs to be about this data folder: nothing for the default one."""
    return "" if data_dir.resolve() == DEFAULT_DATA_DIR.resolve() else f" --data-dir {shlex.quote(str(data_dir))}"


def how_to_stop(data_dir: Path) -> str:
    """Give the hint for whoever leaves a stack running."""
    return f"`recommend down{option_of(data_dir)}` stops it"


def how_to_start(data_dir: Path) -> str:
    """Give the hint for whoever asks a stack that does not run."""
    return f"start one: `recommend up --data-dir {shlex.quote(str(data_dir))}`"


def stores_of(
    data_dir: Path, kind: StoreKind = StoreKind.EMBEDDED, settings_file: Path | None = None
) -> Stores:  # fmt: skip
    """Give the stores of the stack that runs on a data folder; if none does, those that the options name."""
    folder = RunFolder(data_dir)
    state = folder.read_state() if folder.is_locked() else None
    if state is None:
        return open_stores(data_dir, kind, settings_file)
    return open_stores(data_dir, state.stores, Path(state.settings_file) if state.settings_file else None)
