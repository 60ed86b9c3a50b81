"""Settings of the test servers come from the environment and reach the servers."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from servers.fleet import fleet
from servers.kafka_server import KafkaServer
from servers.settings import ServersSettings


def test_ports_folders_and_memory_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVERS_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("SERVERS_KAFKA_PORT", "20001")
    monkeypatch.setenv("SERVERS_KAFKA_HEAP_MB", "256")
    monkeypatch.setenv("SERVERS_REDIS_PORT", "")
    servers = fleet(ServersSettings())
    kafka = servers["kafka"]
    assert isinstance(kafka, KafkaServer)
    assert (kafka.folder, kafka.address, kafka.heap_mb) == (tmp_path / "kafka", "127.0.0.1:20001", 256)
    assert servers["redis"].address == "redis://127.0.0.1:16379"


def test_every_field_says_what_it_is_and_no_two_ports_are_one() -> None:
    fields = ServersSettings.model_fields
    assert [name for name, field in fields.items() if not field.description] == []
    ports = [field.default for name, field in fields.items() if name.endswith("_port")]
    assert len(set(ports)) == len(ports)


def test_a_port_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVERS_KAFKA_PORT", "70000")
    with pytest.raises(ValidationError, match="kafka_port"):
        ServersSettings()
