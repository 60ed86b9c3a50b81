"""What a service is told of Kafka goes together, or the start says what does not."""

import ssl
from dataclasses import replace
from pathlib import Path

import pytest

from servicekit.errors import StartupError
from servicekit.eventlog.kafka.log import KafkaEventLog
from servicekit.eventlog.kafka.options import KafkaOptions, parse_servers
from servicekit.eventlog.open import event_log_of, kafka_options_of, open_event_log, topics_of
from servicekit.eventlog.topics import USER_INTERACTIONS, dlq
from servicekit.settings import ServiceSettings

LOGIN = KafkaOptions(security_protocol="SASL_SSL", sasl_mechanism="SCRAM-SHA-512", username="engine", password="secret")  # noqa: S106 - nobody's


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("kafka://one:9092", ("one:9092",)),
        ("kafka://one:9092,two:9093", ("one:9092", "two:9093")),
        ("kafka://[::1]:9092", ("[::1]:9092",)),
        ("kafka://one", ()),
        ("kafka://", ()),
        ("kafka://one:0", ()),
        ("kafka://one:70000", ()),
        ("kafka://one:9092,two", ()),
        ("kafka://user:password@one:9092", ()),
        ("kafka://one:9092/topic", ()),
        ("sqlite:///one", ()),
    ],
)
def test_an_address_is_hosts_and_ports(url: str, servers: tuple[str, ...]) -> None:
    assert parse_servers(url) == servers


def test_what_goes_together_passes() -> None:
    for options in (
        KafkaOptions(),
        KafkaOptions(replication_factor=3, min_insync_replicas=2),
        KafkaOptions(security_protocol="SSL"),
        LOGIN,
    ):
        options.check()


def test_a_file_that_holds_no_certificate_is_told(tmp_path: Path) -> None:
    empty = tmp_path / "ca.pem"
    empty.touch()
    with pytest.raises(StartupError, match="KAFKA_SSL_CAFILE"):
        KafkaOptions(security_protocol="SSL", ssl_cafile=str(empty)).check()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (replace(LOGIN, security_protocol="TLS"), "KAFKA_SECURITY_PROTOCOL"),
        (replace(LOGIN, sasl_mechanism=""), "KAFKA_SASL_MECHANISM"),
        (replace(LOGIN, username=""), "KAFKA_USERNAME"),
        (replace(LOGIN, password=""), "KAFKA_PASSWORD"),
        (replace(LOGIN, security_protocol="SSL"), "KAFKA_SECURITY_PROTOCOL"),
        (KafkaOptions(security_protocol="SSL", ssl_cafile="/no/such.pem"), "KAFKA_SSL_CAFILE"),
        (KafkaOptions(replication_factor=1, min_insync_replicas=2), "KAFKA_MIN_INSYNC_REPLICAS"),
    ],
)
def test_what_does_not_go_together_is_told_in_one_line(options: KafkaOptions, told: str) -> None:
    with pytest.raises(StartupError, match=told) as refusal:
        open_event_log("kafka://127.0.0.1:1", kafka=options)
    assert "\n" not in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(LOGIN)


def test_the_driver_is_told_the_login_only_where_there_is_one() -> None:
    assert KafkaOptions().client() == {"security_protocol": "PLAINTEXT"}
    told = LOGIN.client()
    assert "secret" in told.values()
    assert told["ssl_context"].verify_mode is ssl.CERT_REQUIRED


async def test_the_settings_reach_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "EVENT_LOG_URL": "kafka://127.0.0.1:1",
        "EVENT_LOG_PARTITIONS": "7",
        "EVENT_LOG_RETENTION_DAYS": "2",
        "EVENT_LOG_DLQ_RETENTION_DAYS": "3",
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        "KAFKA_USERNAME": "engine",
        "KAFKA_PASSWORD": "secret",
        "KAFKA_REPLICATION_FACTOR": "3",
        "KAFKA_MIN_INSYNC_REPLICAS": "2",
        "KAFKA_CLIENT_RACK": "a",
        "STORE_WAIT_S": "5",
    }.items():
        monkeypatch.setenv(name, value)
    settings = ServiceSettings()
    assert kafka_options_of(settings) == replace(
        LOGIN, replication_factor=3, min_insync_replicas=2, client_rack="a", wait_s=5.0
    )
    specs = {spec.name: spec for spec in topics_of(settings)}
    assert (specs[USER_INTERACTIONS].partitions, specs[USER_INTERACTIONS].retention_ms) == (7, 2 * 86_400_000)
    assert specs[dlq(USER_INTERACTIONS)].retention_ms == 3 * 86_400_000
    log = event_log_of(settings)
    assert isinstance(log, KafkaEventLog)
    await log.close()
