"""Settings come from the environment, typed and frozen, and say what is wrong."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest
from pydantic import Field, SecretStr, ValidationError

from servicekit.settings import BAD_SETTINGS_EXIT_CODE, ServiceSettings, load_settings

NAMES = (
    "HOST",
    "GRPC_PORT",
    "METRICS_PORT",
    "LOG_LEVEL",
    "LOG_FORMAT",
    "DATA_DIR",
    "EVENT_LOG_URL",
    "SHUTDOWN_GRACE_S",
    "ROUNDS",
    "TARGET",
)


class ExampleSettings(ServiceSettings):
    """Settings of a service that does not exist."""

    grpc_port: int = 50059
    rounds: int = Field(default=3, gt=0)
    """How often it goes round."""


class DemandingSettings(ServiceSettings):
    """Settings that cannot all be guessed."""

    target: str


class StoreSettings(ServiceSettings):
    """Settings of a service with a store outside."""

    secrets_of: ClassVar[Mapping[str, str]] = {"store_password": "store_url"}

    store_url: str = ""
    store_password: SecretStr = SecretStr("")


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_defaults_are_enough() -> None:
    settings = load_settings(ExampleSettings)

    assert (settings.host, settings.grpc_port, settings.metrics_port) == ("127.0.0.1", 50059, 9090)
    assert settings.event_log_url == f"sqlite:///{Path.cwd()}/.data/log"


def test_the_environment_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPC_PORT", "1234")
    monkeypatch.setenv("ROUNDS", "7")
    monkeypatch.setenv("DATA_DIR", "/some/where")
    monkeypatch.setenv("UNKNOWN_SETTING", "ignored")

    settings = load_settings(ExampleSettings)

    assert (settings.grpc_port, settings.rounds, settings.data_dir) == (1234, 7, Path("/some/where"))
    assert settings.event_log_url == "sqlite:////some/where/log"


def test_a_given_log_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENT_LOG_URL", "memory://")

    assert load_settings(ExampleSettings).event_log_url == "memory://"


def test_an_empty_variable_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDS", "")
    monkeypatch.setenv("EVENT_LOG_URL", "")

    settings = load_settings(ExampleSettings)

    assert settings.rounds == 3
    assert settings.event_log_url.endswith("/.data/log")


def test_they_are_frozen() -> None:
    settings = load_settings(ExampleSettings)

    with pytest.raises(ValidationError, match="frozen"):
        settings.rounds = 4


def test_bad_values_end_the_process_with_a_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROUNDS", "0")
    monkeypatch.setenv("GRPC_PORT", "many")

    with pytest.raises(SystemExit) as ended:
        load_settings(ExampleSettings)

    lines = capsys.readouterr().err.splitlines()
    assert ended.value.code == BAD_SETTINGS_EXIT_CODE
    assert len(lines) == 2
    assert lines[0].startswith("GRPC_PORT")
    assert "'many'" in lines[0]
    assert lines[1].startswith("ROUNDS")
    assert "greater than 0" in lines[1]


def test_a_missing_value_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_settings(DemandingSettings)

    assert capsys.readouterr().err == "TARGET is not set, and there is no default\n"


@pytest.mark.parametrize(
    "password", ["example-password", "Example-Other", "changeme", "neo4j", "cassandra", "password"]
)
def test_production_refuses_secrets_that_everybody_has_read(
    password: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STORE_PASSWORD", password)
    assert load_settings(StoreSettings).store_password.get_secret_value() == password
    monkeypatch.setenv("ENVIRONMENT", "production")
    with pytest.raises(SystemExit):
        load_settings(StoreSettings)
    told = capsys.readouterr().err
    assert "STORE_PASSWORD is the value of an example" in told
    assert password not in told


def test_production_wants_the_secret_of_a_store_that_is_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    load_settings(StoreSettings)
    monkeypatch.setenv("STORE_URL", "bolt://graph:7687")
    with pytest.raises(SystemExit):
        load_settings(StoreSettings)
    assert "STORE_PASSWORD is empty" in capsys.readouterr().err
    monkeypatch.setenv("STORE_PASSWORD", "x9-its-own")
    assert load_settings(StoreSettings).store_url == "bolt://graph:7687"
