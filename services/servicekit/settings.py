"""Settings from environment variables: typed, frozen, and told in one line each when they are wrong."""

import sys
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

BAD_SETTINGS_EXIT_CODE = 2


def _embedded_log(validated: dict[str, Any]) -> str:
    return f"sqlite:///{validated['data_dir'].absolute() / 'log'}"


class ServiceSettings(BaseSettings):
    """What every service can be told; each service adds its own fields in a subclass.

    A field's environment variable is its name in capitals. An empty variable counts as absent, so that a deployment
    may pass on what it does not set.
    """

    model_config = SettingsConfigDict(
        frozen=True, extra="ignore", env_ignore_empty=True, use_attribute_docstrings=True, populate_by_name=True
    )

    host: str = "127.0.0.1"
    """Address that the service listens on."""
    grpc_port: int = Field(default=0, ge=0, le=65535)
    """Port of the gRPC server; 0 takes a free one."""
    metrics_port: int = Field(default=9090, ge=0, le=65535)
    """Port of the Prometheus metrics; 0 serves none."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Lowest level that is logged."""
    log_format: Literal["console", "json"] = "json"
    """Lines for machines or for a terminal."""
    data_dir: Path = Path(".data")
    """Folder below which the embedded stores keep their files."""
    event_log_url: str = Field(default_factory=_embedded_log)
    """Where the event log is: `sqlite:///FOLDER`; without it the folder `log` in the data folder."""
    store_wait_s: float = Field(default=30.0, ge=0.0)
    """Seconds that a start waits for a store that cannot be reached, before it gives up."""
    shutdown_grace_s: float = Field(default=10.0, ge=0.0)
    """Seconds that calls in flight may take to finish when the service stops."""


S = TypeVar("S", bound=BaseSettings)


def load_settings(kind: type[S]) -> S:
    """Read the settings, or end the process with code 2 and one line per bad value on standard error."""
    try:
        return kind()
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            name = "_".join(str(part) for part in problem["loc"]).upper()
            if problem["type"] == "default_factory_not_called":
                continue  # a default that is made of another value, which has a line of its own
            if problem["type"] == "missing":
                sys.stderr.write(f"{name} is not set, and there is no default\n")
            else:
                sys.stderr.write(f"{name} is {problem['input']!r}: {problem['msg']}\n")
        raise SystemExit(BAD_SETTINGS_EXIT_CODE) from error
