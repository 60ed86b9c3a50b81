"""Where a stack keeps its data: in files of its data folder, or in the stores that a settings file names."""

import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

from recommend_cli.errors import CommandError

SERVERS_FILE: Final = Path(".cache/servers/stores.env")
"""What `make servers` writes."""

DEFAULT_DATA_DIR: Final = Path(".data")
DEFAULT_TENANT: Final = "default"
_NAMESPACE: Final = "NAMESPACE"
_LINE: Final = re.compile(r"(?P<name>[A-Z][A-Z0-9_]*)=(?P<value>.*)")
_ONE_PROCESS_UNLESS: Final = ("PROFILE_STORE_URL", "GRAPH_STORE_URL")


class StoreKind(Enum):
    """The choice that a person has on the command line."""

    EMBEDDED = "embedded"
    SERVERS = "servers"


@dataclass(frozen=True, slots=True)
class Stores:
    """The stores of one stack.

    Args:
        kind: Whether the stack is on embedded stores alone.
        file: The settings file; None for embedded stores.
        settings: What the file says, as the environment of the services, the stack's own name filled in.
        data_dir: Where the services keep the files that they need beside the stores.
    """

    kind: StoreKind
    file: Path | None
    settings: Mapping[str, str] = field(repr=False)  # with passwords
    data_dir: Path

    @property
    def tenant(self) -> str:
        """Whose data the gateway serves to callers with the stack's key."""
        return self.settings.get("TENANT") or DEFAULT_TENANT

    @property
    def event_log_url(self) -> str:
        """Where the event log is."""
        return self.settings.get("EVENT_LOG_URL") or f"sqlite:///{self.data_dir / 'log'}"

    @property
    def model_store_url(self) -> str:
        """Where the model versions are."""
        return self.settings.get("MODEL_STORE_URL") or f"file://{self.data_dir / 'models'}"

    def require_shared(self) -> None:
        """Refuse stores that only one process can have open.

        Raises:
            CommandError: Some are such.
        """
        missing = [name for name in _ONE_PROCESS_UNLESS if not self.settings.get(name)]
        if missing:
            raise CommandError(
                f"Several replicas need stores that they can share; not set: {', '.join(missing)}",
                hint="`--stores servers` after `make servers`, or a file for `--settings` that names them",
            )


def open_stores(data_dir: Path, kind: StoreKind = StoreKind.EMBEDDED, file: Path | None = None) -> Stores:
    """Give the stores of a data folder; `servers` without a file are those of `make servers`.

    Each data folder has a name of its own in shared stores, made up once and kept in the folder, unless the file
    says another: several stacks can use the same servers. That of the default folder is the default tenant's, so that
    its lists are those of embedded stores: keys, and with them samples and ties, are made of the tenant's name.

    Raises:
        CommandError: The settings file is not there or not understood.
    """
    data_dir = data_dir.resolve()
    if file is None and kind is StoreKind.EMBEDDED:
        return Stores(StoreKind.EMBEDDED, None, {}, data_dir)
    file = (file or SERVERS_FILE).resolve()
    settings = read_settings(file)
    own = data_dir / StoreKind.SERVERS.value
    namespace = settings.pop(_NAMESPACE, "") or _own_namespace(own, data_dir)
    filled = {name: value.replace(f"${{{_NAMESPACE}}}", namespace) for name, value in settings.items()}
    return Stores(StoreKind.SERVERS, file, filled, own)


def read_settings(file: Path) -> dict[str, str]:
    """Read lines of NAME=value; empty lines and those that begin with "#" say nothing.

    Raises:
        CommandError: The file cannot be read, or a line is something else.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        hint = "`make servers` starts the servers and writes it" if file == SERVERS_FILE.resolve() else ""
        raise CommandError(f"{file} cannot be read: {error.strerror}", hint=hint) from error
    settings = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise CommandError(f"{file}, line {number}, is not NAME=value")
        settings[match["name"]] = match["value"].strip()
    return settings


def _own_namespace(folder: Path, data_dir: Path) -> str:
    """Give the folder's name in shared stores; letters, digits and "_" alone, which every store takes."""
    path = folder / "namespace"
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError), path.open("x") as file:
        file.write(DEFAULT_TENANT if data_dir == DEFAULT_DATA_DIR.resolve() else f"stack_{secrets.token_hex(4)}")
    return path.read_text().strip()
