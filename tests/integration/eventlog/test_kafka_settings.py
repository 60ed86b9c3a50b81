"""What the settings say of Kafka is what the cluster gets: certificates shown and checked, topics kept as told."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from servers.addresses import Addresses
from servers.certificates import write_certificate
from servers.kafka_server import KafkaServer
from servers.server import HOST, free_port
from servers.settings import ServersSettings

from servicekit.errors import StartupError
from servicekit.eventlog.kafka.log import KafkaEventLog
from servicekit.eventlog.kafka.options import KafkaOptions
from servicekit.eventlog.port import NewRecord, Record, TopicSpec
from servicekit.testing import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

DAY_MS = 24 * 3600 * 1000


class TlsKafkaServer(KafkaServer):
    """A broker that speaks TLS on a second port, and lets in only who shows its own certificate."""

    def __init__(self, folder: Path, certificate: Path) -> None:
        super().__init__(folder, free_port(), free_port(), ServersSettings())
        self.certificate = certificate
        self.tls_address = f"{HOST}:{free_port()}"

    def _configuration(self) -> str:
        lines = dict(line.split("=", 1) for line in super()._configuration().splitlines() if "=" in line)
        lines["listeners"] += f",SSL://{self.tls_address}"
        lines["advertised.listeners"] += f",SSL://{self.tls_address}"
        lines["listener.security.protocol.map"] += ",SSL:SSL"
        for store in ("keystore", "truststore"):
            lines |= {f"ssl.{store}.type": "PEM", f"ssl.{store}.location": str(self.certificate)}
        lines["ssl.client.auth"] = "required"
        return "".join(f"{name}={value}\n" for name, value in lines.items())


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def tls_broker(tmp_path_factory: pytest.TempPathFactory, certificate: Path) -> Iterator[TlsKafkaServer]:
    with TlsKafkaServer(tmp_path_factory.mktemp("kafka"), certificate) as server:
        server.start()
        yield server


async def test_certificates_are_shown_and_checked(
    tls_broker: TlsKafkaServer, certificate: Path, unique_name: str
) -> None:
    options = KafkaOptions(
        security_protocol="SSL", ssl_cafile=str(certificate), ssl_certfile=str(certificate), wait_s=0.5
    )
    log = KafkaEventLog([tls_broker.tls_address], options)
    await log.ensure_topics([TopicSpec(unique_name, 1)])
    await log.producer().append([NewRecord(unique_name, "a", b"1")])
    (record,) = await log.consumer([unique_name], group=unique_name).poll(max_records=9, timeout_s=10)
    assert record.value == b"1"
    await log.close()


async def test_a_broker_that_nobody_vouches_for_is_not_talked_to(
    tls_broker: TlsKafkaServer, certificate: Path, tmp_path: Path, unique_name: str
) -> None:
    other = write_certificate(tmp_path)
    options = KafkaOptions(security_protocol="SSL", ssl_cafile=str(other), ssl_certfile=str(certificate), wait_s=0.5)
    log = KafkaEventLog([tls_broker.tls_address], options)
    with pytest.raises(StartupError, match="KAFKA_SSL_CAFILE"):
        await log.ensure_topics([TopicSpec(unique_name, 1)])
    await log.close()


def kept(server: str, topic: str) -> dict[str, str]:
    """Give how a cluster keeps a topic."""
    names = ["cleanup.policy", "retention.ms", "min.insync.replicas", "max.message.bytes", "message.timestamp.type"]
    admin = KafkaAdminClient(bootstrap_servers=server)
    asked = [ConfigResource(ConfigResourceType.TOPIC, topic, names)]
    said = admin.describe_configs(asked, config_filter="all")["topic"][topic]
    admin.close()
    return {name: said[name]["value"] for name in names}


async def test_topics_are_kept_as_told_and_follow_when_told_otherwise(servers: Addresses, unique_name: str) -> None:
    log = KafkaEventLog([servers.kafka], KafkaOptions(replication_factor=1, min_insync_replicas=1))
    spec = TopicSpec(unique_name, 3, retention_ms=DAY_MS)
    await log.ensure_topics([spec])
    assert kept(servers.kafka, unique_name) == {
        "cleanup.policy": "delete",
        "retention.ms": str(DAY_MS),
        "min.insync.replicas": "1",
        "max.message.bytes": str((1 << 20) + (128 << 10)),
        "message.timestamp.type": "CreateTime",
    }
    await log.ensure_topics([replace(spec, retention_ms=None, compacted=True)])
    now = kept(servers.kafka, unique_name)
    assert (now["cleanup.policy"], now["retention.ms"]) == ("compact", "-1")
    await log.ensure_topics([replace(spec, retention_ms=2 * DAY_MS, compacted=True)])
    now = kept(servers.kafka, unique_name)
    assert (now["cleanup.policy"], now["retention.ms"]) == ("compact,delete", str(2 * DAY_MS))
    await log.close()


async def test_more_copies_than_brokers_stop_the_start_with_what_to_do(servers: Addresses, unique_name: str) -> None:
    log = KafkaEventLog([servers.kafka], KafkaOptions(replication_factor=3))
    with pytest.raises(StartupError, match="KAFKA_") as refusal:
        await log.ensure_topics([TopicSpec(unique_name, 1)])
    assert "eplication" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    await log.close()


async def test_compaction_keeps_the_last_of_each_key_of_what_is_no_longer_written_to(
    servers: Addresses, unique_name: str
) -> None:
    log = KafkaEventLog([servers.kafka])
    await log.ensure_topics([TopicSpec(unique_name, 1, compacted=True)])
    producer = log.producer()
    old_ms = 1_600_000_000_000
    old = [NewRecord(unique_name, f"key{n % 3}", str(n).encode(), timestamp_ms=old_ms) for n in range(30)]
    await producer.append(old)
    await producer.append([NewRecord(unique_name, "later", b"x", timestamp_ms=old_ms + 2 * DAY_MS)])

    async def compacted() -> bool:
        consumer = log.consumer([unique_name], group=None)
        found: list[Record] = []
        while records := await consumer.poll(max_records=100, timeout_s=0):
            found += records
        await consumer.close()
        return [record.value for record in found] == [b"27", b"28", b"29", b"x"]

    await eventually(compacted, timeout_s=60, interval_s=0.5)
    await log.close()
